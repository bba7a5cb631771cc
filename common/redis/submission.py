"""A request on its way into the queue."""

from dataclasses import dataclass
from typing import Any

from common.wire import GenerationRequest

ENTRY_BYTES = 80  # of one token in a log, as Redis keeps it
LOGPROB_BYTES = 40


@dataclass(frozen=True, slots=True)
class Submission:
    """A request with its owner, queue and limits."""

    request: GenerationRequest
    queue: str
    owner: str
    revision: str
    form: dict[str, Any]  # the response's metadata, from which any process can build the response
    background: bool = False
    deadline_s: float = 0.0  # 0: none
    idempotency_key: str = ""
    body_digest: str = ""
    weight: float = 1.0
    traceparent: str = ""
    kept_s: int | None = None  # after its end, when that is less than the settings say
    priority: int = 0  # the lower, the earlier; below 0 only as far as the key's rights go
    vector_bytes: int = 0  # per input, when the inputs are embedded
    planned_tokens: int | None = None  # of an answer that only the context limits; None: its max_tokens

    @property
    def max_entries(self) -> int:
        """The most entries that the job's log can have, the one that ends it included."""
        sampling = self.request.sampling
        return sampling.max_tokens * sampling.n + len(self.request.input_lengths) + 1

    @property
    def entry_bytes(self) -> int:
        """The most bytes that one entry takes in Redis."""
        logprobs = self.request.sampling.logprobs
        return ENTRY_BYTES + self.vector_bytes + (0 if logprobs is None else LOGPROB_BYTES * (1 + logprobs))

    @property
    def cost(self) -> int:
        """The tokens that this request is counted as until its end, which settles what it really took."""
        sampling = self.request.sampling
        planned = sampling.max_tokens if self.planned_tokens is None else self.planned_tokens
        return len(self.request.prompt_ids) + planned * sampling.n
