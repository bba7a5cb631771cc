"""The engine of an encoder: texts in, vectors out. It has worker/engine/engine.py's interface, so a job is a job.

A vector is one Delta: its index is the text's number, its text the base64 of the vector's float32. So what a dead
worker logged is kept, and its successor embeds the rest.
"""

import base64
import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise, zip_longest

import torch

from common.errors import InvalidRequest
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, LoggedChoice
from worker.device import check_device
from worker.embedding.encoder_model import LoadedEncoder
from worker.engine.engine import EngineStats
from worker.engine.step import failure_of
from worker.progress import FIRST_STEP, READY, OnProgress

logger = logging.getLogger(__name__)

STEP_TOKENS = 4096  # padding included


@dataclass(frozen=True, slots=True)
class Text:
    """One input of a request."""

    request_id: str
    index: int
    token_ids: tuple[int, ...]


class Embedder:
    """Embeds for many requests at once, a text of each in turn. One thread calls it."""

    state = "ready"

    def __init__(self, loaded: LoadedEncoder, step_tokens: int = STEP_TOKENS) -> None:
        self.card = loaded.card
        self.device = loaded.device
        self.step_tokens = step_tokens
        self._loaded = loaded
        self._waiting: deque[Text] = deque()
        self._num_left: dict[str, int] = {}  # texts of a request that are still to be embedded
        self._num_tokens: dict[str, int] = {}
        self._suspects: set[str] = set()
        self._settled: list[tuple[str, Event]] = []
        self._last_step_s = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._settled)

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """Enough waits for two steps: what comes later can wait in the line, where it can be seen.

        One request counts for one step at most: a long list of texts keeps nobody out.
        """
        waiting = Counter[str]()
        for text in self._waiting:
            if text.request_id not in without:
                waiting[text.request_id] += len(text.token_ids)
        return sum(min(num_tokens, self.step_tokens) for num_tokens in waiting.values()) < 2 * self.step_tokens

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
        """Take a request in, without the texts whose vectors are logged already."""
        try:
            texts = [text for text in self._texts(request) if text.index not in logged]
        except InvalidRequest as error:
            self._settled.append((request.id, Failed(error.code, error.message)))
            return
        if not texts:
            self._settled.append((request.id, Finished(len(request.prompt_ids), 0)))
            return
        self._waiting += texts
        self._num_left[request.id] = len(texts)
        self._num_tokens[request.id] = len(request.prompt_ids)
        if is_suspect:
            self._suspects.add(request.id)

    def step(self) -> list[tuple[str, Event]]:
        """Embed the next texts; returns (request id, event) in order."""
        started = time.perf_counter()
        events, self._settled = self._settled, []
        batch = self._next_batch()
        for text, outcome in self._embedded(batch) if batch else ():
            events += self._commit(text, outcome)
        self._last_step_s = time.perf_counter() - started
        return events

    def cancel(self, request_id: str) -> None:
        """Forget a request. Nothing more is said about it."""
        self._suspects.discard(request_id)
        self._num_left.pop(request_id, None)
        self._num_tokens.pop(request_id, None)
        self._settled = [(settled_id, event) for settled_id, event in self._settled if settled_id != request_id]
        self._waiting = deque(text for text in self._waiting if text.request_id != request_id)

    def clear_suspicion(self, request_id: str) -> None:
        self._suspects.discard(request_id)

    def interrupt(self) -> None:
        """A step ends by itself."""

    def stats(self) -> EngineStats:
        return EngineStats(
            num_running=len(self._num_left),
            num_waiting=0,
            kv_blocks_used=0,
            kv_blocks_total=0,
            num_preemptions=0,
            prompt_tokens=0,
            cached_tokens=0,
            generated_tokens=0,
            last_step_s=self._last_step_s,
            memory_used_bytes=torch.cuda.memory_reserved(self.device) if self.device.type == "cuda" else 0,
        )

    def warm_up(self, on_progress: OnProgress) -> None:
        """Raises ValueError for a model that gives no states of its tokens."""
        on_progress("first step", FIRST_STEP)
        [(_, outcome)] = self._embedded([Text("warm-up", 0, (0, 0))])
        if isinstance(outcome, Failed):
            raise ValueError(f"{self.card.architecture} does not embed: {outcome.message}")
        on_progress("ready", READY)

    def _texts(self, request: GenerationRequest) -> list[Text]:
        if sum(request.input_lengths) != len(request.prompt_ids) or not request.prompt_ids:
            raise InvalidRequest("This model makes embeddings only.")
        if not 0 < min(request.input_lengths) <= max(request.input_lengths) <= self.card.max_model_len:
            raise InvalidRequest(f"A text has more than {self.card.max_model_len} tokens, or none.")
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.card.vocab_size:
            raise InvalidRequest("An input holds a token id outside the vocabulary.")
        bounds = pairwise(accumulate(request.input_lengths, initial=0))
        return [Text(request.id, index, request.prompt_ids[at:end]) for index, (at, end) in enumerate(bounds)]

    def _next_batch(self) -> list[Text]:
        """As many of the texts that wait as a step holds; while there are suspects, only theirs."""
        batch: list[Text] = []
        longest = 0
        for text in self._in_turns():
            longest = max(longest, len(text.token_ids))
            if batch and longest * (len(batch) + 1) > self.step_tokens:
                break
            batch.append(text)
        chosen = set(map(id, batch))
        served = {text.request_id for text in batch}
        left = [text for text in self._waiting if id(text) not in chosen]
        self._waiting = deque(
            sorted(left, key=lambda text: text.request_id in served)
        )  # these come last in the next step
        return batch

    def _in_turns(self) -> list[Text]:
        """The first text of each request, then the second of each, and so on."""
        texts: dict[str, list[Text]] = {}
        for text in self._waiting:
            if not self._suspects or text.request_id in self._suspects:
                texts.setdefault(text.request_id, []).append(text)
        return [text for turn in zip_longest(*texts.values()) for text in turn if text is not None]

    def _embedded(self, batch: list[Text]) -> list[tuple[Text, str | Failed]]:
        """Each text's vector; if the batch breaks, each text by itself, so that only the culprit fails."""
        try:
            vectors = self._forward(batch)
        except Exception as error:  # whatever one text can provoke must not end the others
            failure = failure_of(error)
            if len(batch) == 1:
                logger.exception("request %s failed in its step", batch[0].request_id)
        else:
            return [(text, encoded(vector)) for text, vector in zip(batch, vectors, strict=True)]
        check_device()  # out here, where the error no longer holds the step's tensors
        if len(batch) == 1:
            return [(batch[0], failure)]
        return [outcome for text in batch for outcome in self._embedded([text])]

    @torch.inference_mode()
    def _forward(self, batch: list[Text]) -> torch.Tensor:
        """[B, D] on the CPU. Padding stands behind the texts."""
        length = max(len(text.token_ids) for text in batch)
        ids = torch.tensor([[*text.token_ids, *[0] * (length - len(text.token_ids))] for text in batch])
        mask = torch.tensor([[1] * len(text.token_ids) + [0] * (length - len(text.token_ids)) for text in batch])
        ids, mask = ids.to(self.device), mask.to(self.device)
        states = self._loaded.model(input_ids=ids, attention_mask=mask).last_hidden_state
        return self._loaded.pooling(states, mask).cpu()

    def _commit(self, text: Text, outcome: str | Failed) -> list[tuple[str, Event]]:
        request_id = text.request_id
        if request_id not in self._num_left:  # another text of the same request failed in this step
            return []
        if isinstance(outcome, Failed):
            self.cancel(request_id)
            return [(request_id, outcome)]
        events: list[tuple[str, Event]] = [(request_id, Delta(text.index, (), outcome, finish_reason="stop"))]
        self._num_left[request_id] -= 1
        if not self._num_left[request_id]:
            events.append((request_id, Finished(self._num_tokens[request_id], 0)))
            self.cancel(request_id)
        return events


def encoded(vector: torch.Tensor) -> str | Failed:
    """As the log keeps it: base64 of float32, little-endian."""
    if not torch.isfinite(vector).all():
        return Failed("internal_error", "The model gave no usable numbers.")
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
