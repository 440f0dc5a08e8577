// Reads texts as JSON, an array, from standard input, and writes for each the error of Mermaid's parser, or null.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { runInThisContext } from "node:vm";
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
runInThisContext(readFileSync(createRequire(import.meta.url).resolve("@mermaid-js/tiny"), "utf8")); // a browser's script

const errors = [];
for (const text of JSON.parse(await new Response(process.stdin).text())) {
  errors.push(await globalThis.mermaid.parse(text).then(() => null, (error) => String(error.message)));
}
console.log(JSON.stringify(errors));
