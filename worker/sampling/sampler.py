"""Logits to tokens for a whole batch, with one copy back to Python.

Rows are sampled together; logit rules (bias, penalties, grammars) run row by row. On a GPU with Triton one kernel does
the rest; elsewhere torch, and only rows whose top_p exceeds the candidates are sorted in full.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from common.wire import SamplingParams, TokenLogprob
from worker.device import ReadBack, upload
from worker.sampling.kernel_sampler import has_kernel, sampled_by_kernel
from worker.sampling.logit_rules import apply_rules, has_rules
from worker.sampling.masks import Masks
from worker.sampling.rng import draws_of
from worker.state.sequence import Sequence

NUM_CANDIDATES = 64  # likeliest tokens, which usually cover top_p; other rows are sorted in full
SPAN = 256  # tokens
NEVER = float("-inf")
NO_TOKEN = -1
UNDECIDED = -2  # sentinel: top_p needs a full sort of this row; sample it again in the next step


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled tokens [S] and the requested logprobs.

    The token is None where a row has no finite logit, and UNDECIDED where `may_defer` allowed that.
    """

    token_ids: list[int | None]
    logprobs: list[TokenLogprob | None]


class PendingSamples:
    """Sampled tokens that are still on the device."""

    def __init__(self, token_ids: torch.Tensor, wanted: Seq[int | None], logprobs: list[torch.Tensor]) -> None:
        """`token_ids` [S], NO_TOKEN and UNDECIDED included; `wanted` [S]: alternatives to report, None for no logprob;
        `logprobs`: see logprobs_of."""
        self.token_ids = token_ids
        self._wanted = wanted
        self._read_back = ReadBack([token_ids, *logprobs])

    def read(self) -> Sampled:
        """Wait for the device."""
        numbers, *logprobs = (tensor.tolist() for tensor in self._read_back.read())
        found: list[TokenLogprob | None] = [None] * len(numbers)
        rows = [at for at, num in enumerate(self._wanted) if num is not None]
        for at, own, ids, values in zip(rows, *logprobs, strict=True) if rows else ():
            alternatives = tuple(zip(ids, values, strict=True))[: self._wanted[at]]
            found[at] = TokenLogprob(numbers[at], own, alternatives)
        return Sampled([number if number != NO_TOKEN else None for number in numbers], found)


def column(value: Callable[[SamplingParams, int], float], dtype: torch.dtype = torch.float32) -> Any:
    """A field of SamplingBatch: `value` of each row's parameters and the vocabulary's size, as a tensor [S, 1]."""
    return field(metadata={"value": value, "dtype": dtype})


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """The sampling parameters of a batch as columns [S, 1]. A new parameter is one more column.

    Questions about all rows are answered from `params`, because asking the device would wait for the forward pass.
    """

    params: Seq[SamplingParams]
    vocab_size: int
    wide_rows: Seq[int]  # rows known to need a full sort
    uniform: torch.Tensor  # the random number of each row's next token, float64
    temperature: torch.Tensor = column(lambda params, _: params.temperature or 1.0)  # greedy rows divide by 1
    top_k: torch.Tensor = column(lambda params, vocab_size: min(params.top_k or vocab_size, vocab_size), torch.long)
    top_p: torch.Tensor = column(lambda params, _: params.top_p)
    min_p: torch.Tensor = column(lambda params, _: params.min_p)
    is_greedy: torch.Tensor = column(lambda params, _: params.temperature == 0, torch.bool)

    @classmethod
    def of(
        cls, sequences: Seq[Sequence], positions: Seq[int], vocab_size: int, device: torch.device
    ) -> "SamplingBatch":
        """`positions` [S]: number of completion tokens before each sample."""
        params = [sequence.sampling for sequence in sequences]
        draws = draws_of(sequences, positions)
        values = [[column.metadata["value"](p, vocab_size) for p in params] for column in cls.columns()]
        drawn, *parts = upload(torch.tensor([draws.tolist(), *values], dtype=torch.float64), device).unsqueeze(-1)
        by_name = {
            column.name: part.to(column.metadata["dtype"]) for column, part in zip(cls.columns(), parts, strict=True)
        }
        wide_rows = [at for at, sequence in enumerate(sequences) if sequence.is_wide]
        return cls(params, vocab_size, wide_rows, drawn, **by_name)

    @classmethod
    def columns(cls) -> "list[Field[Any]]":
        return [each for each in fields(cls) if each.metadata]

    @property
    def max_top_k(self) -> int:
        """The largest top_k that leaves a token out; 0 if none does."""
        return max((p.top_k for p in self.params if p.top_k < self.vocab_size), default=0)

    @property
    def has_top_p(self) -> bool:
        return any(p.top_p < 1 for p in self.params)

    @property
    def has_min_p(self) -> bool:
        return any(p.min_p > 0 for p in self.params)

    @property
    def is_open_ended(self) -> bool:
        """A row has top_p without top_k, so that its nucleus may hold any number of tokens."""
        return any(p.top_p < 1 and not 0 < p.top_k < self.vocab_size for p in self.params)

    def of_rows(self, rows: torch.Tensor) -> "SamplingBatch":
        """The columns of some rows; `params` are those of all."""
        parts = {column.name: getattr(self, column.name)[rows] for column in self.columns()}
        return replace(self, uniform=self.uniform[rows], **parts)


