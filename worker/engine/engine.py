"""The engine: requests in, events out, one forward pass per step for everything that runs.

add -> [waiting] -> schedule -> forward -> sample -> commit -> events

On a GPU the commit of a step comes after the launch of the next one's forward pass (worker/engine/overlap.py).
"""

import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace

import torch

from common.errors import OmniError
from common.wire import Delta, Event, Failed, GenerationRequest, LoggedChoice, SamplingParams
from worker.engine.admission import GrammarCompiler, Intake
from worker.engine.overlap import InFlight, draw_ahead, launch
from worker.engine.scheduler import Scheduler
from worker.engine.step import Outcome, run_step
from worker.models.loader import EngineConfig, LoadedModel
from worker.progress import FIRST_STEP, READY, OnProgress
from worker.runners.choose import build_runner
from worker.sampling.masks import MaskFiller
from worker.sampling.speculation import Drafter
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import RequestState, Sequence


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A look at the engine between two steps."""

    num_running: int
    num_waiting: int
    kv_blocks_used: int
    kv_blocks_total: int
    num_preemptions: int
    prompt_tokens: int  # of all requests so far
    cached_tokens: int  # of these, found in the KV cache
    generated_tokens: int
    last_step_s: float
    memory_used_bytes: int  # on the GPU; 0 on a CPU
    num_preempted: int = 0  # of those that wait: put aside when the KV cache was full
    recomputed_tokens: int = 0  # of those that went on after that, after they made room, or after another worker

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


class Engine:
    """Generates for many requests at once. One thread calls it; `step` never raises for what a request provokes."""

    state = "ready"

    def __init__(self, loaded: LoadedModel, config: EngineConfig, compiler: GrammarCompiler | None = None) -> None:
        self.runner, limits = build_runner(loaded, config)
        self.card = replace(
            loaded.card, max_model_len=limits.max_model_len
        )  # memory may allow less than the model does
        self.device = loaded.device
        self.scheduler = Scheduler(self.runner.kv_cache, limits)
        self.intake = Intake(loaded.tokenizer, self.card, compiler, loaded.images)
        takes_drafts = config.speculate > 0 and self.runner.takes_drafts
        self.drafter = Drafter(config.speculate) if takes_drafts else None
        self.mask_filler = MaskFiller(self.card.vocab_size, loaded.device)
        wants_overlap = self.device.type == "cuda" if config.overlap is None else config.overlap
        self.overlaps = wants_overlap and self.runner.takes_drawn and self.drafter is None  # a guess needs all tokens
        self.requests: dict[str, RequestState] = {}
        self._in_flight: InFlight | None = None
        self._settled: list[tuple[str, Event]] = []  # decided before any step: refusals, and answers already complete
        self._num_prompt_tokens = self._num_cached_tokens = self._num_generated_tokens = 0
        self._last_step_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self.requests or self._settled or self._in_flight)

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """Whether a request of this size would start to run at once, without these others."""
        return self.scheduler.has_room(num_prompt_tokens, n, max_tokens, without)

    def has_ample_room(self) -> bool:
        """Whether a request of any length would start to run at once."""
        return self.scheduler.has_ample_room()

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = {},  # never written
        *,
        is_suspect: bool = False,
    ) -> None:
        """Take a request in. `logged`: what was shown of it already; a suspect runs with no others but suspects."""
        state = self.intake.open(request, logged)
        if not isinstance(state, RequestState):
            self._settled.append((request.id, state))
            return
        self.requests[request.id] = state
        self._num_prompt_tokens += len(request.prompt_ids)
        if is_suspect:
            self.scheduler.suspects.add(request.id)
        for sequence in state.sequences:
            if sequence.finish_reason is None:
                self.scheduler.add(sequence)

    def step(self) -> list[tuple[str, Event]]:
        """Compute the next tokens of everything scheduled; returns (request id, event) in order."""
        started = time.perf_counter()
        events, self._settled = self._settled, []
        if self.drafter is not None:
            self.drafter.draft(self.scheduler.running, self.card.max_model_len)
        rows = self.scheduler.schedule()
        if self.overlaps:
            events += self._overlapped(rows)
        elif rows:
            events += self._run_and_commit(rows)
        self._last_step_s = time.perf_counter() - started
        return events

    def cancel(self, request_id: str) -> None:
        """Forget a request; its place and KV are free at once. Nothing more is said about it."""
        self.scheduler.suspects.discard(request_id)
        self._settled = [(settled_id, event) for settled_id, event in self._settled if settled_id != request_id]
        state = self.requests.pop(request_id, None)
        for sequence in state.sequences if state is not None else []:
            self._retire(sequence)

    def clear_suspicion(self, request_id: str) -> None:
        """The request has shown that it does no harm: let others run beside it."""
        self.scheduler.suspects.discard(request_id)

    def interrupt(self) -> None:
        """A step ends by itself."""

    def stats(self) -> EngineStats:
        pool = self.runner.kv_cache.pool
        return EngineStats(
            num_running=len(self.scheduler.running),
            num_waiting=len(self.scheduler.waiting),
            kv_blocks_used=pool.num_blocks - pool.num_free,
            kv_blocks_total=pool.num_blocks,
            num_preemptions=self.scheduler.num_preemptions,
            prompt_tokens=self._num_prompt_tokens,
            cached_tokens=self._num_cached_tokens,
            generated_tokens=self._num_generated_tokens,
            last_step_s=self._last_step_s,
            memory_used_bytes=torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0,
            num_preempted=self.scheduler.num_preempted,
            recomputed_tokens=self.scheduler.num_recomputed,
        )

    def warm_up(self, on_progress: OnProgress) -> None:
        """Run every kernel once, so that the first caller does not pay for it."""
        self.runner.warm_up(self.scheduler.max_num_seqs, self.card.max_model_len, on_progress)
        on_progress("first step", FIRST_STEP)
        sampling = SamplingParams(max_tokens=2, seed=0, ignore_eos=True)
        self.add(GenerationRequest("warm-up", self.card.names[0], (1,), sampling, cache_salt="warm-up"))
        while self.has_work:
            self.step()
        on_progress("ready", READY)

    def _run_and_commit(self, rows: list[ScheduledSequence]) -> list[tuple[str, Event]]:
        return [event for outcome in run_step(self.runner, rows, self.mask_filler) for event in self._commit(outcome)]

    def _overlapped(self, rows: list[ScheduledSequence]) -> list[tuple[str, Event]]:
        """Launch the rows' forward pass, book the step before meanwhile, and draw for those that go on."""
        before, self._in_flight = self._in_flight, None
        logits = launch(self.runner, rows, before) if rows else None
        outcomes = before.outcomes() if before is not None else []
        events = [event for outcome in outcomes for event in self._commit(outcome)]
        undecided = {outcome.row.sequence for outcome in outcomes if outcome.is_undecided}
        for row in rows:
            row.is_void = row.sequence in undecided
        going = [row for row in rows if self._goes_on(row)]
        if going and logits is not None:
            for row in going:  # what comes to share their blocks is computed after them
                self.runner.kv_cache.remember(row.sequence, row.start)
            self._in_flight = draw_ahead(logits, rows, self._goes_on, self.mask_filler)
        if going and self._in_flight is None:
            events += self._run_and_commit(going)
        return events

    def _goes_on(self, row: ScheduledSequence) -> bool:
        """Its sequence is neither ended nor forgotten."""
        state = self.requests.get(row.sequence.request_id)
        is_ours = state is not None and row.sequence in state.sequences
        return is_ours and row.sequence.finish_reason is None and not row.is_void

    def _commit(self, outcome: Outcome) -> list[tuple[str, Event]]:
        """Book what a row computed, and say so."""
        sequence = outcome.row.sequence
        request_id = sequence.request_id
        if not self._goes_on(outcome.row):  # cancelled meanwhile, or a sibling failed and took the request with it
            return []
        if outcome.failure is not None:
            self.runner.kv_cache.scrub(sequence)
            self.cancel(request_id)
            return [(request_id, outcome.failure)]
        if outcome.is_undecided:
            sequence.take_back()
            return []
        state = self.requests[request_id]
        try:
            delta = self._advance(state, sequence, outcome)
        except OmniError as error:
            self.cancel(request_id)
            return [(request_id, Failed(error.code, error.message))]
        events: list[tuple[str, Event]] = [(request_id, delta)] if delta is not None else []
        if sequence.finish_reason is not None:
            self._retire(sequence)
        if state.is_finished:
            del self.requests[request_id]
            self.scheduler.suspects.discard(request_id)
            events.append((request_id, state.finished()))
        return events

    def _advance(self, state: RequestState, sequence: Sequence, outcome: Outcome) -> Delta | None:
        """Move the sequence past what was computed and append what was drawn; None while its prompt is under way."""
        start = outcome.row.start
        if state.cached_tokens is None:
            state.cached_tokens = min(start, sequence.num_prompt_tokens)
            self._num_cached_tokens += state.cached_tokens
        num_verified = max(len(outcome.token_ids) - 1, 0)
        sequence.draft = []
        text = ""
        num_accepted = 0
        for token_id in outcome.token_ids:
            text += sequence.accept(token_id, self.card.max_model_len)
            num_accepted += 1
            if sequence.finish_reason is not None:
                break
        num_verified = min(num_verified, max(num_accepted - 1, 0))
        sequence.num_computed += num_verified
        self.runner.kv_cache.remember(sequence, start)
        self._num_generated_tokens += num_accepted
        if not num_accepted:
            return None
        return Delta(
            index=sequence.index,
            token_ids=outcome.token_ids[:num_accepted],
            text=text,
            logprobs=outcome.logprobs[:num_accepted],
            finish_reason=sequence.finish_reason,
        )

    def _retire(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence)
        self.runner.forget(sequence)
