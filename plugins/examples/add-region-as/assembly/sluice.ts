// The contract in `wit/`, bound by hand: the canonical ABI of the component model for the functions this plugin uses.
//
// A text is a pointer and a length of UTF-8. A result that does not fit in one number is written to a place that the
// caller names. Copy this file into a plugin of your own and add what you need.
//
// Memory comes from AssemblyScript's `stub` runtime: a pointer that only moves forward. After each phase the gateway calls
// the post-return function, which puts it back to the start; hence keep nothing in module-level variables but numbers and
// literals.

// @ts-ignore: decorators of AssemblyScript
@external("sluice:plugin/configuration@1.1.0", "get")
declare function configurationGet(key: usize, keyBytes: usize, result: usize): void;
// @ts-ignore
@external("sluice:plugin/request@1.1.0", "header-values")
declare function requestHeaderValues(name: usize, nameBytes: usize, result: usize): void;
// @ts-ignore
@external("sluice:plugin/request@1.1.0", "set-header")
declare function requestSetHeader(name: usize, nameBytes: usize, value: usize, valueBytes: usize, result: usize): void;
// @ts-ignore
@external("sluice:plugin/response@1.1.0", "set-header")
declare function responseSetHeader(name: usize, nameBytes: usize, value: usize, valueBytes: usize, result: usize): void;
// @ts-ignore
@external("sluice:plugin/log@1.1.0", "write")
declare function logWrite(level: i32, message: usize, messageBytes: usize): void;

const LEVEL_ERROR: i32 = 3;

/** Where a host function writes a result that does not fit in one number. */
const RESULT: usize = memory.data(16, 4);
/** Where a phase leaves its decision: `variant action`, 28 bytes. */
const ACTION: usize = memory.data(28, 4);

/** The gateway asks for room for what it hands over. */
export function cabi_realloc(old: usize, oldBytes: usize, align: usize, bytes: usize): usize {
  // The runtime aligns to 16, which is more than any type of the contract asks for.
  const block = heap.alloc(bytes);
  if (oldBytes > 0) memory.copy(block, old, min(oldBytes, bytes));
  return block;
}

/** Called by the gateway when it has read a phase's decision. */
export function resetHeap(_decision: usize): void {
  heap.reset();
}

/** In the place of the runtime's own, which would import it from JavaScript. */
export function abort(message: string | null, _file: string | null, line: u32, _column: u32): void {
  const text = utf8((message === null ? "aborted" : message) + " in line " + line.toString());
  logWrite(LEVEL_ERROR, changetype<usize>(text), text.byteLength);
  unreachable();
}

export namespace config {
  /** One value as text: a member's name or a JSON Pointer. */
  export function get(key: string): string | null {
    const text = utf8(key);
    configurationGet(changetype<usize>(text), text.byteLength, RESULT);
    return optionalText(RESULT);
  }
}

export namespace request {
  /** Every value of a header field, in order. */
  export function headerValues(name: string): string[] {
    const text = utf8(name);
    requestHeaderValues(changetype<usize>(text), text.byteLength, RESULT);
    const first = load<usize>(RESULT);
    const count = load<i32>(RESULT, 4);
    const values = new Array<string>(count);
    for (let i = 0; i < count; i++) {
      const at = first + i * 8;
      values[i] = String.UTF8.decodeUnsafe(load<usize>(at), load<usize>(at, 4));
    }
    return values;
  }

  /** Puts one value in the place of all values of a field; false if that cannot be. */
  export function setHeader(name: string, value: string): bool {
    const n = utf8(name);
    const v = utf8(value);
    requestSetHeader(changetype<usize>(n), n.byteLength, changetype<usize>(v), v.byteLength, RESULT);
    return load<u8>(RESULT) == 0;
  }
}

export namespace response {
  /** Puts one value in the place of all values of a field; false if that cannot be. */
  export function setHeader(name: string, value: string): bool {
    const n = utf8(name);
    const v = utf8(value);
    responseSetHeader(changetype<usize>(n), n.byteLength, changetype<usize>(v), v.byteLength, RESULT);
    return load<u8>(RESULT) == 0;
  }
}

/** What a phase returns: the address of a `variant action`. */
export namespace Action {
  /** Go on. */
  export function next(): usize {
    memory.fill(ACTION, 0, 28);
    return ACTION;
  }

  /** Turn the request away with a public sentence. */
  export function refuse(detail: string): usize {
    const text = utf8(detail);
    memory.fill(ACTION, 0, 28);
    store<u8>(ACTION, 2); // refuse
    store<u8>(ACTION, 1, 4); // detail: some
    store<usize>(ACTION, changetype<usize>(text), 8);
    store<usize>(ACTION, text.byteLength, 12);
    // reason: none
    return ACTION;
  }
}

function optionalText(at: usize): string | null {
  if (load<u8>(at) == 0) return null;
  return String.UTF8.decodeUnsafe(load<usize>(at, 4), load<usize>(at, 8));
}

function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}
