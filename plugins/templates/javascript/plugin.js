// Greets: sets `x-greeting` on requests and responses.
//
// Configuration: `greeting`, the value of the field (`hello` if absent).

import { get } from "sluice:plugin/configuration@1.1.0";
import { setHeader as setRequestHeader } from "sluice:plugin/request@1.1.0";
import { setHeader as setResponseHeader } from "sluice:plugin/response@1.1.0";

const greeting = () => get("greeting") ?? "hello";

export const requestHeaders = {
  onRequestHeaders() {
    setRequestHeader("x-greeting", greeting());
    return { tag: "continue" };
  },
};

export const responseHeaders = {
  onResponseHeaders() {
    setResponseHeader("x-greeting", greeting());
    return { tag: "continue" };
  },
};
