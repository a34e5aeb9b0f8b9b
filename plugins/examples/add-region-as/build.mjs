// Compiles `assembly/` and makes a component of it: `node build.mjs [OUT]`, by default build/add_region_as.wasm.
//
// AssemblyScript makes a core module whose exports are JavaScript names; the component model wants the contract's names
// and a description of the types. Binaryen renames, jco's tools describe and wrap.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { componentEmbed, componentNew } from "@bytecodealliance/jco-transpile/wasm-tools";
import asc from "assemblyscript/asc";
import binaryen from "binaryen";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "build/add_region_as.wasm"));

const NAMES = {
  onRequestHeaders: "sluice:plugin/request-headers@1.1.0#on-request-headers",
  afterRequestHeaders: "cabi_post_sluice:plugin/request-headers@1.1.0#on-request-headers",
  onResponseHeaders: "sluice:plugin/response-headers@1.1.0#on-response-headers",
  afterResponseHeaders: "cabi_post_sluice:plugin/response-headers@1.1.0#on-response-headers",
};

/** The core module, as AssemblyScript's compiler makes it. */
async function compile() {
  let module;
  const { error, stderr } = await asc.main(
    ["assembly/index.ts", "--outFile", "core.wasm", "-O3", "--shrinkLevel", "2",
      "--runtime", "stub", "--use", "abort=assembly/sluice/abort", "--initialMemory", "1"],
    {
      readFile: (name, base) => {
        try {
          return readFileSync(resolve(here, base, name), "utf8");
        } catch {
          return null;
        }
      },
      writeFile: (name, content) => {
        if (name.endsWith("core.wasm")) module = content;
      },
      listFiles: () => [],
    },
  );
  if (error) throw new Error(`AssemblyScript: ${error.message}\n${stderr}`);
  return module;
}

/** The same module with the contract's names. */
function renamed(core) {
  const module = binaryen.readBinary(core);
  for (const [from, to] of Object.entries(NAMES)) {
    const exported = module.getExport(from);
    if (exported === 0) throw new Error(`the module does not export ${from}`);
    const { value } = binaryen.getExportInfo(exported);
    module.removeExport(from);
    module.addFunctionExport(value, to);
  }
  const binary = module.emitBinary();
  module.dispose();
  return binary;
}

// One package in several files; the tool takes one text, with one `package` line.
const texts = ["plugin.wit", "bodies.wit", "capabilities.wit"].map((file) =>
  readFileSync(join(here, "../../../wit", file), "utf8"),
);
const witSource = texts.map((text, index) => (index === 0 ? text : text.replace(/^package .*;$/m, ""))).join("\n");
const embedded = await componentEmbed({ binary: renamed(await compile()), witSource, world: "on-both" });
const component = await componentNew(embedded);
mkdirSync(dirname(out), { recursive: true });
writeFileSync(out, component);
console.log(`${out}: ${component.length} bytes`);
