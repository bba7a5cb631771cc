"""Logits to tokens for a whole batch: no loop over rows, no sort of the vocabulary, one copy back to Python."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from common.wire import TokenLogprob
from worker.device import ReadBack, upload
from worker.sampling.logit_rules import apply_rules, has_rules
from worker.sampling.masks import Masks
from worker.sampling.rng import uniform
from worker.state.sequence import Sequence

NUM_CANDIDATES = 64  # likeliest tokens that usually hold top_p; rows where they do not are sorted in full
SPAN = 256  # tokens
NEVER = float("-inf")
NO_TOKEN = -1
UNDECIDED = -2  # instead of a token: its row has to be sorted in full, and nobody waited to find that out


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens drawn, [S], and what the callers asked to know of them.

    A row without a number in it has no token; one may be UNDECIDED where that is allowed.
    """

    token_ids: list[int | None]
    logprobs: list[TokenLogprob | None]


class Draws:
    """Tokens drawn, where they were drawn: nobody has waited for them yet."""

    def __init__(self, token_ids: torch.Tensor, wanted: Seq[int | None], logprobs: list[torch.Tensor]) -> None:
        """`token_ids` [S], -1 where there is none; `wanted` [S]: how many alternatives; `logprobs`: see logprobs_of."""
        self.token_ids = token_ids
        self._wanted = wanted
        self._read_back = ReadBack([token_ids, *logprobs])

    def read(self) -> Sampled:
        numbers, *logprobs = (tensor.tolist() for tensor in self._read_back.read())
        found: list[TokenLogprob | None] = [None] * len(numbers)
        rows = [at for at, num in enumerate(self._wanted) if num is not None]
        for at, own, ids, values in zip(rows, *logprobs, strict=True) if rows else ():
            alternatives = tuple(zip(ids, values, strict=True))[: self._wanted[at]]
            found[at] = TokenLogprob(numbers[at], own, alternatives)
        return Sampled([number if number != NO_TOKEN else None for number in numbers], found)


@dataclass(frozen=True, slots=True)
class Settings:
    """The sampling parameters of a batch as columns, [S, 1], and the uniform draws that belong to its next tokens.

    What the batch asks for at all is known without asking the device for it, which would wait for the forward pass.
    """

    max_top_k: int  # of the rows that have one; 0: none has
    has_top_p: bool
    has_min_p: bool
    is_open_ended: bool  # a row has top_p and no top_k: any number of tokens may be in it
    wide_rows: Seq[int]  # rows that are known to need a full sort
    temperature: torch.Tensor  # 1 where greedy, so that nothing is divided by zero
    top_k: torch.Tensor
    top_p: torch.Tensor
    min_p: torch.Tensor
    uniform: torch.Tensor
    is_greedy: torch.Tensor

    @classmethod
    def of(cls, sequences: Seq[Sequence], positions: Seq[int], vocab_size: int, device: torch.device) -> "Settings":
        params = [sequence.sampling for sequence in sequences]
        draws = uniform(
            np.array([p.seed & (2**64 - 1) for p in params], dtype=np.uint64),
            np.array([sequence.index for sequence in sequences], dtype=np.uint64),
            np.array(positions, dtype=np.uint64),
        )
        columns = [
            [p.temperature or 1.0, p.top_k or vocab_size, p.top_p, p.min_p, draw, float(p.temperature == 0)]
            for p, draw in zip(params, draws.tolist(), strict=True)
        ]
        table = upload(torch.tensor(columns, dtype=torch.float64), device)
        temperature, top_k, top_p, min_p, drawn, greedy = table.unsqueeze(-1).unbind(1)
        top_k = top_k.long().clamp(max=vocab_size)
        return cls(
            max((p.top_k for p in params if p.top_k < vocab_size), default=0),
            any(p.top_p < 1 for p in params),
            any(p.min_p > 0 for p in params),
            any(p.top_p < 1 and (p.top_k or vocab_size) >= vocab_size for p in params),
            [at for at, sequence in enumerate(sequences) if sequence.is_wide],
            temperature.float(), top_k, top_p.float(), min_p.float(), drawn, greedy.bool(),
        )  # fmt: skip

    def of_rows(self, rows: torch.Tensor) -> "Settings":
        """The same for some rows only."""
        return replace(
            self,
            temperature=self.temperature[rows],
            top_k=self.top_k[rows],
            top_p=self.top_p[rows],
            min_p=self.min_p[rows],
            uniform=self.uniform[rows],
            is_greedy=self.is_greedy[rows],
        )


