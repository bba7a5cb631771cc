"""The `llm` command, with this server among its models."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from checks import HELLO, KEY, MODEL, URL, jobs, leaving, run

FOLDER = Path(tempfile.mkdtemp())
ENV = os.environ | {"LLM_USER_PATH": str(FOLDER)}
FOLDER.joinpath("extra-openai-models.yaml").write_text(
    f"- model_id: omni\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  api_key_name: omni\n"
    "  supports_schema: true\n  supports_tools: true\n"
)


def llm(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llm", *arguments]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def answer(*arguments: str) -> str:
    done = llm("-m", "omni", "--key", KEY, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_prompt_is_answered_streaming_and_not() -> None:
    assert answer("-o", "max_tokens", "20", HELLO).strip()
    assert answer("--no-stream", "-o", "max_tokens", "20", HELLO).strip()


def a_schema_is_kept() -> None:
    age = {"type": "integer", "minimum": 0, "maximum": 150}
    schema = json.dumps(
        {"type": "object", "properties": {"age": age}, "required": ["age"], "additionalProperties": False}
    )
    for how in ([], ["--no-stream"]):
        assert "age" in json.loads(answer("--schema", schema, "-o", "max_tokens", "800", *how, HELLO))


def the_usage_is_logged() -> None:
    assert "output" in answer("-u", "-o", "max_tokens", "5", HELLO) or "output" in llm("logs", "-n", "1", "-u").stdout


def an_error_is_shown() -> None:
    done = llm("-m", "omni", "--key", "wrong", HELLO)
    assert done.returncode != 0 and "API key" in done.stderr


def tools_are_sent_and_what_is_called_is_run() -> None:
    """The command cannot force a call; whether the model calls or answers, the whole chain must end well."""
    function = 'def get_weather(city: str) -> str:\n    "The weather in a city"\n    return "sunny"\n'
    for how in ([], ["--no-stream"]):
        answer("--functions", function, "--chain-limit", "3", "-o", "max_tokens", "800", *how, HELLO)


def an_interrupted_command_cancels_its_job() -> None:
    integers = {"type": "integer", "minimum": 10**9, "maximum": 10**10}
    numbers = {"type": "array", "items": integers, "minItems": 600, "maxItems": 600}
    schema = json.dumps(
        {"type": "object", "properties": {"n": numbers}, "required": ["n"], "additionalProperties": False}
    )
    for how in ([], ["--no-stream"]):
        with leaving():
            known = {job["id"] for job in jobs()}
            arguments = ["-m", "omni", "--key", KEY, "--schema", schema, "-o", "max_tokens", "3000", *how, HELLO]
            process = subprocess.Popen(
                [sys.executable, "-m", "llm", *arguments], env=ENV, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
            )  # fmt: skip
            while known >= {job["id"] for job in jobs()} and process.poll() is None:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            process.wait(20)


run(
    a_prompt_is_answered_streaming_and_not,
    a_schema_is_kept,
    tools_are_sent_and_what_is_called_is_run,
    the_usage_is_logged,
    an_error_is_shown,
    an_interrupted_command_cancels_its_job,
)
