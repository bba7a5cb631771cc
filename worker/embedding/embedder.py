"""An encoder as an AnyEngine: texts in, vectors or scores out.

A vector is one Delta: its index is the input's number, its text the base64 of the vector's float32. A score is a vector
of one number, and its index the pair's. So what a dead worker has logged is kept, and its successor computes the rest.
"""

import base64
import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest

import torch

from common.errors import InvalidRequest, JobFailed
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice
from worker.device import check_device, return_memory
from worker.embedding.encoder_model import Encoder
from worker.embedding.inputs import EncoderInput, inputs_of
from worker.embedding.similarity import PairScores
from worker.engine.interface import NOTHING_LOGGED, EngineStats, NoAdapters, WithoutKV
from worker.engine.requests import Requests
from worker.engine.step import failure_of
from worker.progress import FIRST_STEP, READY, OnProgress

logger = logging.getLogger(__name__)

STEP_TOKENS = 4096  # padding included


@dataclass(slots=True)
class EmbeddingState:
    """A request that is being embedded."""

    num_tokens: int
    num_left: int  # inputs still to be embedded
    is_flex: bool
    scores: PairScores | None  # None: the answer is the inputs' own vectors, or a cross-encoder's scores


class Embedder(WithoutKV):
    """Embeds for many requests at once, an input of each in turn. One thread calls it."""

    state = "ready"
    adapters = NoAdapters()
    paces_flex = True

    def __init__(self, loaded: Encoder, step_tokens: int = STEP_TOKENS) -> None:
        self.card = loaded.card
        self.device = loaded.device
        self.step_tokens = step_tokens
        self._loaded: Encoder | None = loaded  # None: closed
        self.requests = Requests[EmbeddingState]()
        self._waiting: deque[EncoderInput] = deque()
        self._last_step_s = 0.0

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
        """True while fewer inputs wait than fill two steps; later jobs wait in the queue, where they are visible.

        A request counts for one step at most, so that a long list of inputs keeps no other request out. Flex inputs go
        after all others, and count for nothing among them.
        """
        waiting = Counter[str]()
        for item in self._waiting:
            if item.request_id not in without and (is_flex or not self.requests[item.request_id].is_flex):
                waiting[item.request_id] += len(item.token_ids)
        return sum(min(num_tokens, self.step_tokens) for num_tokens in waiting.values()) < 2 * self.step_tokens

    def has_ample_room(self, *, is_flex: bool = False) -> bool:
        """See AnyEngine."""
        return self.has_room(1, 1, is_flex=is_flex)

    def take_gpu_us(self) -> dict[str, int]:
        """See AnyEngine."""
        return self.requests.take_gpu_us()

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        """Admit a request without the inputs whose vectors or scores are logged already."""
        scores = PairScores(request.pairs, logged) if request.pairs else None
        try:
            inputs = [
                item
                for item in inputs_of(request, self.card)
                if (item.index not in logged if scores is None else scores.needs(item.index))
            ]
        except InvalidRequest as error:
            self.requests.settle(request.id, Failed(error.code, error.message))
            return
        if not inputs:
            self.requests.settle(request.id, Finished(len(request.prompt_ids), 0))
            return
        self._waiting += sorted(inputs, key=lambda item: len(item.token_ids))  # they are padded to the longest
        state = EmbeddingState(len(request.prompt_ids), len(inputs), request.is_flex, scores)
        self.requests.admit(request, state, is_suspect=is_suspect)

    def step(self) -> list[tuple[str, Event]]:
        """Embed the next inputs; returns (request id, event) in order."""
        started = time.perf_counter()
        events = self.requests.take_settled()
        batch = self._next_batch()
        for item, outcome in self._embedded(batch) if batch else ():
            events += self._commit(item, outcome)
        self._last_step_s = time.perf_counter() - started
        num_tokens = sum(len(item.token_ids) for item in batch)
        for item in batch:
            seconds = self.requests.seconds.get(item.request_id, 0.0)
            self.requests.seconds[item.request_id] = seconds + self._last_step_s * len(item.token_ids) / num_tokens
        return events

    def cancel(self, request_id: str) -> None:
        """See AnyEngine."""
        self.requests.remove(request_id)
        self._waiting = deque(item for item in self._waiting if item.request_id != request_id)

    def clear_suspicion(self, request_id: str) -> None:
        """See AnyEngine."""
        self.requests.suspects.discard(request_id)

    def interrupt(self) -> None:
        """A step never only waits."""

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self.requests),
            last_step_s=self._last_step_s,
            memory_used_bytes=torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0,
        )

    def warm_up(self, on_progress: OnProgress) -> None:
        """Embed one input. Raises ValueError for a model without hidden states."""
        on_progress("first step", FIRST_STEP)
        [(_, outcome)] = self._embedded([EncoderInput("warm-up", 0, (0, 0), 1)])
        if isinstance(outcome, Failed):
            verb = "score" if self.card.task == "score" else "embed"
            raise ValueError(f"{self.card.architecture} does not {verb}: {outcome.message}")
        on_progress("ready", READY)

    def close(self) -> None:
        """See AnyEngine."""
        for request_id, _ in self.requests.items():
            self.cancel(request_id)
        self._loaded = None
        return_memory()

    def _next_batch(self) -> list[EncoderInput]:
        """As many waiting inputs as fit one step, flex ones in steps of their own; while there are suspects, theirs."""
        batch: list[EncoderInput] = []
        longest = 0
        for item in self._in_turns():
            longest = max(longest, len(item.token_ids))
            if batch and longest * (len(batch) + 1) > self.step_tokens:
                break
            batch.append(item)
        chosen = set(batch)
        served = {item.request_id for item in batch}
        left = [item for item in self._waiting if item not in chosen]
        self._waiting = deque(sorted(left, key=lambda item: item.request_id in served))  # their requests' turn is over
        return batch

    def _in_turns(self) -> list[EncoderInput]:
        """The first input of each request, then the second of each, and so on."""
        suspects = self.requests.suspects
        runnable = [item for item in self._waiting if not suspects or item.request_id in suspects]
        inputs: dict[str, list[EncoderInput]] = {}
        for item in [item for item in runnable if not self.requests[item.request_id].is_flex] or runnable:
            inputs.setdefault(item.request_id, []).append(item)
        return [item for turn in zip_longest(*inputs.values()) for item in turn if item is not None]

    def _embedded(self, batch: list[EncoderInput]) -> list[tuple[EncoderInput, torch.Tensor | Failed]]:
        """The vector of each input. After a failure each input is embedded alone, so that only the culprit fails."""
        assert self._loaded is not None
        try:
            vectors = self._loaded(batch)
        except Exception as error:  # an error in one input must not end the others
            failure = failure_of(error)
            if len(batch) == 1:
                logger.exception("request %s failed in its step", batch[0].request_id)
        else:
            return [(item, checked(vector)) for item, vector in zip(batch, vectors, strict=True)]
        check_device()  # out here, where the error no longer holds the step's tensors
        if len(batch) == 1:
            return [(batch[0], failure)]
        return [outcome for item in batch for outcome in self._embedded([item])]

    def _commit(self, item: EncoderInput, outcome: torch.Tensor | Failed) -> list[tuple[str, Event]]:
        request_id = item.request_id
        state = self.requests.get(request_id)
        if state is None:  # another input of the request failed in this step
            return []
        if isinstance(outcome, Failed):
            self.cancel(request_id)
            return [(request_id, outcome)]
        found = [(item.index, outcome)] if state.scores is None else state.scores.add(item.index, outcome)
        events: list[tuple[str, Event]] = [
            (request_id, Delta(index, (), encoded(vector), finish_reason="stop")) for index, vector in found
        ]
        state.num_left -= 1
        if not state.num_left:
            events.append((request_id, Finished(state.num_tokens, 0)))
            self.requests.remove(request_id)
        return events


def checked(vector: torch.Tensor) -> torch.Tensor | Failed:
    is_usable = torch.isfinite(vector).all()
    return vector if is_usable else Failed(JobFailed.code, "The model gave no usable numbers.")


def encoded(vector: torch.Tensor) -> str:
    """The vector as base64 of little-endian float32."""
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
