"""openapi-python-client: a client made from /openapi.json, all of it compiled, and used."""

import compileall
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from checks import HELLO, KEY, MODEL, URL, run

FOLDER = Path(tempfile.mkdtemp())
NAME = "made_client"


def made(module: str) -> Any:
    return importlib.import_module(f"{NAME}.{module}")


def a_client_is_made_and_compiles() -> None:
    config = FOLDER / "config.yaml"
    config.write_text("post_hooks: []\n")
    command = [str(Path(sys.executable).with_name("openapi-python-client")), "generate", "--url", f"{URL}/openapi.json"]
    options = ["--meta", "none", "--output-path", str(FOLDER / NAME), "--config", str(config)]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    warnings = [line for line in done.stdout.splitlines() if line.startswith("WARNING")]
    assert [line for line in warnings if "/results" not in line] == [], "only lines of JSON are unknown to it"
    assert compileall.compile_dir(FOLDER / NAME, quiet=1)
    sys.path.insert(0, str(FOLDER))
    for path in sorted((FOLDER / NAME).rglob("*.py")):
        importlib.import_module(".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__"))


def a_chat_is_answered() -> None:
    models = made("models")
    body = models.ChatRequest.from_dict(
        {"model": MODEL, "messages": [{"role": "user", "content": HELLO}], "max_tokens": 8}
    )
    answer = made("api.chat.post_v1_chat_completions").sync(client=client(), body=body)
    assert isinstance(answer, models.ChatAnswer) and answer.choices[0].message.content
    job = made("api.jobs.get_v1_jobs_job_id").sync(answer.id, client=client())
    assert isinstance(job, models.Job) and job.state == "finished" and job.tokens == answer.usage.completion_tokens


def a_refusal_is_typed() -> None:
    models = made("models")
    answer = made("api.models.get_v1_models_name").sync("nothing", client=client())
    assert isinstance(answer, models.ErrorBody) and answer.error.code == "model_not_found"


def health_is_typed() -> None:
    health = made("api.operator.get_health").sync(client=client())
    assert health.status == "healthy"


def client() -> Any:
    return made("client").AuthenticatedClient(base_url=URL, token=KEY)


run(a_client_is_made_and_compiles, a_chat_is_answered, a_refusal_is_typed, health_is_typed)
