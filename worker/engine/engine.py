"""The engine: requests in, events out, one forward pass per step for all running sequences.

add -> [waiting] -> schedule -> forward -> sample -> commit -> events
"""

import time
from collections.abc import Mapping
from dataclasses import replace

from common.errors import OmniError
from common.wire import Delta, Event, Failed, GenerationRequest, LoggedChoice, SamplingParams
from worker.device import return_memory, used_bytes
from worker.drafting.choose import choose_guesser, drafter_with, with_usual_number
from worker.engine.adapters import EngineAdapters
from worker.engine.admission import Admission
from worker.engine.interface import NOTHING_LOGGED, EngineStats
from worker.engine.memory.sizing import KVSizing
from worker.engine.memory.sleeping import Sleeping, adopt_all
from worker.engine.meter import Meter
from worker.engine.reading import Reading
from worker.engine.requests import Requests
from worker.engine.scheduler import Scheduler
from worker.engine.step import Outcome, Step
from worker.models.formats.reader import mapped_bytes
from worker.models.loader import EngineConfig, LoadedModel
from worker.progress import FIRST_STEP, READY, OnProgress
from worker.runners.choose import build_runner
from worker.sampling.masks import MaskFiller
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Grammars, RequestState, Sequence


class Engine:
    """Generates for many requests at once. One thread calls it; `step` never raises for what a request provokes."""

    state = "ready"
    paces_flex = True

    def __init__(self, loaded: LoadedModel, config: EngineConfig, compiler: Grammars | None = None) -> None:
        config = with_usual_number(config)
        self.requests = Requests[RequestState]()
        self.adapters = EngineAdapters(loaded, config, self.requests)
        guesser = choose_guesser(loaded, config)  # before the memory for the KV cache is measured
        adopt_all(loaded, guesser)
        self.runner, limits = build_runner(loaded, config, guesser.kv_bytes_per_token if guesser is not None else 0)
        adopt_all(loaded, self.runner, loaded.model)
        self.adapters.attach(self.runner)
        self.card = replace(loaded.card, max_model_len=limits.max_model_len)  # memory may allow less than the model
        self.device = loaded.device
        self.mapped_bytes = mapped_bytes(loaded.model)
        reading = Reading(limits, is_timed=self.device.type == "cpu")
        self.meter = Meter(self.requests, reading)
        self.scheduler = Scheduler(self.runner.kv_cache, limits, self.requests.suspects, self.meter.flex, reading)
        self.has_room = self.scheduler.capacity.has_room  # these five: see AnyEngine
        self.has_ample_room = self.scheduler.capacity.has_ample_room
        self.take_gpu_us = self.requests.take_gpu_us
        self.admission = Admission(loaded.tokenizer, self.card, compiler, loaded.images, self.adapters)
        self.drafter = drafter_with(guesser, config, self.runner, limits)
        self.sizing = KVSizing(self.scheduler, limits, self.drafter)
        self.resize_kv, self.take_kv_demand = self.sizing.resize, self.sizing.take_demand
        self.sleeping = Sleeping(loaded.arena, self.runner, self.drafter, self.sizing)
        self.mask_filler = MaskFiller(self.card.vocab_size, loaded.device)
        wants_overlap = self.device.type == "cuda" if config.overlap is None else config.overlap
        self.overlaps = wants_overlap and self.runner.takes_pending and not self.drafter.is_on  # drafts need all tokens
        self._in_flight: Step | None = None  # the last step while its samples are still to be read
        self.num_cached_tokens = 0
        self.last_step_s = 0.0
        self.last_step_tokens = 0
        self.is_closed = False

    def step(self) -> list[tuple[str, Event]]:
        """Schedule, forward, sample, commit; returns (request id, event) in order.

        When steps overlap, the device computes a step while the tokens of the step before are read and committed.
        """
        started = time.perf_counter()
        events = self.requests.take_settled()
        step = Step(self._schedule(), started)
        step.forward(self.runner, self.mask_filler, self._in_flight)
        events += self._commit(self._in_flight)  # overlap: the step before, while the device computes this one
        step.sample(self.mask_filler, self._is_live, may_defer=self.overlaps)
        self._in_flight = step if self.overlaps and step.sampled is not None else None
        if self._in_flight is None:
            events += self._commit(step)  # no overlap, or a failure
            self.drafter.note(step.batch, self._is_live, has_failed=step.failure is not None)
        else:
            for row in step.leave_pending(self._is_live):
                self.scheduler.share(row)
        self.last_step_s = time.perf_counter() - started
        self.last_step_tokens = sum(row.num_inputs for row in step.batch)
        return events

    @property
    def kv_bytes(self) -> int:
        """See AnyEngine."""
        return 0 if self.is_closed else self.sizing.num_bytes

    @property
    def has_work(self) -> bool:
        return self.requests.has_work or self._in_flight is not None

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        """Admit a request. `logged`: the part of its answer that the log holds; suspects run apart from others."""
        state = self.admission.open(request, logged)
        if not isinstance(state, RequestState):
            self.requests.settle(request.id, state)
            return
        self.requests.admit(request, state, is_suspect=is_suspect)
        for sequence in state.sequences:
            if sequence.finish_reason is None:
                self.scheduler.add(sequence)

    def cancel(self, request_id: str) -> None:
        """Drop a request; its place and its KV blocks are free at once."""
        state = self.requests.remove(request_id)
        for sequence in state.sequences if state is not None else []:
            self._retire(sequence)

    def clear_suspicion(self, request_id: str) -> None:
        """See AnyEngine."""
        self.requests.suspects.discard(request_id)

    def interrupt(self) -> None:
        """A step never only waits."""

    def stats(self) -> EngineStats:
        return EngineStats() if self.is_closed else stats_of(self)

    def warm_up(self, on_progress: OnProgress) -> None:
        """Run every kernel once, so that the first caller does not pay for it. Raises RuntimeError if a step fails."""
        for part in () if self.sleeping.is_warm else (self.runner, self.drafter):
            part.warm_up(self.scheduler.max_num_seqs, self.card.max_model_len, on_progress)
        run_first_step(self, on_progress)
        self.sleeping.is_warm = True

    def close(self) -> None:
        """See AnyEngine."""
        if self.is_closed:
            return
        for request_id, _ in self.requests.items():
            self.cancel(request_id)
        self.runner.kv_cache.drop()
        self.sleeping.close()
        self.is_closed, self._in_flight = True, None
        del self.runner, self.scheduler, self.drafter, self.admission, self.adapters, self.mask_filler, self.meter
        del self.has_room, self.has_ample_room, self.sizing, self.resize_kv, self.take_kv_demand
        del self.sleeping
        return_memory()

    def _schedule(self) -> list[ScheduledSequence]:
        """The next batch, with drafts where speculation is on."""
        self.drafter.draft(self.scheduler.running, self.card.max_model_len, has_others=self.scheduler.has_others)
        return self.scheduler.schedule()

    def _is_live(self, row: ScheduledSequence) -> bool:
        """True if the row's sequence has neither ended nor been cancelled, and its inputs are valid."""
        state = self.requests.get(row.sequence.request_id)
        is_ours = state is not None and row.sequence in state.sequences
        return is_ours and row.sequence.finish_reason is None and not row.is_void

    def _commit(self, step: Step | None) -> list[tuple[str, Event]]:
        """Wait for a step's samples, and append them to their sequences."""
        if step is None:
            return []
        outcomes = step.outcomes(self.runner, self.mask_filler, self._is_live)
        events = [event for outcome in outcomes for event in self._commit_row(outcome)]
        self.meter.committed(step)
        return events

    def _commit_row(self, outcome: Outcome) -> list[tuple[str, Event]]:
        sequence = outcome.row.sequence
        request_id = sequence.request_id
        if not self._is_live(outcome.row):
            return []
        if outcome.failure is not None:
            self.runner.kv_cache.zero(sequence)
            self.cancel(request_id)
            return [(request_id, outcome.failure)]
        state = self.requests[request_id]
        self.num_cached_tokens += state.note_start(outcome.row.start, self.runner.kv_cache.block_size)
        if outcome.is_undecided:
            sequence.take_back()
            return []
        try:
            delta = self._accept(outcome)
        except OmniError as error:
            self.cancel(request_id)
            return [(request_id, Failed(error.code, error.message))]
        events: list[tuple[str, Event]] = []
        if delta is not None:
            events.append((request_id, delta))
            self.meter.answered(state)
        if sequence.finish_reason is not None:
            self._retire(sequence)
        if state.is_finished:
            self.requests.remove(request_id)
            events.append((request_id, state.finished()))
        return events

    def _accept(self, outcome: Outcome) -> Delta | None:
        """Append a row's tokens to its sequence until it ends; None while its prompt is being computed."""
        row, sequence = outcome.row, outcome.row.sequence
        text = ""
        num_accepted = 0
        for token_id in outcome.token_ids:
            text += sequence.accept(token_id, self.card.max_model_len)
            num_accepted += 1
            if sequence.finish_reason is not None:
                break
        self.scheduler.commit(row, num_accepted)
        self.drafter.verified(row, num_accepted)
        self.requests.num_generated_tokens += num_accepted
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
        self.drafter.forget(sequence)


