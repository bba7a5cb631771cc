"""Adapters through the whole service: models of their own, loaded and unloaded while it serves, and after crashes."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import openai
import pytest

from tests.adapters import merge, new_adapter
from tests.models import save_model
from tests.service import RunningService
from tests.worker.conftest import Bench

pytestmark = pytest.mark.timeout(180)

PROMPT = "the quick brown fox"
NUM_TOKENS = 400  # enough for something to happen in mid-answer
CHANGES: Any = {
    "max_position_embeddings": 2048, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 6,
    "initializer_range": 0.05,
}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, three adapters, and the model with each of them merged into it."""
    root = tmp_path_factory.mktemp("adapters")
    model = save_model(root / "tiny", "llama", **CHANGES)
    for number, name in enumerate(("given", "later", "third")):
        merge(model, new_adapter(model, root / name, 8, seed=number, alpha=32), root / f"merged-{name}")
    return root


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, str]:
    """Greedy texts of the base ("tiny") and of the merged models, by the engine alone."""
    texts = {}
    for name, folder in {"tiny": "tiny", **{name: f"merged-{name}" for name in ("given", "later", "third")}}.items():
        bench = Bench(root / folder)
        prompt = bench.loaded.tokenizer.encode(PROMPT).ids
        bench.add(name, prompt, max_tokens=NUM_TOKENS, ignore_eos=True)
        bench.finish()
        texts[name] = bench.text(name)
    assert len(set(texts.values())) == len(texts)
    return texts


@pytest.fixture(scope="module")
def service(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Each test leaves the model and the adapter "given" in it."""
    settings = {"OMNI_MODEL": str(root / "tiny"), "OMNI_ADAPTERS": f"given={root / 'given'}"}
    with RunningService(tmp_path_factory.mktemp("service"), settings).start() as service:
        yield service


def change(service: RunningService, what: str, **body: str) -> tuple[int, str]:
    with service.http() as http:
        answer = http.post(f"/v1/{what}_lora_adapter", json=body)
    return answer.status_code, answer.text


def stream(service: RunningService, model: str, at: int = -1, then: Any = None) -> str:
    """The text of one greedy answer; `then` is called at chunk number `at`."""
    text = ""
    answer = service.openai().completions.create(
        model=model, prompt=PROMPT, max_tokens=NUM_TOKENS, temperature=0, stream=True, extra_body={"ignore_eos": True}
    )
    for number, chunk in enumerate(answer):
        text += chunk.choices[0].text if chunk.choices else ""
        if number == at:
            then()
    return text


def test_adapters_are_models_and_live_through_a_killed_worker(
    service: RunningService, root: Path, expected: dict[str, str]
) -> None:
    num_loads = service.log().count("loaded the adapter later")
    status, text = change(service, "load", lora_name="later", lora_path=str(root / "later"))
    assert (status, text) == (200, "Success: LoRA adapter 'later' added successfully.")
    models = {model.id: model for model in service.openai().models.list().data}
    assert list(models) == ["tiny", "given", "later"]
    assert [models[name].parent for name in models] == [None, "tiny", "tiny"]  # type: ignore[attr-defined]
    assert models["later"].root.endswith("/later")  # type: ignore[attr-defined]

    texts: dict[str, str] = {}
    others = [
        Thread(target=lambda name=name: texts.update({name: stream(service, name)})) for name in ("tiny", "given")
    ]
    for thread in others:
        thread.start()
    texts["later"] = stream(service, "later", 20, lambda: service.worker().kill())
    for thread in others:
        thread.join()
    assert texts == {name: expected[name] for name in ("tiny", "given", "later")}
    assert service.log().count("loaded the adapter later") == num_loads + 2  # the next worker has it too

    assert stream(service, "later") == expected["later"]
    kept = service.openai().completions.create(model="later", prompt=PROMPT, max_tokens=9, temperature=0)
    assert change(service, "unload", lora_name="later") == (200, "Success: LoRA adapter 'later' removed successfully.")
    with pytest.raises(openai.NotFoundError, match="'later' does not exist"):
        stream(service, "later")
    with service.http() as http:  # its answers stay
        assert http.get(f"/v1/completions/{kept.id}").json()["choices"][0]["text"] == kept.choices[0].text
    change(service, "load", lora_name="later", lora_path=str(root / "third"))  # another one under the name
    assert stream(service, "later") == expected["third"]
    change(service, "unload", lora_name="later")


def test_a_job_whose_adapter_is_unloaded_fails_and_says_so(service: RunningService, root: Path) -> None:
    change(service, "load", lora_name="later", lora_path=str(root / "later"))
    with pytest.raises(openai.APIError, match="'later' was unloaded") as failed:
        stream(service, "later", 20, lambda: change(service, "unload", lora_name="later"))
    assert failed.value.code == "adapter_unloaded"
    assert stream(service, "tiny")  # the others go on


def test_refusals_name_what_is_wrong(service: RunningService, root: Path) -> None:
    nowhere = str(root / "nowhere")
    for what, body, status, said in [
        ("load", {"lora_name": "x", "lora_path": nowhere}, 400, f"{nowhere} is not a folder"),
        ("load", {"lora_name": "x", "lora_path": str(root / "tiny")}, 400, "has no adapter_config.json"),
        ("load", {"lora_name": "tiny", "lora_path": nowhere}, 400, "'tiny' is a model's id already"),
        ("load", {"lora_name": "tiny:latest", "lora_path": nowhere}, 400, "is a model's id already"),
        ("load", {"lora_name": "given", "lora_path": nowhere}, 400, "'given' has already been loaded"),
        ("load", {"lora_name": "a b", "lora_path": nowhere}, 400, "'lora_name': it must have 1 to 128"),
        ("load", {"lora_name": "..", "lora_path": nowhere}, 400, "'lora_name': it must have 1 to 128"),
        ("load", {"lora_name": "x"}, 400, "'lora_path'"),
        ("unload", {"lora_name": "x"}, 404, "'x' cannot be found"),
        ("unload", {"lora_name": "given"}, 400, "is one of OMNI_ADAPTERS"),
    ]:
        assert (found := change(service, what, **body))[0] == status, found
        assert said in found[1].replace("\\", ""), found
    assert [model.id for model in service.openai().models.list().data] == ["tiny", "given"]
