// The board's stream, opened with the admin key and reopened with growing pauses.

import { ApiError, openBoard } from "../chat/api.js";
import { readFrames } from "../chat/sse.js";

const PAUSES_MS = [500, 1000, 2000, 4000, 8000, 15_000];
const SILENCE_MS = 20_000;

export class Feed {
  /** `onState(state, error)`: "live", "retrying", or "refused" until `start` is called with another key. */
  constructor({ onBoard, onState }) {
    Object.assign(this, { onBoard, onState });
    window.addEventListener("online", () => this.wakeUp?.());
  }

  async start(key) {
    this.abort?.abort();
    const { signal } = (this.abort = new AbortController());
    for (let failures = 0; !signal.aborted; ) {
      const error = await this.follow(key, signal, () => (failures = 0));
      if (signal.aborted) return;
      if (!error.isPassing) return this.onState("refused", error);
      this.onState("retrying", error);
      const pause = PAUSES_MS[Math.min(failures++, PAUSES_MS.length - 1)];
      await new Promise((resolve) => {
        this.wakeUp = resolve;
        setTimeout(resolve, pause);
      });
    }
  }

  /** Returns the error that ended the stream. */
  async follow(key, signal, onLive) {
    const attempt = new AbortController();
    let alarm;
    const listen = () => {
      clearTimeout(alarm);
      alarm = setTimeout(() => attempt.abort(), SILENCE_MS);
    };
    try {
      listen();
      const response = await openBoard(key, AbortSignal.any([signal, attempt.signal]));
      for await (const { data, comment } of readFrames(response.body)) {
        listen();
        onLive();
        if (data) this.onBoard(JSON.parse(data));
        if (data) this.onState("live");
        else this.onState("retrying", new ApiError(`${comment}.`)); // the server answers, its Redis does not
      }
      return new ApiError("The stream ended.");
    } catch (error) {
      return error instanceof ApiError ? error : new ApiError("The connection broke.");
    } finally {
      clearTimeout(alarm);
    }
  }
}
