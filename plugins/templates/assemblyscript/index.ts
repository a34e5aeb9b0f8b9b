// Greets: sets `x-greeting` on requests and responses.
//
// Configuration: `greeting`, the value of the field (`hello` if absent).

import { Action, config, request, response } from "./sluice";
export { cabi_realloc, resetHeap as afterRequestHeaders, resetHeap as afterResponseHeaders } from "./sluice";

export function onRequestHeaders(): usize {
  assert(request.setHeader("x-greeting", greeting()));
  return Action.next();
}

export function onResponseHeaders(): usize {
  assert(response.setHeader("x-greeting", greeting()));
  return Action.next();
}

function greeting(): string {
  const told = config.get("greeting");
  return told === null ? "hello" : told;
}
