"""Our service in front of a real vLLM server, which is killed in mid-stream and started again.

    python -m bench.vllm_backend --model FOLDER --vllm '/path/to/vllm serve FOLDER --served-model-name m --port {port}'

In float32 (--dtype float32): half precision gives the same tokens other scores as a prompt than as an answer, so that
greedy texts part after a while. Says of each promise whether it was kept: ids as from vLLM itself, grammars, stop
strings, log-probabilities, a stream that outlives its server, and what /health says meanwhile. Ends with status 1 if
one was not.
"""

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from bench.serve import end_on_sigterm
from tests.service import RunningService, free_port

READY_S = 400.0
PROMPT = "Tell me about the harbour and its ships."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "tall": {"type": "boolean"}},
    "required": ["name", "tall"],
    "additionalProperties": False,
}


class Vllm:
    """The server under its own process group, to be killed and started again on the same port."""

    def __init__(self, command: str, log: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = shlex.split(command.format(port=self.port))
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> float:
        """Seconds until it answered."""
        began = time.monotonic()
        while time.monotonic() - began < READY_S:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.5)
        raise TimeoutError(f"vLLM did not start; see {self._log}")

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.url}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer: dict[str, Any] = json.load(response)
            return answer


class Show:
    """The checks and their results."""

    def __init__(self, service: RunningService, vllm: Vllm) -> None:
        self.service = service
        self.vllm = vllm
        self.num_broken = 0

    def say(self, what: str, is_kept: bool, more: str = "") -> None:
        self.num_broken += not is_kept
        print(f"{'kept  ' if is_kept else 'BROKEN'}  {what}{': ' if more else ''}{more}", flush=True)

    def health(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.service.url}/health", timeout=5) as response:
                body: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as refused:
            body = json.load(refused)
        return body

    def ask(self, **fields: Any) -> Any:
        asked: dict[str, Any] = {"model": "m", "prompt": PROMPT, "max_tokens": 40, "temperature": 0} | fields
        return self.service.openai(timeout=READY_S).completions.create(**asked)

    def alike(self) -> None:
        with self.service.http() as http:
            ids = http.post("/tokenize", json={"model": "m", "prompt": PROMPT}).json()["tokens"]
        ours = self.ask(prompt=ids, logprobs=3)
        theirs = self.vllm.complete({"model": "m", "prompt": ids, "max_tokens": 40, "temperature": 0, "logprobs": 3})
        choice = theirs["choices"][0]
        self.say("greedy text is vLLM's own", ours.choices[0].text == choice["text"], repr(choice["text"][:40]))
        far = max(
            abs(a - b)
            for a, b in zip(ours.choices[0].logprobs.token_logprobs, choice["logprobs"]["token_logprobs"], strict=True)
        )
        self.say("log-probabilities are vLLM's own", far < 1e-3, f"largest difference {far:.1g}")
        stop = choice["text"][20:24]
        stopped = self.ask(prompt=ids, stop=[stop]).choices[0]
        is_right = stopped.text == choice["text"][: choice["text"].index(stop)] and stopped.finish_reason == "stop"
        self.say("a stop string ends the text before it", is_right)

    def shaped(self) -> None:
        form: Any = {"type": "json_schema", "json_schema": {"name": "ship", "schema": SCHEMA, "strict": True}}
        began = time.monotonic()
        answer = self.service.openai(timeout=READY_S).chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "A ship."}],
            max_tokens=120,
            response_format=form,
        )
        text = answer.choices[0].message.content or ""
        elapsed_ms = (time.monotonic() - began) * 1000
        num_tokens = answer.usage.completion_tokens if answer.usage else 0
        try:
            is_right = set(json.loads(text)) == {"name", "tall"}
        except ValueError:
            is_right = False
        self.say("a JSON schema holds", is_right, f"{text!r}, {num_tokens} tokens in {elapsed_ms:.0f} ms")

    def outlived(self) -> None:
        """Two greedy streams at once; vLLM is killed when the first has 15 chunks, and started again."""
        whole = self.ask(max_tokens=200, extra_body={"ignore_eos": True}).choices[0].text
        seen: dict[int, list[tuple[float, str]]] = {0: [], 1: []}
        begun = threading.Event()

        def read(which: int) -> None:
            for chunk in self.ask(max_tokens=200, stream=True, extra_body={"ignore_eos": True}):
                seen[which].append((time.monotonic(), chunk.choices[0].text if chunk.choices else ""))
                if which == 0 and len(seen[0]) == 15:
                    begun.set()

        readers = [threading.Thread(target=read, args=(which,)) for which in seen]
        for reader in readers:
            reader.start()
        begun.wait(READY_S)
        self.vllm.kill()
        died = time.monotonic()
        time.sleep(1.5)
        health = self.health()
        self.say("/health says that the engine is away", health["status"] == "engine away", json.dumps(health))
        self.vllm.start()
        self.vllm.wait()
        back = time.monotonic()
        for reader in readers:
            reader.join(READY_S)
        for which, chunks in seen.items():
            text = "".join(part for _, part in chunks)
            num_before = sum(moment < died + 0.5 for moment, _ in chunks)
            resumed = min((moment for moment, _ in chunks if moment > back - 1), default=back)
            num_alike = len(os.path.commonprefix([text, whole]))
            more = (
                f"{num_alike} of {len(whole)} characters alike, {num_before} chunks before the kill and "
                f"{len(chunks) - num_before} after; vLLM was away {back - died:.1f} s, the next token came "
                f"{max(0.0, resumed - back):.2f} s after it answered"
            )
            self.say(f"stream {which} goes on as if nothing had been", text == whole, more)
        self.say("/health is healthy again", self.health()["status"] == "healthy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the folder that vLLM serves; its weights are not read here")
    parser.add_argument("--vllm", required=True, help="a command with {port} in it; the served name must be m")
    args = parser.parse_args()
    end_on_sigterm()
    folder = Path(tempfile.mkdtemp(prefix="omni-vllm-"))
    vllm = Vllm(args.vllm, folder / "vllm.log")
    settings = {"OMNI_MODEL": args.model, "OMNI_MODEL_NAME": "m", "OMNI_ENGINE": f"vllm+{vllm.url}"}
    service = RunningService(folder, settings)
    try:
        vllm.start()
        print(f"vLLM answered after {vllm.wait():.0f} s; logs are in {folder}", flush=True)
        service.start()
        show = Show(service, vllm)
        show.alike()
        show.shaped()
        show.outlived()
        return 1 if show.num_broken else 0
    finally:
        service.stop()
        vllm.kill()


if __name__ == "__main__":
    sys.exit(main())
