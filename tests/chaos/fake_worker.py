"""worker.main with a weightless engine: the process, its RQ worker, ledger, publisher and heartbeat are the real ones.

    python -m common.process.supervise worker --watch --template -- python -m tests.chaos.fake_worker

The text of a job is a function of its seed and of the position alone, so a checker can work it out. What a request
wants beyond that it says in `stop`: "poison:5" aborts the process at token 5, "hang:5" sleeps for ever holding the GIL.
"""

import ctypes
import os
import sys
import time
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers

from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice, ModelCard
from worker.engine.interface import NOTHING_LOGGED, EngineStats, NoAdapters, WithoutKV

REVISION = "fake-1"
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
VOCAB_SIZE = 1024


def token_at(position: int) -> int:
    return position % VOCAB_SIZE


def text_at(seed: int, position: int) -> str:
    """The text of the token at a position of the answer, counted from 0."""
    return f"{seed:x}.{position} "


def expected_text(seed: int, num_tokens: int) -> str:
    return "".join(text_at(seed, position) for position in range(num_tokens))


@dataclass(slots=True)
class Running:
    request: GenerationRequest
    num_done: int
    triggers: dict[str, int] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        return self.request.sampling.seed


class FakeEngine(WithoutKV):
    """An AnyEngine that generates one token a step for every request."""

    state, device, adapters = "ready", "fake", NoAdapters()
    paces_flex = True

    def __init__(self, loaded: Any, config: Any, compiler: Any = None) -> None:
        self.card: ModelCard = loaded.card
        self.max_num_seqs: int = config.max_num_seqs or 64
        self.step_s = float(os.environ.get("CHAOS_STEP_S", "0.01"))
        self.running: dict[str, Running] = {}
        self.suspects: set[str] = set()
        self.num_generated = 0
        self.gpu_us: dict[str, int] = {}
        self._settled: list[tuple[str, Event]] = []

    @property
    def has_work(self) -> bool:
        return bool(self.running or self._settled)

    def has_room(
        self,
        num_prompt_tokens: int,
        n: int,
        max_tokens: int = 1,
        without: Collection[str] = (),
        *,
        is_flex: bool = False,
    ) -> bool:
        """A flex request leaves one place free, and does not run beside others in an engine that does not pace it."""
        if is_flex and not self.paces_flex and not all(running.request.is_flex for running in self.running.values()):
            return False
        num_others = len(self.running.keys() - set(without))
        return num_others < self.max_num_seqs - is_flex or not num_others

    def has_ample_room(self, *, is_flex: bool = False) -> bool:
        """See AnyEngine."""
        return self.has_room(1, 1, is_flex=is_flex)

    def take_gpu_us(self) -> dict[str, int]:
        """See AnyEngine. A token costs 1,000."""
        taken, self.gpu_us = self.gpu_us, {}
        return taken

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        choice = logged.get(0, LoggedChoice())
        num_done = len(choice.token_ids)
        if choice.text != expected_text(request.sampling.seed, num_done):
            self._settled.append((request.id, Failed("resume_mismatch", "The log is not ours.")))
            return
        running = Running(request, num_done)
        for stop in request.sampling.stop:
            kind, _, position = stop.partition(":")
            if position.isdigit():
                running.triggers[kind] = int(position)
        if choice.finish_reason is not None:
            self._settled.append((request.id, self._finished(running)))
            return
        self.running[request.id] = running
        if is_suspect:
            self.suspects.add(request.id)

    def step(self) -> list[tuple[str, Event]]:
        events, self._settled = self._settled, []
        scheduled = self.suspects & self.running.keys() or set(self.running)
        time.sleep(self.step_s)
        for job_id in [job_id for job_id in self.running if job_id in scheduled]:
            events += self.advance(job_id, self.running[job_id])
        return events

    def advance(self, job_id: str, running: Running) -> list[tuple[str, Event]]:
        position = running.num_done
        if running.triggers.get("poison") == position:
            os.abort()
        if running.triggers.get("hang") == position:
            ctypes.PyDLL(None).sleep(100_000)  # PyDLL keeps the GIL
        if running.triggers.get("fail") == position:
            self.cancel(job_id)
            return [(job_id, Failed("internal_error", "The model failed on this request."))]
        running.num_done += 1
        self.gpu_us[job_id] = 1000
        self.num_generated += 1
        is_last = running.num_done >= running.request.sampling.max_tokens
        delta = Delta(
            0, (token_at(position),), self.text_of(running, position), finish_reason="length" if is_last else None
        )
        if not is_last:
            return [(job_id, delta)]
        self.cancel(job_id)
        return [(job_id, delta), (job_id, self._finished(running))]

    def text_of(self, running: Running, position: int) -> str:
        return text_at(running.seed, position)

    def cancel(self, request_id: str) -> None:
        self.suspects.discard(request_id)
        self.running.pop(request_id, None)
        self._settled = [item for item in self._settled if item[0] != request_id]

    def interrupt(self) -> None:
        pass

    def clear_suspicion(self, request_id: str) -> None:
        self.suspects.discard(request_id)

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self.running), generated_tokens=self.num_generated)

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        assert "torch" not in sys.modules, "each start would take seconds of the processor"
        time.sleep(float(os.environ.get("CHAOS_LOAD_S", "0")))

    def close(self) -> None:
        for request_id in list(self.running):
            self.cancel(request_id)

    @staticmethod
    def _finished(running: Running) -> Finished:
        return Finished(len(running.request.prompt_ids), running.num_done)


