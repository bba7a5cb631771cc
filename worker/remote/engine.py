"""An engine whose tokens come from a vLLM server: one HTTP stream per sequence, token ids both ways.

Order, log, resume, and the rules for stops and text stay here; the server only chooses the next tokens. When it dies,
its sequences wait until it is back and continue from the tokens that they have.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from tokenizers import Tokenizer

from common.errors import BackendError, InvalidRequest, JobFailed, OmniError
from common.wire import Delta, Event, Failed, GenerationRequest, LoggedChoice, ModelCard, SamplingParams, TokenLogprob
from worker.engine.admission import Admission
from worker.engine.interface import NOTHING_LOGGED, EngineStats, NoAdapters, WithoutKV
from worker.engine.requests import Requests
from worker.remote.client import Served, VllmClient
from worker.remote.sequence import MAX_LISTED, RemoteSequence
from worker.remote.streams import Streams
from worker.remote.watch import BackendWatch
from worker.remote.wire import Ended, Lost, Refused, StreamEvent, TokenChunk, completion_body
from worker.sampling.grammar import GrammarCompiler
from worker.state.sequence import RequestState

WAIT_S = 0.5  # the longest step without events
MAX_LOST = 2  # answers that break off without a token; the next attempt is the last
DEFAULT_NUM_SEQS = 64


class RemoteEngine(WithoutKV):
    """AnyEngine over HTTP. One thread calls it; the threads of streams and of the watch only wake it."""

    adapters = NoAdapters()
    paces_flex = False

    def __init__(
        self,
        client: VllmClient,
        served: Served,
        card: ModelCard,
        tokenizer: Tokenizer,
        compiler: GrammarCompiler | None,
        max_num_seqs: int | None = None,
    ) -> None:
        self.card = card
        self.device = f"vLLM at {client.url}"
        self.requests = Requests[RequestState]()
        self.take_gpu_us = self.requests.take_gpu_us  # nothing: what the server's GPU did for whom is not known
        self.clear_suspicion = self.requests.suspects.discard
        self.streams = Streams(client, card.vocab_size)
        self.interrupt = self.streams.interrupt
        self.watch = BackendWatch(client, served, self.interrupt)
        self.admission = Admission(tokenizer, card, compiler)
        self.max_num_seqs = max_num_seqs or DEFAULT_NUM_SEQS
        self._remotes: list[RemoteSequence] = []  # unfinished ones in order of arrival
        self._last_step_s = 0.0

    @property
    def state(self) -> str:
        return "away" if self.watch.is_away else "ready"

    @property
    def has_work(self) -> bool:
        return self.requests.has_work

    def has_room(
        self,
        num_prompt_tokens: int,
        n: int,
        max_tokens: int = 1,
        without: Collection[str] = (),
        *,
        is_flex: bool = False,
    ) -> bool:
        """See AnyEngine. While the server is away, jobs wait in the queue; flex ones also while others run."""
        if self.watch.is_away or (is_flex and any(not remote.sequence.is_flex for remote in self._remotes)):
            return False
        num_seqs = sum(remote.sequence.request_id not in without for remote in self._remotes)
        return not num_seqs or num_seqs + n <= self.max_num_seqs

    def has_ample_room(self, *, is_flex: bool = False) -> bool:
        """See AnyEngine."""
        return self.has_room(1, 1, is_flex=is_flex)

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        """See AnyEngine. The first tokens of suspects come one by one, before other requests start."""
        state = self.admission.open(request, logged)
        if len(request.sampling.logit_bias) > MAX_LISTED:
            state = Failed(InvalidRequest.code, f"logit_bias may name {MAX_LISTED} tokens here.")
        if not isinstance(state, RequestState):
            self.requests.settle(request.id, state)
            return
        self.requests.admit(request, state, is_suspect=is_suspect)
        for sequence in state.sequences:
            if sequence.finish_reason is None:
                self._remotes.append(RemoteSequence(sequence, self.card.vocab_size))

    def step(self) -> list[tuple[str, Event]]:
        """Open the streams that may be opened, wait for their events, and return what they mean, in order."""
        started = time.perf_counter()
        events = self.requests.take_settled()
        for remote in list(self._startable()):
            events += self._guarded(remote, self._start)
        for remote, event in self.streams.events(0.0 if events else WAIT_S):
            events += self._guarded(remote, partial(self._receive, event=event))
        self._last_step_s = time.perf_counter() - started
        return events

    def cancel(self, request_id: str) -> None:
        """Drop a request; closing its connections tells the server."""
        self.requests.remove(request_id)
        for remote in [remote for remote in self._remotes if remote.sequence.request_id == request_id]:
            self._retire(remote)

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self.streams),
            num_waiting=max(0, len(self._remotes) - len(self.streams)),
            num_places=self.max_num_seqs,
            prompt_tokens=self.requests.num_prompt_tokens,
            generated_tokens=self.requests.num_generated_tokens,
            last_step_s=self._last_step_s,
        )

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """Generate one token. Raises ValueError when the server does not speak our wire."""
        on_progress("first token", 0.9)
        self.watch.start()
        sampling = SamplingParams(max_tokens=1, seed=0, temperature=0.0, ignore_eos=True, logprobs=1)
        self.add(GenerationRequest("warm-up", self.card.names[0], (1,), sampling))
        while self.has_work:
            for _, event in self.step():
                if isinstance(event, Failed):
                    raise ValueError(event.message)

    def close(self) -> None:
        """See AnyEngine. The server stays."""
        for request_id, _ in self.requests.items():
            self.cancel(request_id)
        self.watch.stop()

    def _startable(self) -> Iterator[RemoteSequence]:
        """Sequences without a stream that may get one now."""
        if self.watch.is_away:
            return
        suspects = self.requests.suspects
        idle = (remote for remote in self._remotes if remote.stream is None)
        if not suspects:
            yield from idle
        elif not any(remote.sequence.request_id in suspects for remote in self.streams.sequences):
            yield from [remote for remote in idle if remote.sequence.request_id in suspects][:1]

    def _guarded(
        self, remote: RemoteSequence, work: Callable[[RemoteSequence], list[tuple[str, Event]]]
    ) -> list[tuple[str, Event]]:
        """Do the work. An error in one sequence ends its request and no other."""
        request_id = remote.sequence.request_id
        if request_id not in self.requests:  # a sibling failed in this step
            return []
        try:
            return work(remote)
        except OmniError as error:
            self.cancel(request_id)
            return [(request_id, Failed(error.code, error.message))]

    def _start(self, remote: RemoteSequence) -> list[tuple[str, Event]]:
        """Take the tokens that the grammar forces, then request the next ones."""
        forced, text = remote.accept_forced(self.card.max_model_len)
        events = self._advanced(remote, forced, text)
        if remote.sequence.finish_reason is None:
            question = remote.question(self.card.max_model_len)
            self.streams.open(remote, completion_body(self.watch.served.model, remote.sequence, question))
        return events

    def _receive(self, remote: RemoteSequence, event: StreamEvent) -> list[tuple[str, Event]]:
        if isinstance(event, TokenChunk):
            accepted, text, is_complete = remote.accept_allowed(event.token_ids, self.card.max_model_len)
            if not is_complete:
                self.streams.close(remote)
            return self._advanced(remote, accepted, text, event.logprobs)
        self.streams.close(remote)
        if isinstance(event, Refused):
            raise JobFailed(event.message, code=event.code)
        if isinstance(event, Lost):
            self._count_lost(remote, event)
        elif isinstance(event, Ended) and remote.sequence.num_completion_tokens == remote.num_before:
            raise BackendError("The engine behind this service ended an answer without a token.")
        return []  # an unfinished sequence gets another stream in the next step

    def _count_lost(self, remote: RemoteSequence, event: Lost) -> None:
        """The server died, or this request kills it: a request that loses two answers in a row becomes a suspect."""
        self.watch.doubt(event.reason)
        remote.num_lost += event.was_asked
        if remote.num_lost > MAX_LOST:
            raise BackendError(
                f"The engine behind this service broke this request off {remote.num_lost} times ({event.reason})."
            )
        if remote.num_lost == MAX_LOST:
            self.requests.suspects.add(remote.sequence.request_id)

    def _advanced(
        self, remote: RemoteSequence, token_ids: list[int], text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[tuple[str, Event]]:
        """The events of a sequence that has accepted these tokens."""
        if not token_ids:
            return []
        sequence = remote.sequence
        request_id = sequence.request_id
        self.requests.suspects.discard(request_id)
        self.requests.num_generated_tokens += len(token_ids)
        delta = Delta(sequence.index, tuple(token_ids), text, logprobs[: len(token_ids)], sequence.finish_reason)
        events: list[tuple[str, Event]] = [(request_id, delta)]
        if sequence.finish_reason is not None:
            self._retire(remote)
        state = self.requests[request_id]
        if state.is_finished:
            self.requests.remove(request_id)
            events.append((request_id, state.finished()))
        return events

    def _retire(self, remote: RemoteSequence) -> None:
        self.streams.close(remote)
        self._remotes.remove(remote)
