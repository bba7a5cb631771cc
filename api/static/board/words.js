// Numbers, durations and shares as text.

import { grouped } from "../chat/numbers.js";

export function duration(seconds) {
  const whole = Math.max(0, Math.floor(Number(seconds) || 0));
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86_400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86_400)} d ${Math.floor((whole % 86_400) / 3600)} h`;
}

export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(number) || 0;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value.toFixed(value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
}

export { grouped };

export const percent = (share) => `${Math.round(share * 100)} %`;

/** Of a batch; "–" without a measurement. */
export const linesPerSecond = (rate) => (rate === null || rate === undefined ? "–" : Number(rate).toFixed(rate < 10 ? 1 : 0));

/** A unix time in the reader's own way. */
export const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });

/** "priority 1 · default 2 · flex 40"; empty while there is only the usual tier. */
export function tierNumbers(tiers, name) {
  const used = Object.entries(tiers).filter(([, numbers]) => numbers[name] > 0);
  if (used.every(([tier]) => tier === "default")) return "";
  return used.map(([tier, numbers]) => `${tier} ${grouped(numbers[name])}`).join(" · ");
}

/** 0.4, "0.4", {what: "weights", share: "0.4"} -> {share: 0.4, what: "weights"}. */
export function loading(progress) {
  if (progress === null || progress === undefined || progress === "") return { share: null, what: "" };
  if (typeof progress === "object") return { share: Number(progress.share ?? 0), what: progress.what ?? "" };
  const share = Number(progress);
  return Number.isNaN(share) ? { share: null, what: String(progress) } : { share, what: "" };
}