@dataclass(frozen=True)
class FakeLoaded:
    card: ModelCard
    tokenizer: Any = None


def tokenizer_json() -> str:
    """One token a character."""
    vocab = {"[UNK]": 0} | {chr(code): code - 31 for code in range(32, 127)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return str(tokenizer.to_str())


def fake_load(model: str, names: tuple[str, ...], config: Any, tell: Any, keep: Any = None) -> FakeLoaded:
    card = ModelCard(
        queue=names[0],
        names=names,
        root="a weightless engine",
        revision=REVISION,
        architecture="fake",
        max_model_len=100_000,
        vocab_size=VOCAB_SIZE,
        created=int(time.time()),
        tokenizer=tokenizer_json(),
        chat_template=TEMPLATE,
    )
    return FakeLoaded(card)


def fake_open(model: str, names: tuple[str, ...], config: Any, tell: Any, keep: Any) -> FakeEngine:
    return FakeEngine(fake_load(model, names, config, tell), config)


def stand_in(name: str, **members: Any) -> None:
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def leave_out_the_model() -> None:
    """Replace the modules that worker.main imports engines from, so that neither torch nor transformers is loaded."""
    stand_in(
        "worker.configuration",
        engine_config=lambda settings, num_ranks: types.SimpleNamespace(max_num_seqs=settings.model.max_num_seqs),
    )
    stand_in("worker.engine.engine", Engine=FakeEngine)
    stand_in("worker.opening", open_engine=fake_open)
    stand_in("worker.unloaded.cards", cold_card=None, is_current=None, task_of=None)
    stand_in("worker.device", NoSuchDevice=type("NoSuchDevice", (Exception,), {}))
    stand_in("worker.drafting.choose", DraftFault=RuntimeError)
    stand_in("worker.embedding.embedder", Embedder=None)
    stand_in("worker.embedding.encoder_model", load_encoder=None)
    stand_in("worker.sampling.grammar", GrammarCompiler=lambda *args: None)
    stand_in(
        "worker.models.loader",
        EngineConfig=types.SimpleNamespace,
        LoadedModel=FakeLoaded,
        load=fake_load,
        import_family=lambda model: None,
    )
    stand_in("worker.models.kept.state", KeptFault=type("KeptFault", (Exception,), {}))
    stand_in("worker.remote.loader", connect_engine=None)
    alone = types.SimpleNamespace(size=1, join=lambda: None)
    stand_in("worker.ranks", Ranks=None, our_ranks=lambda size: alone)
    stand_in("worker.follower", run=None)
    stand_in("worker.load_failure", give_up=None)
    stand_in("worker.models.download", downloaded=lambda model, tell: tell)
    stand_in("transformers")
    stand_in("transformers.utils")
    stand_in("transformers.utils.import_utils", create_import_structure_from_path=None)
    stand_in("transformers.utils.logging", disable_progress_bar=lambda: None, set_tqdm_hook=None)


def main() -> int:
    leave_out_the_model()
    from tests.chaos.mutations import break_worker

    break_worker()
    from worker.main import main as worker_main

    return worker_main()


if __name__ == "__main__":
    from tests.chaos import fake_worker  # by its name, so that what breaks its classes breaks these

    sys.exit(fake_worker.main())
