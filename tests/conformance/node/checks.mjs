// The frame of a client's script: its checks run in order, one line each; the exit status says whether all passed.

import { existsSync, readFileSync } from "node:fs";

export const URL = process.env.OMNI_URL ?? "http://127.0.0.1:8000";
export const KEY = process.env.OMNI_KEY ?? "sk-local";
export const MODEL = process.env.OMNI_CLIENT_MODEL ?? "omni-demo";
export const HELLO = "Hello!";

export function hold(condition, words = "does not hold") {
  if (!condition) throw new Error(words);
}

async function jobs() {
  const answer = await fetch(`${URL}/v1/jobs`, { headers: { Authorization: `Bearer ${KEY}` } });
  return (await answer.json()).data;
}

// What `block` asks for and does not wait for must be cancelled, and soon.
export async function leaving(block) {
  const known = new Set((await jobs()).map((job) => job.id));
  await block();
  const deadline = Date.now() + 15_000;
  let states;
  do {
    await new Promise((wake) => setTimeout(wake, 50));
    states = (await jobs()).filter((job) => !known.has(job.id)).map((job) => job.state);
  } while ((!states.length || states.some((state) => ["queued", "running"].includes(state))) && Date.now() < deadline);
  hold(states.includes("cancelled"), `still ${states}`);
}

// `block` is given a function that has the API restarted (SIGHUP: by its supervisor, SIGTERM: each of its processes).
// Waits until those that served have left.
export async function restarting(signal, block) {
  const supervisor = Number(process.env.OMNI_API_PID);
  const old = readFileSync(`/proc/${supervisor}/task/${supervisor}/children`, "utf8").trim().split(" ").map(Number);
  try {
    await block(() => (signal === "SIGHUP" ? [supervisor] : old).forEach((pid) => process.kill(pid, signal)));
  } finally {
    const deadline = Date.now() + 60_000;
    while (old.some((pid) => existsSync(`/proc/${pid}`))) {
      hold(Date.now() < deadline, "the old processes stay");
      await new Promise((wake) => setTimeout(wake, 50));
    }
  }
  await fetch(`${URL}/livez`); // waits for the next to accept it
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
