// One worker: its device, batch and memory, and the last two minutes of its tokens per second.

import { h } from "../chat/dom.js";
import { bytes, duration, grouped, loading, percent } from "./words.js";

const SPAN_S = 120;
const WIDTH = 300;
const HEIGHT = 56;
const SVG = "http://www.w3.org/2000/svg";

const figure = (name, part) =>
  h("div", { class: "figure" }, h("dt", {}, name), h("dd", {}, h("span", { class: part }), h("small", { class: `${part}-note` })));

export class WorkerCard {
  constructor() {
    this.points = []; // {time, rate}
    this.line = document.createElementNS(SVG, "polyline");
    this.area = document.createElementNS(SVG, "polygon");
    const chart = document.createElementNS(SVG, "svg");
    chart.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    chart.setAttribute("preserveAspectRatio", "none");
    chart.setAttribute("class", "chart");
    chart.setAttribute("aria-hidden", "true");
    chart.append(this.area, this.line);
    const meter = h("meter", { class: "kv-meter", min: "0", max: "1", high: "0.9", "aria-label": "KV cache in use" });
    const kv = figure("KV cache blocks", "kv");
    kv.lastChild.append(meter);
    this.bar = h("progress", { max: "1", "aria-label": "Loading" });
    this.loading = h("div", { class: "loading", hidden: true }, this.bar, h("span", { class: "what" }));
    this.element = h(
      "article",
      { class: "worker" },
      h("header", {}, h("h3", { class: "model" }), h("span", { class: "state" }), h("span", { class: "device note" })),
      this.loading,
      h("div", { class: "rate" }, h("span", { class: "rate-number" }), h("span", { class: "note" }, "tokens/s, last 2 min"), chart),
      h("dl", {}, figure("Batch", "batch"), kv, figure("Memory", "memory"), figure("Uptime", "uptime")),
    );
  }

  update(worker, time) {
    const part = (name) => this.element.querySelector(`.${name}`);
    const rate = Number(worker.tokens_per_s) || 0;
    const used = Number(worker.kv_used) || 0;
    const total = Number(worker.kv_total) || 0;
    part("model").textContent = worker.queue ?? worker.model;
    part("model").title = worker.model; // the weights that it runs
    part("state").textContent = worker.state ?? "";
    part("state").dataset.state = worker.state ?? "";
    part("device").textContent = [worker.device, worker.fence ? `worker ${worker.fence}` : ""].filter(Boolean).join(" · ");
    part("rate-number").textContent = rate < 100 ? rate.toFixed(1) : grouped(Math.round(rate));
    part("batch").textContent = grouped(worker.batch);
    const preempted = Number(worker.preempted) || 0;
    part("batch-note").textContent = preempted ? ` running, ${grouped(preempted)} put aside` : " running";
    part("kv").textContent = total ? percent(used / total) : "–";
    part("kv-note").textContent = total ? ` of ${grouped(total)}` : "";
    part("kv").title = `${grouped(used)} of ${grouped(total)}`;
    part("memory").textContent = bytes(worker.memory_used);
    part("uptime").textContent = duration(worker.uptime_s);
    part("kv-meter").value = total ? used / total : 0;
    this.showLoading(worker);
    this.draw(time, rate);
  }

  showLoading({ state, progress }) {
    const { share, what } = loading(progress);
    this.element.classList.toggle("is-loading", state === "loading");
    this.loading.hidden = state !== "loading";
    if (share === null) this.bar.removeAttribute("value");
    else this.bar.value = share;
    this.loading.lastChild.textContent = [what, share === null ? "" : percent(share)].filter(Boolean).join(" ");
  }

  draw(time, rate) {
    this.points.push({ time, rate });
    while (this.points[0].time < time - SPAN_S) this.points.shift();
    const top = Math.max(10, ...this.points.map((point) => point.rate));
    const x = (point) => (WIDTH * (1 - (time - point.time) / SPAN_S)).toFixed(1);
    const y = (point) => (HEIGHT - 2 - (HEIGHT - 6) * (point.rate / top)).toFixed(1);
    const line = this.points.map((point) => `${x(point)},${y(point)}`).join(" ");
    this.line.setAttribute("points", line);
    this.area.setAttribute("points", `${x(this.points[0])},${HEIGHT} ${line} ${WIDTH},${HEIGHT}`);
  }
}
