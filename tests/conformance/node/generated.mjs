// openapi-typescript and openapi-fetch: a program compiles against the types of /openapi.json, and works.

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { hold, KEY, MODEL, run, URL as BASE } from "./checks.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const folder = `${here}node_modules/.generated/`; // there the compiler finds the packages

function command(name, ...args) {
  try {
    execFileSync(`${here}node_modules/.bin/${name}`, args, { cwd: folder, stdio: "pipe" });
  } catch (error) {
    throw new Error(`${name}: ${error.stdout}${error.stderr}`);
  }
}

await run({
  "a typed program compiles"() {
    mkdirSync(folder, { recursive: true });
    copyFileSync(`${here}generated.ts`, `${folder}generated.mts`);
    command("openapi-typescript", `${BASE}/openapi.json`, "-o", "openapi.d.ts");
    command("tsc", "--strict", "--module", "nodenext", "--target", "es2022", "generated.mts");
  },
  async "a chat is answered, and its job has a state"() {
    const { chat } = await import(`${folder}generated.mjs`);
    const { text, state } = await chat(BASE, KEY, MODEL);
    hold(text && state === "finished", `${text} ${state}`);
  },
  async "a refusal has a code"() {
    const { refusal } = await import(`${folder}generated.mjs`);
    hold((await refusal(BASE, KEY)) === "model_not_found");
  },
});