def sample(
    logits: torch.Tensor,
    sequences: Seq[Sequence],
    positions: Seq[int],
    masks: Masks = None,
    *,
    may_defer: bool = False,
) -> PendingSamples:
    """Sample the next token of each row of `logits` [S, vocab], float32, which the logit rules change in place.

    `positions` [S]: number of completion tokens before each sample. `masks`: the grammars' masks, being filled by
    another thread. `may_defer`: leave a row UNDECIDED rather than wait for the device to tell if it needs a full sort;
    its sequence must be sampled again with `is_wide`. Triton's kernel, on a GPU that has it, needs no sort.
    """
    wanted = [sequence.sampling.logprobs for sequence in sequences]
    is_plain = all(num is None for num in wanted)
    raw = logits
    if any(has_rules(sequence) for sequence in sequences):
        raw = logits if is_plain else logits.clone()
        apply_rules(logits, sequences, masks)
    if has_kernel(logits.device):
        token_ids = sampled_by_kernel(logits, sequences, positions, NO_TOKEN)
        return PendingSamples(token_ids, wanted, logprobs_of(raw, token_ids, wanted))
    token_ids = likeliest(logits)
    best = logits.gather(1, token_ids[:, None])
    if any(sequence.sampling.temperature > 0 for sequence in sequences):
        batch = SamplingBatch.of(sequences, positions, logits.shape[1], logits.device)
        drawn = draw(logits, best, batch, may_defer=may_defer)
        token_ids = torch.where(batch.is_greedy[:, 0], token_ids, drawn)
    is_sound = best[:, 0].isfinite()  # NaN wins every maximum; -inf means that no token is allowed
    return PendingSamples(torch.where(is_sound, token_ids, NO_TOKEN), wanted, logprobs_of(raw, token_ids, wanted))


def draw(logits: torch.Tensor, best: torch.Tensor, batch: SamplingBatch, *, may_defer: bool) -> torch.Tensor:
    """Tokens [S] by inverting the cumulative distribution at each row's uniform number."""
    scaled = (logits - best) / batch.temperature  # the likeliest token is at 0, so exp never overflows
    if not (batch.max_top_k or batch.has_top_p or batch.has_min_p):
        return invert(exponential(scaled), batch.uniform)
    floor, is_known = truncation_floor(scaled, batch, may_defer=may_defer)
    token_ids = invert(exponential(scaled.masked_fill(scaled < floor, NEVER)), batch.uniform)
    return token_ids if is_known is None else torch.where(is_known[:, 0], token_ids, UNDECIDED)


def exponential(scaled: torch.Tensor) -> torch.Tensor:
    """exp. On a CPU by numpy: torch takes five times as long for -inf, which masks and truncation leave behind."""
    return scaled.exp() if scaled.device.type != "cpu" else torch.from_numpy(np.exp(scaled.numpy()))