def sample(logits: torch.Tensor, sequences: Seq[Sequence], positions: Seq[int], masks: Masks = None) -> Sampled:
    """Draw the next token of each row, and wait for it. See draw_tokens."""
    return draw_tokens(logits, sequences, positions, masks).read()


def draw_tokens(
    logits: torch.Tensor,
    sequences: Seq[Sequence],
    positions: Seq[int],
    masks: Masks = None,
    *,
    may_defer: bool = False,
) -> Draws:
    """Draw the next token of each row. `logits` [S, vocab] float32; `positions` [S]: how many tokens come before it.

    `masks`: what grammars allow, under way in another thread. `may_defer`: rather leave a row UNDECIDED than ask the
    device whether it has to be sorted; its sequence must come again with `is_wide`.
    """
    wanted = [sequence.sampling.logprobs for sequence in sequences]
    is_plain = all(num is None for num in wanted)
    raw = logits
    if any(has_rules(sequence) for sequence in sequences):
        raw = logits if is_plain else logits.clone()
        apply_rules(logits, sequences, masks)
    token_ids = likeliest(logits)
    best = logits.gather(1, token_ids[:, None])
    if any(sequence.sampling.temperature > 0 for sequence in sequences):
        settings = Settings.of(sequences, positions, logits.shape[1], logits.device)
        drawn = draw(logits, best, settings, may_defer=may_defer)
        token_ids = torch.where(settings.is_greedy[:, 0], token_ids, drawn)
    is_sound = best[:, 0].isfinite()  # NaN wins every maximum; -inf means that no token is allowed
    return Draws(torch.where(is_sound, token_ids, NO_TOKEN), wanted, logprobs_of(raw, token_ids, wanted))


def draw(logits: torch.Tensor, best: torch.Tensor, settings: Settings, *, may_defer: bool) -> torch.Tensor:
    """Tokens [S] by inverting the cumulative distribution at each row's uniform number."""
    scaled = (logits - best) / settings.temperature  # the likeliest token is at 0, so exp never overflows
    if not (settings.max_top_k or settings.has_top_p or settings.has_min_p):
        return invert(exponential(scaled), settings.uniform)
    floor, is_known = truncation_floor(scaled, settings, may_defer=may_defer)
    token_ids = invert(exponential(scaled.masked_fill(scaled < floor, NEVER)), settings.uniform)
    return token_ids if is_known is None else torch.where(is_known[:, 0], token_ids, UNDECIDED)


def exponential(scaled: torch.Tensor) -> torch.Tensor:
    """On a CPU torch takes five times as long for -inf, of which masks and truncation leave many; numpy does not."""
    return scaled.exp() if scaled.device.type != "cpu" else torch.from_numpy(np.exp(scaled.numpy()))


