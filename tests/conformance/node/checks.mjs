// The frame of a client's script: its checks run in order, one line each; the exit status says whether all passed.

export const URL = process.env.OMNI_URL ?? "http://127.0.0.1:8000";
export const KEY = process.env.OMNI_KEY ?? "sk-local";
export const MODEL = "omni-demo";
export const HELLO = "Hello!";

export function hold(condition, words = "does not hold") {
  if (!condition) throw new Error(words);
}

export async function run(checks) {
  let numFailed = 0;
  for (const [name, check] of Object.entries(checks)) {
    const started = performance.now();
    try {
      await check();
      console.log(`ok   ${name} (${((performance.now() - started) / 1000).toFixed(1)} s)`);
    } catch (error) {
      numFailed += 1;
      console.log(`FAIL ${name}: ${error.name}: ${String(error.message).replace(/\s+/g, " ").slice(0, 300)}`);
    }
  }
  process.exit(numFailed ? 1 : 0);
}
