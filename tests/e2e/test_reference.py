"""The examples of docs/api/inference.md run as printed, except for the host."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.service import RunningService

HOST = "http://192.168.3.10:8000"

PYTHON = """
from openai import OpenAI

client = OpenAI(
    base_url="http://192.168.3.10:8000/v1",
    api_key="sk-local"
)

response = client.chat.completions.create(
    model="deepseek-v3.2",
    messages=[{"role": "user", "content": "Hello!"}]
)

print(response.choices[0].message.content)
"""

CURL = """
curl http://192.168.3.10:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer sk-local" \\
  -d '{
    "model": "deepseek-v3.2",
    "messages": [{"role": "user", "content": "Hello!"}]
  }'
"""

CURL_STREAM = """
curl -N http://192.168.3.10:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer sk-local" \\
  -d '{
    "model": "deepseek-v3.2",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": true
  }'
"""

JAVASCRIPT = """
const response = await fetch('http://192.168.3.10:8000/v1/chat/completions', {
  method: 'POST',
  headers: {
    'Content-Type': 'application/json',
    'Authorization': 'Bearer sk-local'
  },
  body: JSON.stringify({
    model: 'deepseek-v3.2',
    messages: [{ role: 'user', content: 'Hello!' }]
  })
});

const data = await response.json();
console.log(data.choices[0].message.content);
"""

REQUEST_BODY = """
{
  "model": "deepseek-v3.2",
  "messages": [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Hello, how are you?"}
  ],
  "temperature": 0.7,
  "max_tokens": 2048,
  "stream": false
}
"""


def run(command: list[str], service: RunningService, stdin: str) -> str:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"there is no {command[0]}")
    code = stdin.replace(HOST, service.url)
    done = subprocess.run([program, *command[1:]], input=code, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_prints_an_answer(service: RunningService) -> None:
    assert run([sys.executable, "-"], service, PYTHON).strip()


def test_the_curl_example_gives_the_object_of_the_reference(service: RunningService) -> None:
    answer = json.loads(run(["sh"], service, CURL))
    check_completion(answer)


def test_the_javascript_example_prints_an_answer(service: RunningService) -> None:
    printed = run(["node", "--input-type=module"], service, JAVASCRIPT)
    assert printed.strip() and printed.strip() != "undefined"


def test_the_streaming_example_gives_frames_and_done(service: RunningService) -> None:
    lines = [line for line in run(["sh"], service, CURL_STREAM).splitlines() if line.startswith("data: ")]
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def test_the_request_of_the_reference_is_answered_as_documented(service: RunningService) -> None:
    with service.http() as http:
        answer = http.post("/v1/chat/completions", json=json.loads(REQUEST_BODY))
    assert answer.status_code == 200
    check_completion(answer.json())


def test_health_and_models_have_the_keys_of_the_reference(service: RunningService) -> None:
    with service.http() as http:
        health, models = http.get("/health").json(), http.get("/v1/models").json()
    assert {"status", "model", "gpu_memory_used", "uptime_seconds"} <= health.keys()
    assert models["object"] == "list"
    assert {"id", "object", "created", "owned_by"} <= models["data"][0].keys()
    assert (models["data"][0]["id"], models["data"][0]["owned_by"]) == ("deepseek-v3.2", "protocol-omni")


def check_completion(answer: dict[str, object]) -> None:
    assert answer["object"] == "chat.completion" and str(answer["id"]).startswith("chatcmpl-")
    choice = answer["choices"][0]  # type: ignore[index]
    assert choice["index"] == 0 and choice["finish_reason"] == "stop"
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]  # type: ignore[index]
