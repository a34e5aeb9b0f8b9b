"""Greets: sets `x-greeting` on requests and responses.

Configuration: `greeting`, the value of the field (`hello` if absent).
"""

from wit_world import exports
from wit_world.imports import configuration, request, response
from wit_world.imports.actions import Action, Action_Continue


def greeting() -> str:
    return configuration.get("greeting") or "hello"


class RequestHeaders(exports.RequestHeaders):
    def on_request_headers(self) -> Action:
        request.set_header("x-greeting", greeting())
        return Action_Continue()


class ResponseHeaders(exports.ResponseHeaders):
    def on_response_headers(self) -> Action:
        response.set_header("x-greeting", greeting())
        return Action_Continue()
