"""The `llm` command, with this server among its models."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import HELLO, KEY, MODEL, URL, run

FOLDER = Path(tempfile.mkdtemp())
FOLDER.joinpath("extra-openai-models.yaml").write_text(
    f"- model_id: omni\n  model_name: {MODEL}\n  api_base: {URL}/v1\n  api_key_name: omni\n"
    "  supports_schema: true\n  supports_tools: true\n"
)


def llm(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"LLM_USER_PATH": str(FOLDER)}
    command = [sys.executable, "-m", "llm", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def answer(*arguments: str) -> str:
    done = llm("-m", "omni", "--key", KEY, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def a_prompt_is_answered_streaming_and_not() -> None:
    assert answer("-o", "max_tokens", "20", HELLO).strip()
    assert answer("--no-stream", "-o", "max_tokens", "20", HELLO).strip()


def a_schema_is_kept() -> None:
    schema = json.dumps({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]})
    assert "age" in json.loads(answer("--schema", schema, "-o", "max_tokens", "60", HELLO))


def the_usage_is_logged() -> None:
    assert "output" in answer("-u", "-o", "max_tokens", "5", HELLO) or "output" in llm("logs", "-n", "1", "-u").stdout


def an_error_is_shown() -> None:
    done = llm("-m", "omni", "--key", "wrong", HELLO)
    assert done.returncode != 0 and "API key" in done.stderr


run(a_prompt_is_answered_streaming_and_not, a_schema_is_kept, the_usage_is_logged, an_error_is_shown)