def invert(weights: torch.Tensor, uniform_draws: torch.Tensor) -> torch.Tensor:
    """The token [S] at which each row's cumulative weight passes its draw [S, 1]; never one of weight zero.

    Finds a span of the vocabulary first, then the token in it: long cumulative sums are slow and lose digits.
    """
    num_rows, vocab_size = weights.shape
    spans = F.pad(weights, (0, -vocab_size % SPAN)).view(num_rows, -1, SPAN)
    before = spans.sum(-1, dtype=torch.float64).cumsum(-1)  # [S, V / SPAN]
    target = uniform_draws * before[:, -1:]
    span = torch.searchsorted(before, target, right=True).clamp_(max=before.shape[1] - 1)
    own = spans.gather(1, span[:, :, None].expand(-1, 1, SPAN))[:, 0].cumsum(-1, dtype=torch.float64)
    rest = (target - (before.gather(1, span) - own[:, -1:])).clamp_(min=0)
    inside = torch.searchsorted(own, rest, right=True)
    last = torch.searchsorted(own, own[:, -1:].contiguous())  # the last token with weight, in case of rounding
    return (span * SPAN + torch.minimum(inside, last))[:, 0]


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Token ids [S] of the maxima; NaN counts as the maximum."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))  # ten times as fast as torch's on a CPU
    return logits.argmax(-1)


def truncation_floor(
    scaled: torch.Tensor, batch: SamplingBatch, *, may_defer: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """[S, 1] each: the smallest scaled logit kept by top_k, top_p and min_p in turn, and whether that is certain."""
    floor = batch.min_p.log()  # log 0 is -inf: no floor
    max_top_k = batch.max_top_k
    if not (max_top_k or batch.has_top_p):
        return floor, None
    num_candidates = min(batch.vocab_size, max(NUM_CANDIDATES, max_top_k))
    nucleus, is_known = nucleus_floor(scaled, batch, num_candidates)
    is_open_ended = batch.is_open_ended
    if is_open_ended:
        if may_defer:
            rows = upload(torch.tensor(batch.wide_rows, dtype=torch.long), scaled.device)
        else:
            rows = (~is_known[:, 0]).nonzero()[:, 0]
        if len(rows):
            nucleus[rows], is_known[rows] = nucleus_floor(scaled[rows], batch.of_rows(rows), batch.vocab_size)
    return torch.maximum(floor, nucleus), is_known if is_open_ended and may_defer else None


def nucleus_floor(scaled: torch.Tensor, batch: SamplingBatch, num_candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[S, 1] each: the floor of top_k and top_p by the likeliest candidates, and whether those were enough."""
    vocab_size = scaled.shape[1]
    values = largest(scaled, num_candidates)
    at_k = values.gather(1, (batch.top_k - 1).clamp(max=num_candidates - 1))
    is_cut = batch.top_k < vocab_size
    kth = torch.where(is_cut, at_k, NEVER)
    weights = values.exp()
    among_k = weights.masked_fill(values < kth, 0).sum(-1, keepdim=True)
    total = torch.where(is_cut, among_k, exponential(scaled).sum(-1, keepdim=True))
    before = weights.cumsum(-1) - weights
    kept = (before < batch.top_p * total) & (values >= kth)
    kept[:, 0] = True
    last = kept.sum(-1, keepdim=True) - 1
    is_open = batch.top_p >= 1
    floor = torch.where(is_open, kth, values.gather(1, last))
    is_known = is_open | is_cut | (last < num_candidates - 1) | (num_candidates == vocab_size)
    return floor, is_known


def largest(scaled: torch.Tensor, num: int) -> torch.Tensor:
    """The `num` largest numbers of each row, descending, [S, num]. numpy is many times faster on a CPU."""
    if scaled.device.type != "cpu":
        return scaled.topk(num, dim=-1).values
    rest = scaled.shape[1] - num
    part = np.partition(scaled.numpy(), rest, axis=-1)[:, rest:] if rest > 0 else scaled.numpy()
    return torch.from_numpy(np.sort(part, axis=-1)[:, ::-1].copy())


def logprobs_of(raw: torch.Tensor, token_ids: torch.Tensor, wanted: Seq[int | None]) -> list[torch.Tensor]:
    """The model's log-probabilities, before temperature, truncation and penalties, of the R rows that want them.

    Those of the sampled tokens [R], the likeliest tokens [R, most wanted], and theirs; empty if no row wants any.
    """
    rows = [at for at, num in enumerate(wanted) if num is not None]
    if not rows:
        return []
    chosen = upload(torch.tensor(rows, dtype=torch.long), raw.device)
    logprobs = raw[chosen].log_softmax(dim=-1)
    own = logprobs.gather(1, token_ids[chosen].clamp(min=0)[:, None])[:, 0]
    num_top = max(num for num in wanted if num is not None)
    top = logprobs.topk(min(num_top, raw.shape[1]), dim=-1)
    return [own, top.indices, top.values]
