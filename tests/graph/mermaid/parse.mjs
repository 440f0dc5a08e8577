// Reads texts as JSON, an array, from standard input, and writes for each the error of Mermaid's parser, or null.
import { JSDOM } from "jsdom";

const { window } = new JSDOM("");
Object.assign(globalThis, { window, document: window.document });
const { default: mermaid } = await import("mermaid");

const errors = [];
for (const text of JSON.parse(await new Response(process.stdin).text())) {
  errors.push(await mermaid.parse(text).then(() => null, (error) => String(error.message)));
}
console.log(JSON.stringify(errors));
