// Adds the gateway's region to requests and responses, and turns away what was marked as blocked: the same job as
// add-region-rust, with the same configuration (`region`, `block_header`).

import { Action, config, request, response } from "./sluice";
export { cabi_realloc, resetHeap as afterRequestHeaders, resetHeap as afterResponseHeaders } from "./sluice";

export function onRequestHeaders(): usize {
  const blockHeader = config.get("block_header");
  // Every value: a client that sends the field twice must not get through with the first.
  const values = request.headerValues(blockHeader === null ? "x-blocked" : blockHeader);
  for (let i = 0; i < values.length; i++) {
    if (values[i] == "yes") return Action.refuse("this request is marked as blocked");
  }
  assert(request.setHeader("x-region", region()));
  return Action.next();
}

export function onResponseHeaders(): usize {
  assert(response.setHeader("x-region", region()));
  return Action.next();
}

function region(): string {
  const told = config.get("region");
  return told === null ? "unknown" : told;
}
