"""An encoder as an AnyEngine: texts in, vectors out.

A vector is one Delta: its index is the input's number, its text the base64 of the vector's float32. So the
vectors logged by a dead worker are kept, and its successor embeds the rest.
"""

import base64
import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise, zip_longest

import torch

from common.errors import InvalidRequest, JobFailed
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice
from worker.device import check_device
from worker.embedding.encoder_model import LoadedEncoder
from worker.engine.interface import NOTHING_LOGGED, EngineStats
from worker.engine.requests import Requests
from worker.engine.step import failure_of
from worker.progress import FIRST_STEP, READY, OnProgress

logger = logging.getLogger(__name__)

STEP_TOKENS = 4096  # padding included


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingInput:
    """One input of a request."""

    request_id: str
    index: int
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class EmbeddingState:
    """A request that is being embedded."""

    num_tokens: int
    num_left: int  # inputs still to be embedded


class Embedder:
    """Embeds for many requests at once, an input of each in turn. One thread calls it."""

    state = "ready"

    def __init__(self, loaded: LoadedEncoder, step_tokens: int = STEP_TOKENS) -> None:
        self.card = loaded.card
        self.device = loaded.device
        self.step_tokens = step_tokens
        self._loaded = loaded
        self.requests = Requests[EmbeddingState]()
        self._waiting: deque[EmbeddingInput] = deque()
        self._last_step_s = 0.0

    @property
    def has_work(self) -> bool:
        return self.requests.has_work

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """True while fewer inputs wait than fill two steps; later jobs wait in the queue, where they are visible.

        A request counts for one step at most, so that a long list of inputs keeps no other request out.
        """
        waiting = Counter[str]()
        for item in self._waiting:
            if item.request_id not in without:
                waiting[item.request_id] += len(item.token_ids)
        return sum(min(num_tokens, self.step_tokens) for num_tokens in waiting.values()) < 2 * self.step_tokens

    def has_ample_room(self) -> bool:
        """See AnyEngine."""
        return self.has_room(1, 1)

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        """Admit a request without the inputs whose vectors are logged already."""
        try:
            inputs = [item for item in self._inputs(request) if item.index not in logged]
        except InvalidRequest as error:
            self.requests.settle(request.id, Failed(error.code, error.message))
            return
        if not inputs:
            self.requests.settle(request.id, Finished(len(request.prompt_ids), 0))
            return
        self._waiting += inputs
        state = EmbeddingState(len(request.prompt_ids), len(inputs))
        self.requests.admit(request, state, is_suspect=is_suspect)

    def step(self) -> list[tuple[str, Event]]:
        """Embed the next inputs; returns (request id, event) in order."""
        started = time.perf_counter()
        events = self.requests.take_settled()
        batch = self._next_batch()
        for item, outcome in self._embedded(batch) if batch else ():
            events += self._commit(item, outcome)
        self._last_step_s = time.perf_counter() - started
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
        [(_, outcome)] = self._embedded([EmbeddingInput("warm-up", 0, (0, 0))])
        if isinstance(outcome, Failed):
            raise ValueError(f"{self.card.architecture} does not embed: {outcome.message}")
        on_progress("ready", READY)

    def _inputs(self, request: GenerationRequest) -> list[EmbeddingInput]:
        """The inputs of a request. Raises InvalidRequest."""
        if sum(request.input_lengths) != len(request.prompt_ids) or not request.prompt_ids:
            raise InvalidRequest("This model makes embeddings only.")
        if not 0 < min(request.input_lengths) <= max(request.input_lengths) <= self.card.max_model_len:
            raise InvalidRequest(f"A text has more than {self.card.max_model_len} tokens, or none.")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.card.vocab_size:
            raise InvalidRequest("An input holds a token id outside the vocabulary.")
        bounds = pairwise(accumulate(request.input_lengths, initial=0))
        return [EmbeddingInput(request.id, index, request.prompt_ids[at:end]) for index, (at, end) in enumerate(bounds)]

    def _next_batch(self) -> list[EmbeddingInput]:
        """As many waiting inputs as fit one step; while there are suspects, only theirs."""
        batch: list[EmbeddingInput] = []
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

    def _in_turns(self) -> list[EmbeddingInput]:
        """The first input of each request, then the second of each, and so on."""
        inputs: dict[str, list[EmbeddingInput]] = {}
        for item in self._waiting:
            if not self.requests.suspects or item.request_id in self.requests.suspects:
                inputs.setdefault(item.request_id, []).append(item)
        return [item for turn in zip_longest(*inputs.values()) for item in turn if item is not None]

    def _embedded(self, batch: list[EmbeddingInput]) -> list[tuple[EmbeddingInput, str | Failed]]:
        """The vector of each input. After a failure each input is embedded alone, so that only the culprit fails."""
        try:
            vectors = self._forward(batch)
        except Exception as error:  # an error in one input must not end the others
            failure = failure_of(error)
            if len(batch) == 1:
                logger.exception("request %s failed in its step", batch[0].request_id)
        else:
            return [(item, encoded(vector)) for item, vector in zip(batch, vectors, strict=True)]
        check_device()  # out here, where the error no longer holds the step's tensors
        if len(batch) == 1:
            return [(batch[0], failure)]
        return [outcome for item in batch for outcome in self._embedded([item])]

    @torch.inference_mode()
    def _forward(self, batch: list[EmbeddingInput]) -> torch.Tensor:
        """Vectors [B, D] on the CPU. Padding follows the inputs."""
        length = max(len(item.token_ids) for item in batch)
        ids = torch.tensor([[*item.token_ids, *[0] * (length - len(item.token_ids))] for item in batch])
        mask = torch.tensor([[1] * len(item.token_ids) + [0] * (length - len(item.token_ids)) for item in batch])
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self._loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._loaded.pooling(states, mask).cpu()

    def _commit(self, item: EmbeddingInput, outcome: str | Failed) -> list[tuple[str, Event]]:
        request_id = item.request_id
        state = self.requests.get(request_id)
        if state is None:  # another input of the request failed in this step
            return []
        if isinstance(outcome, Failed):
            self.cancel(request_id)
            return [(request_id, outcome)]
        events: list[tuple[str, Event]] = [(request_id, Delta(item.index, (), outcome, finish_reason="stop"))]
        state.num_left -= 1
        if not state.num_left:
            events.append((request_id, Finished(state.num_tokens, 0)))
            self.requests.remove(request_id)
        return events


def encoded(vector: torch.Tensor) -> str | Failed:
    """The vector as base64 of little-endian float32."""
    if not torch.isfinite(vector).all():
        return Failed(JobFailed.code, "The model gave no usable numbers.")
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