def invert(weights: torch.Tensor, uniform_draws: torch.Tensor) -> torch.Tensor:
    """The token [S] at which each row's cumulative weight passes its draw [S, 1]; never one of weight zero.

    First to a span of the vocabulary, then inside it: long cumulative sums are slow and lose digits.
    """
    num_rows, vocab_size = weights.shape
    spans = F.pad(weights, (0, -vocab_size % SPAN)).view(num_rows, -1, SPAN)
    before = spans.sum(-1, dtype=torch.float64).cumsum(-1)  # [S, V / SPAN]
    target = uniform_draws * before[:, -1:]
    span = torch.searchsorted(before, target, right=True).clamp_(max=before.shape[1] - 1)
    own = spans.gather(1, span[:, :, None].expand(-1, 1, SPAN))[:, 0].cumsum(-1, dtype=torch.float64)
    rest = (target - (before.gather(1, span) - own[:, -1:])).clamp_(min=0)
    inside = torch.searchsorted(own, rest, right=True)
    last = torch.searchsorted(own, own[:, -1:].contiguous())  # rounding must not lead past the last token with weight
    return (span * SPAN + torch.minimum(inside, last))[:, 0]


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """Token ids [S] of the maxima; NaN counts as one."""
    if logits.device.type == "cpu":
        return torch.from_numpy(logits.numpy().argmax(-1))  # ten times as fast as torch's on a CPU
    return logits.argmax(-1)


def truncation_floor(
    scaled: torch.Tensor, settings: Settings, *, may_defer: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The smallest scaled logit that top_k, then top_p, then min_p leave in, and where it is known; [S, 1] both."""
    vocab_size = scaled.shape[1]
    floor = settings.min_p.log()  # log 0 is -inf: no floor
    if not (settings.max_top_k or settings.has_top_p):
        return floor, None
    num_candidates = min(vocab_size, max(NUM_CANDIDATES, settings.max_top_k))
    nucleus, is_known = nucleus_floor(scaled, settings, num_candidates)
    if settings.is_open_ended:
        if may_defer:
            rows = upload(torch.tensor(settings.wide_rows, dtype=torch.long), scaled.device)
        else:
            rows = (~is_known[:, 0]).nonzero()[:, 0]
        if len(rows):
            nucleus[rows], is_known[rows] = nucleus_floor(scaled[rows], settings.of_rows(rows), vocab_size)
    return torch.maximum(floor, nucleus), is_known if settings.is_open_ended and may_defer else None


def nucleus_floor(scaled: torch.Tensor, settings: Settings, num_candidates: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Floor of top_k and top_p from the likeliest candidates, and where these were enough to know it; [S, 1] both."""
    vocab_size = scaled.shape[1]
    values = largest(scaled, num_candidates)
    at_k = values.gather(1, (settings.top_k - 1).clamp(max=num_candidates - 1))
    is_cut = settings.top_k < vocab_size
    kth = torch.where(is_cut, at_k, NEVER)
    weights = values.exp()
    among_k = weights.masked_fill(values < kth, 0).sum(-1, keepdim=True)
    total = torch.where(is_cut, among_k, exponential(scaled).sum(-1, keepdim=True))
    before = weights.cumsum(-1) - weights
    kept = (before < settings.top_p * total) & (values >= kth)
    kept[:, 0] = True
    last = kept.sum(-1, keepdim=True) - 1
    is_open = settings.top_p >= 1
    floor = torch.where(is_open, kth, values.gather(1, last))
    is_known = is_open | is_cut | (last < num_candidates - 1) | (num_candidates == vocab_size)
    return floor, is_known


def largest(scaled: torch.Tensor, num: int) -> torch.Tensor:
    """The `num` largest numbers of each row, falling, [S, num]. On a CPU numpy sorts many times as fast as torch."""
    if scaled.device.type != "cpu":
        return scaled.topk(num, dim=-1).values
    rest = scaled.shape[1] - num
    part = np.partition(scaled.numpy(), rest, axis=-1)[:, rest:] if rest > 0 else scaled.numpy()
    return torch.from_numpy(np.sort(part, axis=-1)[:, ::-1].copy())


def logprobs_of(raw: torch.Tensor, token_ids: torch.Tensor, wanted: Seq[int | None]) -> list[torch.Tensor]:
    """The model's own log-probabilities, before temperature, truncation and penalties, of the rows that want any.

    Of the tokens drawn [R], and the likeliest tokens and theirs [R, most wanted]; nothing if no row wants any.
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