def run_first_step(engine: Engine, on_progress: OnProgress) -> None:
    """An answer of two tokens. Raises RuntimeError if it fails."""
    on_progress("first step", FIRST_STEP)
    name, sampling = engine.card.names[0], SamplingParams(max_tokens=2, seed=0, ignore_eos=True)
    engine.add(GenerationRequest("warm-up", name, (1,), sampling, cache_salt="warm-up", is_flex=True))
    while engine.has_work:
        for _, event in engine.step():
            if isinstance(event, Failed):
                raise RuntimeError(f"the first step failed: {event.message}")
    on_progress("ready", READY)


def stats_of(engine: Engine) -> EngineStats:
    """Of an engine that is not closed."""
    cache, requests, scheduler = engine.runner.kv_cache, engine.requests, engine.scheduler
    return EngineStats(
        num_running=len(scheduler.running),
        num_waiting=len(scheduler.waiting),
        num_places=scheduler.max_num_seqs,
        kv_blocks_used=cache.pool.num_used,
        kv_blocks_total=cache.pool.num_blocks,
        kv_block_size=cache.block_size,
        kv_dtype=str(cache.keys[0].dtype).removeprefix("torch.") if cache.keys else "",
        num_preemptions=scheduler.num_preemptions,
        prompt_tokens=requests.num_prompt_tokens,
        cached_tokens=engine.num_cached_tokens,
        generated_tokens=requests.num_generated_tokens,
        last_step_s=engine.last_step_s,
        memory_used_bytes=used_bytes(engine.device) + engine.sleeping.card_bytes,
        num_preempted=scheduler.num_preempted,
        recomputed_tokens=scheduler.num_recomputed,
        drafts=engine.drafter.num_drafts,
        draft_tokens=engine.drafter.num_drafted,
        accepted_tokens=engine.drafter.num_accepted,
    )
