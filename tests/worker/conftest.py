"""Tiny engines for tests. Models are written once per session; every engine is new."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from common.wire import Delta, Event, Failed, Finished, GenerationRequest, SamplingParams
from tests.models import save_model
from tests.worker.interpreter import make_quicker
from worker.engine.engine import Engine
from worker.kernels.native import NoKernels, load_kernels
from worker.models.loader import EngineConfig, load
from worker.sampling.grammar import GrammarCompiler

SMALL = EngineConfig(max_num_seqs=8, max_step_tokens=16, threads=1)


class Bench:
    """An engine, its model as transformers runs it, and the events that each request has received."""

    def __init__(self, folder: Path, config: EngineConfig = SMALL, compiler: GrammarCompiler | None = None) -> None:
        self.folder = folder
        self.loaded = load(str(folder), ("tiny",), config, lambda stage, fraction: None)
        self.engine = Engine(self.loaded, config, compiler)
        self.events: dict[str, list[Event]] = {}

    def add(self, request_id: str, prompt: list[int], *, cache_salt: str = "", **sampling: object) -> None:
        self.engine.add(self.request(request_id, prompt, cache_salt=cache_salt, **sampling))

    @staticmethod
    def request(request_id: str, prompt: list[int], *, cache_salt: str = "", **sampling: object) -> GenerationRequest:
        chosen = {"max_tokens": 20, "seed": 0, "temperature": 0.0} | sampling
        return GenerationRequest(request_id, "tiny", tuple(prompt), SamplingParams(**chosen), cache_salt)  # type: ignore[arg-type]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            for request_id, event in self.engine.step():
                self.events.setdefault(request_id, []).append(event)

    def finish(self) -> None:
        while self.engine.has_work:
            self.step()

    def deltas(self, request_id: str, index: int = 0) -> list[Delta]:
        events = self.events.get(request_id, [])
        return [event for event in events if isinstance(event, Delta) and event.index == index]

    def token_ids(self, request_id: str, index: int = 0) -> list[int]:
        return [token_id for delta in self.deltas(request_id, index) for token_id in delta.token_ids]

    def text(self, request_id: str, index: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas(request_id, index))

    def end(self, request_id: str) -> Finished | Failed:
        """The only terminal event, which must be the last."""
        *before, last = self.events[request_id]
        assert isinstance(last, Finished | Failed)
        assert all(isinstance(event, Delta) for event in before)
        return last

    def generate(self, prompt: list[int], max_tokens: int = 20) -> list[int]:
        """The answer of transformers' greedy generate()."""
        model = AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.loaded.dtype)
        output = model.generate(torch.tensor([prompt]), max_new_tokens=max_tokens, do_sample=False)
        return output[0, len(prompt) :].tolist()


ModelFolder = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def quick_interpreter() -> None:
    """Where Triton is installed."""
    if find_spec("triton") is not None:
        make_quicker()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A folder with a tiny random model of a family, written on first use."""
    written: dict[str, Path] = {}

    def folder(family: str = "llama", **changes: object) -> Path:
        name = f"{family}-{changes}"
        if name not in written:
            written[name] = save_model(tmp_path_factory.mktemp(family), family, **changes)  # type: ignore[arg-type]
        return written[name]

    return folder


@pytest.fixture(params=[False, True], ids=["in-turn", "overlapped"])
def bench(model_folder: ModelFolder, request: pytest.FixtureRequest) -> Bench:
    """A tiny Llama in an engine of eight sequences and sixteen tokens a step, without and with overlap."""
    return Bench(model_folder(), replace(SMALL, overlap=request.param))


@pytest.fixture(scope="session")
def kernels() -> None:
    """Skip tests of worker/kernels where they cannot be compiled."""
    try:
        load_kernels(torch.float32)
    except NoKernels as reason:
        pytest.skip(str(reason))


def prompt_of(num_tokens: int, seed: int = 1) -> list[int]:
    """Random token ids, none of them special."""
    generator = torch.Generator().manual_seed(seed * 1000 + num_tokens)
    return torch.randint(4, 320, (num_tokens,), generator=generator).tolist()


@pytest.fixture
def surveys_ended() -> Iterator[None]:
    """No survey of a shelf's models begins, or runs, once the test has ended.

    It builds models, for which transformers sets torch's default dtype: one for all threads.
    """
    yield
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.cancel()
            thread.join()
