"""Guesses by a head: one decoder layer that reads the model's own hidden states instead of computing its own.

The head's state at position p is computed from the model's features at p (worker/models/features.py) and token p + 1;
its logits are those of token p + 2. To guess further, its own state stands for the features of the next position.

Its keys and values lie in the blocks of the model's sequences, in a cache of one layer beside the model's. So prefixes
that the model finds in its cache are in the head's too, and what is preempted is computed again with the model's.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, Protocol

import torch

from worker.attention.paged import Attention
from worker.device import upload
from worker.kernels.experts.placing import HostedExperts
from worker.models.loader import LoadedModel
from worker.progress import OnProgress
from worker.runners.base import AttentionMaker, ModelRunner, Runner, kernel_order, positions_of
from worker.runners.limits import Limits
from worker.runners.probe import probe_sequence
from worker.sampling.sampler import likeliest, sample
from worker.state.block_pool import Moves
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

if TYPE_CHECKING:
    from worker.drafting.heads_recorded import RecordedGuesses

MAX_GUESSES = 16
MAX_BACKLOG = 16  # tokens of a sequence that wait to be read together, while no guesses are asked for
WARM_UP_TOKENS = 8


class DraftHead(Protocol):
    """One decoder layer and what is around it. Its layer index in the cache is 0."""

    feature_layers: tuple[int, ...]
    shape: LayerShape
    num_heads: int  # of its queries
    dtype: torch.dtype
    attend_with: AttentionMaker  # what run() gets as `paged`
    hosted: HostedExperts | None  # its experts, where they stand in host memory beside a GPU

    def bind(self, runner: ModelRunner, kv_cache: KVCache) -> None:
        """The runner has the model's embeddings and output layer, where the head has none of its own.

        `kv_cache`: of the head's layer.
        """

    def recorded_attention(self, tensors: Any, max_queries: int) -> Attention:
        """What run() gets as `paged` in a recorded step; see ModelRunner.recorded_attention()."""

    def combine(self, features: torch.Tensor) -> torch.Tensor:
        """The model's features [T, width * layers] as the head's states [T, width]."""

    def run(
        self, token_ids: torch.Tensor, before: torch.Tensor, positions: torch.Tensor, paged: Attention
    ) -> torch.Tensor:
        """States [T, width]. `token_ids` [T]: those after `positions` [T]; `before`: combined features, or states."""

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """States [S, width] -> logits [S, tokens of the head]."""

    def model_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """The head's token ids as the model's."""


@dataclass(frozen=True, slots=True)
class HeadState:
    """What is kept of a sequence between steps."""

    position: int  # the last one whose features were read
    state: torch.Tensor  # of the head there, [width]


@dataclass(frozen=True, slots=True)
class Backlog:
    """Tokens that proved right, and that the head has not read yet."""

    start: int  # position of the first
    features: list[torch.Tensor]  # together [T, width * layers]
    token_ids: list[int]  # [T], each the one after its position

    @property
    def stop(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Chain:
    """A sequence for which up to `num` tokens are guessed, each from the one before."""

    sequence: Sequence
    num: int
    last: HeadState


class HeadGuesser:
    """A Guesser."""

    max_guesses = MAX_GUESSES
    reads_prompts = True

    def __init__(self, head: DraftHead, loaded: LoadedModel) -> None:
        """`loaded`: the model that verifies the guesses."""
        self.head = head
        self.device = loaded.device
        self.vocab_size = loaded.card.vocab_size
        self.feature_layers = head.feature_layers
        self.kv_bytes_per_token = head.shape.token_bytes(head.dtype)
        self._states: dict[Sequence, HeadState] = {}
        self._backlogs: dict[Sequence, Backlog] = {}
        self.recorded: RecordedGuesses | None = None

    def attach(self, runner: Runner, limits: Limits) -> None:
        """See Guesser. Raises ValueError for a runner that hands over no hidden states."""
        if not isinstance(runner, ModelRunner):
            raise ValueError("the model's runner hands over no hidden states, which the head reads.")
        runner.feature_layers = self.feature_layers
        self.runner = runner
        num_blocks = runner.kv_cache.capacity + 1  # one for padding tokens
        room = num_blocks, limits.block_size, self.head.dtype, self.device
        self.kv_cache = KVCache([self.head.shape], *room, shares_prefixes=False, arena=runner.kv_cache.arena)
        self.head.bind(runner, self.kv_cache)

    @torch.inference_mode()
    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Run the kernels once, for chunks of a prompt and for a single token, and record the latter."""
        pool = self.runner.kv_cache.pool
        num_tokens = min(WARM_UP_TOKENS, max_model_len - 1)
        sequence = probe_sequence([1] * num_tokens)
        sequence.block_ids = pool.allocate(self.kv_cache.num_blocks_for(num_tokens + 1))
        token_ids = torch.ones(num_tokens, dtype=torch.long, device=self.device)
        features = self.runner.embed(token_ids).repeat(1, len(self.feature_layers))
        states = self._run([part_of(sequence, 0, num_tokens)], token_ids, self.head.combine(features))
        token_ids = self._pick(self.head.logits(states[-1:]), [sequence], 0)
        self._run([part_of(sequence, num_tokens, 1)], token_ids.clamp(min=0), states[-1:])
        pool.free(sequence.block_ids)
        if self.runner.recordings is not None:  # on a GPU with Triton
            from worker.drafting.heads_recorded import RecordedGuesses
            from worker.runners.recorded.capture import cuda_capture
            from worker.runners.recorded.first_steps import chunk_forms

            spare_block = self.kv_cache.pool.num_blocks - 1
            self.recorded = RecordedGuesses(self.head, self.kv_cache, spare_block)
            capture = cuda_capture(in_common=self.kv_cache.arena is not None)
            self.recorded.record(max_num_seqs, max_model_len, states[-1], capture)
            shared = self.head.num_heads // self.head.shape.num_kv_heads
            sequence.block_ids = [spare_block] * self.kv_cache.num_blocks_for(max_model_len)
            for start, num_tokens in chunk_forms(range(shared, shared + 1), max_model_len):
                rows = [part_of(sequence, start, 1), part_of(sequence, start, num_tokens)]
                token_ids = torch.ones(1 + num_tokens, dtype=torch.long, device=self.device)
                self._run(rows, token_ids, states[-1:].expand(len(token_ids), -1))

    @torch.inference_mode()
    def note(self, rows: Seq[ScheduledSequence]) -> None:
        """See Guesser. The inputs that proved right are read before the next guess, or when they have become many."""
        features = self.runner.features
        following = {id(row): row.sequence.token_ids[row.start + 1 : row.sequence.num_computed + 1] for row in rows}
        known = [row for row in rows if features is not None and features.has(row) and following[id(row)]]
        for row in rows:
            if features is None or not (features.has(row) and following[id(row)]):
                self.forget(row.sequence)
        if features is None or not known:
            return
        copies = features.copied([(row, len(following[id(row)])) for row in known])
        for row, own in zip(known, copies, strict=True):
            backlog = self._backlogs.get(row.sequence)
            if backlog is None or backlog.stop != row.start:
                backlog = self._backlogs[row.sequence] = Backlog(row.start, [], [])
            backlog.features.append(own)
            backlog.token_ids.extend(following[id(row)])
        if max(len(backlog.token_ids) for backlog in self._backlogs.values()) > MAX_BACKLOG:
            self._read(list(self._backlogs))

    @torch.inference_mode()
    def guess(self, wanted: Seq[tuple[Sequence, int]]) -> list[list[int]]:
        """See Guesser. The tokens stay on the device until all are sampled."""
        self._read([sequence for sequence, _ in wanted if sequence in self._backlogs])
        chains = [chain for sequence, num in wanted if (chain := self._chain(sequence, num)) is not None]
        chains.sort(key=lambda chain: -chain.last.position)  # see kernel_order
        guesses: dict[Sequence, list[int]] = {chain.sequence: [] for chain in chains}
        found: list[tuple[list[Chain], torch.Tensor]] = []  # at each number of tokens ahead
        states = logits = torch.empty(0)
        for ahead in range(max((chain.num for chain in chains), default=0)):
            going = [chain for chain in chains if chain.num > ahead]
            if found:
                states, logits = self._continue(ahead, *found[-1], states)
            else:
                states = torch.stack([chain.last.state for chain in chains])
                logits = self.head.logits(states)
            found.append((going, self._pick(logits, [chain.sequence for chain in going], ahead)))
        for going, token_ids in found:
            for chain, token_id in zip(going, token_ids.tolist(), strict=True):
                guesses[chain.sequence].append(token_id)
        return [usable(guesses.get(sequence, []), self.vocab_size) for sequence, _ in wanted]

    def forget(self, sequence: Sequence) -> None:
        """See Guesser. Keys and values are in the sequence's own blocks."""
        self._states.pop(sequence, None)
        self._backlogs.pop(sequence, None)

    def resize(self, num_blocks: int, moves: Moves) -> None:
        """See Guesser."""
        self.kv_cache.move(moves)
        if self.kv_cache.arena is None:  # on a GPU its last block is there for padding tokens
            self.kv_cache.give_back(num_blocks)

    def _read(self, sequences: Seq[Sequence]) -> None:
        """Compute the head's states of the tokens that these have not read."""
        backlogs = [(sequence, self._backlogs.pop(sequence)) for sequence in sequences]
        if not backlogs:
            return
        rows = [part_of(sequence, own.start, len(own.token_ids)) for sequence, own in backlogs]
        order = sorted(range(len(rows)), key=lambda at: kernel_order(rows[at]))
        features = torch.cat([part for at in order for part in backlogs[at][1].features])
        token_ids = torch.tensor([token_id for at in order for token_id in backlogs[at][1].token_ids])
        stops = torch.tensor(list(accumulate(rows[at].num_tokens for at in order)))
        before = self.head.combine(torch.nan_to_num(features))  # NaN of a failing request would stay in the cache
        states = self._run([rows[at] for at in order], upload(token_ids, self.device), before)
        for at, state in zip(order, states[upload(stops - 1, self.device)], strict=True):
            sequence, own = backlogs[at]
            self._states[sequence] = HeadState(own.stop - 1, state)

    def _chain(self, sequence: Sequence, num: int) -> Chain | None:
        """None where the last step's features are not known, or no block is free for the guesses."""
        last = self._states.get(sequence)
        if last is None or last.position != sequence.num_tokens - 2:
            return None
        has_room = self.runner.kv_cache.reserve(sequence, sequence.num_tokens + num - 2)
        return Chain(sequence, num if has_room else 1, last)

    def _continue(
        self, ahead: int, before: Seq[Chain], token_ids: torch.Tensor, states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States and logits after the newest guesses, of the chains that go on.

        `token_ids` are the guesses and `states` what they were made from, of all of `before`.
        """
        kept = [at for at, chain in enumerate(before) if chain.num > ahead]
        if len(kept) < len(before):
            index = upload(torch.tensor(kept), self.device)
            token_ids, states = token_ids[index], states[index]
        rows = [part_of(before[at].sequence, before[at].last.position + ahead, 1) for at in kept]
        for index_of, row in enumerate(rows):
            row.sequence.pending, row.samples = index_of, True
        found = self.recorded.replay(rows, token_ids, states) if self.recorded is not None else None
        if found is None:
            states = self._run(rows, token_ids.clamp(min=0), states)
            found = states, self.head.logits(states)
        return found

    def _run(self, rows: Seq[ScheduledSequence], token_ids: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The head's states [T, width] of rows in kernel order. `token_ids`, `before`: see DraftHead.run()."""
        places = upload(torch.tensor([place for row in rows for place in positions_of(row)]), self.device)
        return self.head.run(token_ids, before, places, self.head.attend_with(self.kv_cache, rows, self.device))

    def _pick(self, logits: torch.Tensor, sequences: Seq[Sequence], ahead: int) -> torch.Tensor:
        """The model's token ids [S] at `ahead` tokens after each sequence's end; negative where there is none.

        They are sampled by the random numbers that the model's samples at these positions will use.
        """
        logits = logits.float()
        if all(sequence.sampling.temperature == 0 for sequence in sequences):
            return self.head.model_ids(likeliest(logits))
        positions = [sequence.num_completion_tokens + ahead for sequence in sequences]
        copies = [part_of(sequence, 0, 1).sequence for sequence in sequences]
        samples = sample(logits, copies, positions, may_defer=self.device.type != "cpu").token_ids
        return torch.where(samples < 0, samples, self.head.model_ids(samples.clamp(min=0)))


def part_of(sequence: Sequence, start: int, num_tokens: int) -> ScheduledSequence:
    """Tokens of the sequence as a row. The row's copy of the sequence has no draft, and its blocks."""
    sampling = sequence.sampling
    if sampling.logprobs is not None:
        sampling = replace(sampling, logprobs=None)
    row = ScheduledSequence(replace(sequence, sampling=sampling, draft=[]), num_tokens)
    row.start = start
    return row


def usable(guess: list[int], vocab_size: int) -> list[int]:
    """The guess up to the first that is no token of the model."""
    return list(takewhile(lambda token_id: 0 <= token_id < vocab_size, guess))
