"""The real service with a table of models, and each model's undisturbed answers."""

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import psutil

from tests.chaos.shelf_load import NUM_KEYS, Ask
from tests.service import RunningService, is_keeper, is_template

if TYPE_CHECKING:
    from worker.engine import LLM

ADMIN = "sk-admin"
EDGE = 1e-4  # of a temperature: more than rounding changes
KEYS = tuple(f"sk-shelf-{number}" for number in range(NUM_KEYS))


def save_small_models(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Models of 0.3 MB with random weights in float32, so that texts do not depend on what else is computed."""
    from tests.models import save_model

    return {
        name: save_model(folder / name, "llama", seed=seed, hidden_size=64, max_position_embeddings=1024)
        for seed, name in enumerate(names)
    }


def write_table(path: Path, models: Mapping[str, Path], **fields: str) -> Path:
    extra = "".join(f"{name} = {value}\n" for name, value in fields.items())
    rows = [
        f'[[model]]\nid = "{name}"\nmodel = "{source}"\ndtype = "float32"\n{extra}' for name, source in models.items()
    ]
    path.write_text("\n".join(rows))
    return path


class TableService(RunningService):
    """A service of several models. `broken`: the environment of a tests.chaos.broken_worker."""

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, Path],
        settings: Mapping[str, str] | None = None,
        broken: Mapping[str, str] | None = None,
    ) -> None:
        table = write_table(folder / "models.toml", models)
        given = {
            "OMNI_MODELS": str(table),
            "OMNI_API_KEYS": ",".join(KEYS),
            "OMNI_ADMIN_KEYS": ADMIN,
            **(settings or {}),
        }
        super().__init__(folder, given)
        del self.env["OMNI_MODEL"]
        self.models = list(models)
        if broken:
            self.env_of["worker"] = dict(broken)

    def command(self, name: str, api_module: str = "api.server") -> list[str]:  # type: ignore[override]
        words = RunningService.command(name, api_module)
        broken = name == "worker" and "worker" in self.env_of
        return ["tests.chaos.broken_worker" if broken and word == "worker.main" else word for word in words]

    def admin(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, headers={"Authorization": f"Bearer {ADMIN}"}, timeout=30)

    def children(self) -> dict[str, psutil.Process]:
        """The worker, its template and the keeper of its weights, those that live."""
        found = {}
        for child in psutil.Process(self.processes["worker"].pid).children():
            with suppress(psutil.Error):
                found[role_of(child)] = child
        return found

    def kill(self, role: str) -> int:
        """SIGKILL; the pid, or 0 where there is none at the moment."""
        child = self.children().get(role)
        if child is None:
            return 0
        with suppress(psutil.NoSuchProcess):
            child.kill()
        return child.pid

    def wait_loaded(self, model: str, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        with self.admin() as http:
            while http.get(f"/v1/models/{model}").json()["status"]["state"] != "loaded":
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{model} is not loaded after {timeout_s} s:\n{self.log()[-3000:]}")
                time.sleep(0.05)


def role_of(process: psutil.Process) -> str:
    return "keeper" if is_keeper(process) else "template" if is_template(process) else "worker"


def undisturbed(models: Mapping[str, Path], asks: Iterable[Ask]) -> tuple[list[Ask], dict[int, str]]:
    """The requests, and each one's text from its model alone: the engine as a library, no queue, no faults.

    A request whose seed draws on the edge between two tokens, so that rounding decides, becomes a greedy one.
    """
    from worker.engine import LLM, EngineConfig

    steady: list[Ask] = []
    texts: dict[int, str] = {}
    by_model: dict[str, list[Ask]] = {}
    for ask in asks:
        by_model.setdefault(ask.model, []).append(ask)
    for model, own in by_model.items():
        llm = LLM(str(models[model]), EngineConfig(dtype="float32", max_num_seqs=8))
        drawn = [ask for ask in own if ask.temperature]
        texts |= generated(llm, own)
        edges = {
            number
            for by in (1.0 + EDGE, 1.0 - EDGE)
            for number, text in generated(
                llm, [replace(ask, temperature=by * ask.temperature) for ask in drawn]
            ).items()
            if text != texts[number]
        }
        kept = [replace(ask, temperature=0.0) if ask.number in edges else ask for ask in own]
        texts |= generated(llm, [ask for ask in kept if ask.number in edges])
        steady += kept
    return sorted(steady, key=lambda ask: ask.number), texts


def generated(llm: "LLM", asks: Sequence[Ask]) -> dict[int, str]:
    from worker.engine import SamplingParams

    prompts = [
        ask.prompt if ask.kind == "completion" else llm.render([{"role": "user", "content": ask.prompt}])
        for ask in asks
    ]
    sampling = [
        SamplingParams(ask.max_tokens, ask.number, temperature=ask.temperature, ignore_eos=True) for ask in asks
    ]
    answers = llm.generate(prompts, sampling)
    return {ask.number: answer.text for ask, answer in zip(asks, answers, strict=True)}


def victims(num_kills: int, num_others: int, seed: int) -> list[str]:
    """Whom to kill, in order: mostly workers, and some of their templates and keepers."""
    chosen = ["worker"] * num_kills + [("template", "keeper")[number % 2] for number in range(num_others)]
    random.Random(seed).shuffle(chosen)
    return chosen
