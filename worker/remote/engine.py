"""An engine whose tokens come from a vLLM server: one HTTP stream per sequence, token ids both ways.

Order, log, resume and every rule about ends and text stay here; the server only says which token comes next. When it
dies, its sequences wait until it is back and go on from the tokens that they have.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial

from tokenizers import Tokenizer

from common.errors import InvalidRequest, OmniError
from common.wire import (
    Delta,
    Event,
    Failed,
    GenerationRequest,
    LoggedChoice,
    ModelCard,
    SamplingParams,
    TokenLogprob,
)
from worker.engine.admission import GrammarCompiler, Intake
from worker.engine.engine import EngineStats
from worker.remote.client import Served, Stream, VllmClient
from worker.remote.sequence import MAX_LISTED, RemoteSequence
from worker.remote.watch import BackendWatch
from worker.remote.wire import BAD_ANSWER, Ended, Lost, News, Refused, Tokens, completion_body
from worker.state.sequence import RequestState

WAIT_S = 0.5  # the longest step without news
MAX_LOST = 2  # answers that break off without a token; the next try is the last
DEFAULT_NUM_SEQS = 64


class RemoteEngine:
    """worker/engine/interface.py over HTTP. One thread calls it; streams and the watch only put news down and ring."""

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
        self.requests: dict[str, RequestState] = {}
        self.suspects: set[str] = set()  # request ids; their first tokens come one by one, before others start
        self.watch = BackendWatch(client, served, self.interrupt)
        self._client = client
        self._intake = Intake(tokenizer, card, compiler)
        self._max_num_seqs = max_num_seqs or DEFAULT_NUM_SEQS
        self._remotes: list[RemoteSequence] = []  # what is not finished, in order of arrival
        self._streams: dict[Stream, RemoteSequence] = {}
        self._settled: list[tuple[str, Event]] = []
        self._news: deque[tuple[Stream, News]] = deque()
        self._bell = threading.Event()
        self._num_prompt_tokens = self._num_generated_tokens = 0
        self._last_step_s = 0.0

    @property
    def state(self) -> str:
        return "away" if self.watch.is_away else "ready"

    @property
    def has_work(self) -> bool:
        return bool(self.requests or self._settled)

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """Whether a request of this size would start at once. While the server is away, jobs wait in the line."""
        if self.watch.is_away:
            return False
        num_seqs = sum(remote.sequence.request_id not in without for remote in self._remotes)
        return not num_seqs or num_seqs + n <= self._max_num_seqs

    def has_ample_room(self) -> bool:
        """Whether a request of any length would start at once."""
        return self.has_room(1, 1)

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = {},  # never written
        *,
        is_suspect: bool = False,
    ) -> None:
        """See Engine.add."""
        state = self._intake.open(request, logged)
        if len(request.sampling.logit_bias) > MAX_LISTED:
            state = Failed(InvalidRequest.code, f"logit_bias may name {MAX_LISTED} tokens here.")
        if not isinstance(state, RequestState):
            self._settled.append((request.id, state))
            return
        self.requests[request.id] = state
        self._num_prompt_tokens += len(request.prompt_ids)
        if is_suspect:
            self.suspects.add(request.id)
        for sequence in state.sequences:
            if sequence.finish_reason is None:
                self._remotes.append(RemoteSequence(sequence, self.card.vocab_size))

    def step(self) -> list[tuple[str, Event]]:
        """Ask for what can be asked, wait for news, and return what it means, in order."""
        started = time.perf_counter()
        events, self._settled = self._settled, []
        for remote in list(self._startable()):
            events += self._guarded(remote, self._start)
        if not events:
            self._bell.wait(WAIT_S)
        self._bell.clear()
        while self._news:
            stream, news = self._news.popleft()
            remote_of = self._streams.get(stream)
            if remote_of is not None:  # else we have broken it off meanwhile
                events += self._guarded(remote_of, partial(self._hear, news=news))
        self._last_step_s = time.perf_counter() - started
        return events

    def interrupt(self) -> None:
        """End the wait of the step under way: there is something else to do. For any thread."""
        self._bell.set()

    def cancel(self, request_id: str) -> None:
        """Forget a request; the server is told by the end of its connections."""
        self.suspects.discard(request_id)
        self._settled = [(settled_id, event) for settled_id, event in self._settled if settled_id != request_id]
        self.requests.pop(request_id, None)
        for remote in [remote for remote in self._remotes if remote.sequence.request_id == request_id]:
            self._retire(remote)

    def clear_suspicion(self, request_id: str) -> None:
        self.suspects.discard(request_id)

    def stats(self) -> EngineStats:
        num_running = len(self._streams)
        return EngineStats(
            num_running=num_running,
            num_waiting=max(0, len(self._remotes) - num_running),
            kv_blocks_used=0,
            kv_blocks_total=0,
            num_preemptions=0,
            prompt_tokens=self._num_prompt_tokens,
            cached_tokens=0,
            generated_tokens=self._num_generated_tokens,
            last_step_s=self._last_step_s,
            memory_used_bytes=0,
        )

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """Ask for one token. Raises ValueError when the server does not speak our wire."""
        on_progress("first token", 0.9)
        self.watch.start()
        sampling = SamplingParams(max_tokens=1, seed=0, temperature=0.0, ignore_eos=True, logprobs=1)
        self.add(GenerationRequest("warm-up", self.card.names[0], (1,), sampling))
        while self.has_work:
            for _, event in self.step():
                if isinstance(event, Failed):
                    raise ValueError(event.message)

    def _startable(self) -> Iterator[RemoteSequence]:
        """Those without a stream that may have one now."""
        if self.watch.is_away:
            return
        idle = (remote for remote in self._remotes if remote.stream is None)
        if not self.suspects:
            yield from idle
        elif not any(remote.sequence.request_id in self.suspects for remote in self._streams.values()):
            yield from [remote for remote in idle if remote.sequence.request_id in self.suspects][:1]

    def _guarded(
        self, remote: RemoteSequence, work: Callable[[RemoteSequence], list[tuple[str, Event]]]
    ) -> list[tuple[str, Event]]:
        """What goes wrong with one sequence ends its request and no other."""
        request_id = remote.sequence.request_id
        if request_id not in self.requests:  # a sibling failed in this step
            return []
        try:
            return work(remote)
        except OmniError as error:
            self.cancel(request_id)
            return [(request_id, Failed(error.code, error.message))]

    def _start(self, remote: RemoteSequence) -> list[tuple[str, Event]]:
        """Take what the grammar leaves no choice about, then ask for the rest."""
        forced: list[int] = []
        text = ""
        while remote.sequence.finish_reason is None and (token_id := remote.only_choice) is not None:
            text += remote.accept(token_id, self.card.max_model_len)
            forced.append(token_id)
        events = self._advanced(remote, forced, text)
        if remote.sequence.finish_reason is None:
            question = remote.question(self.card.max_model_len)
            if question.allowed is not None and not question.allowed:
                raise OmniError("The grammar leaves no token here.", code="grammar_failed")
            body = completion_body(self.watch.served.model, remote.sequence, question)
            stream = Stream(self._client, body, self.card.vocab_size, self._put_down)
            remote.stream, remote.num_before = stream, remote.sequence.num_completion_tokens
            self._streams[stream] = remote
            stream.start()
        return events

    def _put_down(self, stream: Stream, news: News) -> None:
        """Called by a stream's thread."""
        self._news.append((stream, news))
        self._bell.set()

    def _hear(self, remote: RemoteSequence, news: News) -> list[tuple[str, Event]]:
        if isinstance(news, Tokens):
            return self._take(remote, news)
        self._close(remote)
        if isinstance(news, Refused):
            raise OmniError(news.message, code=news.code)
        if isinstance(news, Ended):
            if remote.sequence.num_completion_tokens == remote.num_before:
                raise OmniError("The engine behind this service ended an answer without a token.", code=BAD_ANSWER)
            return []  # what is not finished is asked again in the next step
        return self._lose(remote, news)

    def _take(self, remote: RemoteSequence, news: Tokens) -> list[tuple[str, Event]]:
        """Accept the tokens up to the sequence's end, or to one that the grammar does not allow."""
        kept: list[int] = []
        text = ""
        for token_id in news.token_ids:
            if not remote.may_keep(token_id):
                self._close(remote)
                break
            text += remote.accept(token_id, self.card.max_model_len)
            kept.append(token_id)
            if remote.sequence.finish_reason is not None:
                break
        return self._advanced(remote, kept, text, news.logprobs)

    def _lose(self, remote: RemoteSequence, news: Lost) -> list[tuple[str, Event]]:
        """The server died, or this request kills it: who lost it twice without a token is a suspect now."""
        self.watch.doubt(news.reason)
        remote.num_lost += news.was_asked
        if remote.num_lost > MAX_LOST:
            raise OmniError(
                f"The engine behind this service broke this request off {remote.num_lost} times ({news.reason}).",
                code=BAD_ANSWER,
            )
        if remote.num_lost == MAX_LOST:
            self.suspects.add(remote.sequence.request_id)
        return []

    def _advanced(
        self,
        remote: RemoteSequence,
        token_ids: list[int],
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> list[tuple[str, Event]]:
        """What a sequence that took these tokens has to say."""
        if not token_ids:
            return []
        sequence = remote.sequence
        self.suspects.discard(sequence.request_id)
        self._num_generated_tokens += len(token_ids)
        delta = Delta(sequence.index, tuple(token_ids), text, logprobs[: len(token_ids)], sequence.finish_reason)
        events: list[tuple[str, Event]] = [(sequence.request_id, delta)]
        if sequence.finish_reason is not None:
            self._retire(remote)
        state = self.requests[sequence.request_id]
        if state.is_finished:
            del self.requests[sequence.request_id]
            events.append((sequence.request_id, state.finished()))
        return events

    def _retire(self, remote: RemoteSequence) -> None:
        self._close(remote)
        self._remotes.remove(remote)

    def _close(self, remote: RemoteSequence) -> None:
        if remote.stream is not None:
            remote.stream.close()
            del self._streams[remote.stream]
            remote.stream = None
