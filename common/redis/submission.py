"""A request on its way into the queue."""

from dataclasses import dataclass
from typing import Any

from common.redis.keys import BASES
from common.wire import GenerationRequest, Tier

ENTRY_BYTES = 80  # of one token in a log, as Redis keeps it
LOGPROB_BYTES = 40
WINDOWS_S = (2 * 3600, 8 * 3600)


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
    planned_tokens: int | None = None  # as common.wire has it; None: its max_tokens
    tier: Tier = "default"
    not_before_ms: int = 0  # unix time before which it is not admitted; 0: at once
    window_s: int = 0  # by when a background job must have ended; 0: no window
    batch: str = ""  # the batch that it is a line of
    archive: bool = False  # its answer outlives Redis's hour: it is copied into the store when it has ended

    @property
    def base(self) -> int:
        """The job's class without its priority; of flex jobs with a window, those with a shorter one go first."""
        is_background = self.tier == "flex" and self.window_s and not self.batch
        return BASES[self.tier] - (sum(self.window_s <= window for window in WINDOWS_S) if is_background else 0)

    @property
    def must_be_kept(self) -> bool:
        """True if it is refused when it cannot end by its deadline: nobody waits who would notice."""
        return self.background and self.deadline_s > 0 and not self.batch

    @property
    def planned(self) -> int:
        """The tokens that each choice is expected to have at most."""
        return self.request.sampling.max_tokens if self.planned_tokens is None else self.planned_tokens

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
        return len(self.request.prompt_ids) + self.planned * self.request.sampling.n
