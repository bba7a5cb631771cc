"""Guesses by a second, smaller model with the same tokens.

It samples with the same parameters and the same random numbers as the model will: where both find much the same
distribution, the guess is what the model samples next, at any temperature.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from common.model.folder import fault_in
from worker.device import upload
from worker.models.loader import EngineConfig, LoadedModel, load
from worker.progress import OnProgress
from worker.runners.base import Runner
from worker.runners.choose import build_runner
from worker.runners.limits import Limits
from worker.sampling.sampler import NO_TOKEN, UNDECIDED, PendingSamples, sample
from worker.state.block_pool import Moves
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

FIRST_KV_BYTES = 2**28  # of the cache that the runner is chosen with, until the model's limits are known
PREFILL_SHARE = 4  # a step's budget of tokens over that of the tokens read to catch up with long sequences
MIN_PREFILL = 64
SHORT = 2  # tokens to catch up with after a draft that was accepted whole


@dataclass(slots=True)
class Shadow:
    """The draft model's own state of a sequence."""

    copy: Sequence  # the same tokens and guesses after them, with blocks of the draft model's cache
    num_true: int = 0  # leading tokens of the copy that are the sequence's
    is_refused: bool = False  # the draft model cannot read it


class DraftModel:
    """A Guesser. A sequence that its KV cache has no room for gets no draft."""

    feature_layers: tuple[int, ...] = ()
    reads_prompts = True

    def __init__(self, runner: Runner, loaded: LoadedModel, vocab_size: int) -> None:
        """`vocab_size`: of the model that verifies; tokens beyond it are no guesses."""
        self.runner = runner
        self.device = loaded.device
        self.dtype = runner.kv_cache.keys[0].dtype
        self.max_model_len = loaded.card.max_model_len
        self.max_guesses = self.max_model_len
        self.kv_bytes_per_token = sum(shape.token_bytes(self.dtype) for shape in runner.kv_cache.shapes)
        self._vocab_sizes = loaded.card.vocab_size, vocab_size  # own, the model's
        self._shadows: dict[Sequence, Shadow] = {}
        self._max_prefill = 0

    def attach(self, runner: Runner, limits: Limits) -> None:
        """See Guesser."""
        shapes = self.runner.kv_cache.shapes
        room = limits.num_blocks, limits.block_size, self.dtype, self.device
        self.runner.kv_cache = KVCache(shapes, *room, capacity=runner.kv_cache.capacity, arena=runner.kv_cache.arena)
        self._max_prefill = max(MIN_PREFILL, limits.max_step_tokens // PREFILL_SHARE)

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Guesser."""
        self.runner.warm_up(max_num_seqs, min(max_model_len, self.max_model_len), on_progress)

    @torch.inference_mode()
    def guess(self, wanted: Seq[tuple[Sequence, int]]) -> list[list[int]]:
        """See Guesser. The tokens stay on the device until all are sampled."""
        rows = self._catch_up(wanted)
        drafting = [(sequence, num) for sequence, num in wanted if (row := rows.get(sequence)) and row.samples]
        samples: list[PendingSamples] = []
        if rows:
            logits = self._read(list(rows.values()))
            if drafting:
                samples.append(self._sample(logits, [sequence for sequence, _ in drafting], 0))
        before = [sequence for sequence, _ in drafting]
        for ahead in range(1, max((num for _, num in drafting), default=0)):
            sequences = [sequence for sequence, num in drafting if num > ahead]
            logits = self._continue(sequences, before, samples[-1].token_ids)
            samples.append(self._sample(logits, sequences, ahead))
            before = sequences
        return self._guesses(wanted, drafting, [each.read().token_ids for each in samples])

    def note(self, rows: Seq[ScheduledSequence]) -> None:
        """The next guess() compares tokens."""

    def forget(self, sequence: Sequence) -> None:
        """See Guesser."""
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self.runner.kv_cache.free(shadow.copy)
            self.runner.forget(shadow.copy)

    def resize(self, num_blocks: int, moves: Moves) -> None:
        """See Guesser. Where too many blocks are in use, all sequences are read again."""
        cache, copies = self.runner.kv_cache, [shadow.copy for shadow in self._shadows.values()]
        if cache.pool.num_used > num_blocks:
            for copy in copies:
                cache.free(copy)
                copy.begin_at(0)
        cache.resize(num_blocks, copies)

    def _catch_up(self, wanted: Seq[tuple[Sequence, int]]) -> dict[Sequence, ScheduledSequence]:
        """The next tokens to read of each sequence, all if possible. Prompts are read in parts."""
        budget = self._max_prefill
        rows: dict[Sequence, ScheduledSequence] = {}
        for sequence, num in wanted:
            copy = self._ready(sequence, num)
            if copy is None:
                continue
            num_missing = copy.num_uncomputed
            if num_missing > SHORT:
                num_missing = min(num_missing, budget)
                budget -= num_missing
            if num_missing == SHORT == copy.num_uncomputed:  # as if drafted: a step of this form is recorded on a GPU
                copy.draft = [copy.remove_last()]
                rows[sequence] = ScheduledSequence(copy, 1)
            elif num_missing:
                rows[sequence] = ScheduledSequence(copy, num_missing)
        return rows

    def _ready(self, sequence: Sequence, num: int) -> Sequence | None:
        """The sequence's copy with its newest tokens, and blocks for `num` guesses; None if it gets no draft."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            shadow = self._shadows[sequence] = Shadow(copy_of(sequence))
        copy = shadow.copy
        self._compare(shadow, sequence)
        if copy.num_tokens >= self.max_model_len:
            self._drop(shadow)
        if shadow.is_refused or copy.num_tokens + num > self.max_model_len:
            return None
        if not copy.block_ids and not self._allocate(copy):
            return None
        return copy if self.runner.kv_cache.reserve(copy, copy.num_tokens + num - 1) else None

    def _allocate(self, copy: Sequence) -> bool:
        num_cached = self.runner.kv_cache.allocate(copy)
        copy.begin_at(num_cached or 0)
        return num_cached is not None

    def _compare(self, shadow: Shadow, sequence: Sequence) -> None:
        """Keep the computed guesses that proved right, and take the sequence's new tokens over."""
        copy, token_ids = shadow.copy, sequence.token_ids
        num_known = min(copy.num_computed, len(token_ids) - 1)  # the newest token's logits are wanted
        num_right = min(shadow.num_true, num_known)
        while num_right < num_known and copy.token_ids[num_right] == token_ids[num_right]:
            num_right += 1
        copy.begin_at(num_right)
        new = token_ids[shadow.num_true :]
        copy.token_ids[shadow.num_true :] = new
        shadow.num_true = len(token_ids)
        if sequence.images or max(new, default=0) >= self._vocab_sizes[0]:
            self._drop(shadow)

    def _read(self, rows: list[ScheduledSequence]) -> torch.Tensor:
        """Logits after the sequences' last tokens, of the rows that reach them."""
        logits = self._forward(rows, None)
        for row in rows:
            for token_id in row.sequence.draft:
                row.sequence.append(token_id)
        stops, num_samples = [], 0
        for row in rows:
            num_samples += row.num_samples
            stops += [num_samples - 1] if row.samples else []
            row.sequence.draft = []
            self.runner.kv_cache.cache_blocks(row.sequence, row.start, row.sequence.num_computed)
        return logits if len(stops) == num_samples else logits[upload(torch.tensor(stops), logits.device)]

    def _continue(self, sequences: list[Sequence], before: list[Sequence], sampled: torch.Tensor) -> torch.Tensor:
        """Logits after each sequence's newest guess. `sampled`: those guesses, of the sequences in `before`."""
        index = {sequence: at for at, sequence in enumerate(before)}
        copies = [self._shadows[sequence].copy for sequence in sequences]
        rows = []
        for sequence, copy in zip(sequences, copies, strict=True):
            copy.pending = index[sequence]
            rows.append(ScheduledSequence(copy, 1))
        logits = self._forward(rows, sampled)
        for copy in copies:
            copy.append(NO_TOKEN)  # until the guesses are read
        return logits

    def _forward(self, rows: list[ScheduledSequence], sampled: torch.Tensor | None) -> torch.Tensor:
        for row in rows:
            row.sequence.advance(row.num_inputs)
        return self.runner.forward(rows, sampled)

    def _sample(self, logits: torch.Tensor, sequences: list[Sequence], ahead: int) -> PendingSamples:
        """The guesses at `ahead` tokens after each sequence's end."""
        positions = [sequence.num_completion_tokens + ahead for sequence in sequences]
        copies = [self._shadows[sequence].copy for sequence in sequences]
        return sample(logits, copies, positions, may_defer=self.device.type != "cpu")

    def _guesses(
        self, wanted: Seq[tuple[Sequence, int]], drafting: Seq[tuple[Sequence, int]], found: list[list[int | None]]
    ) -> list[list[int]]:
        """`found`: at each number of tokens ahead, the samples of the sequences that go so far."""
        guesses: dict[Sequence, list[int]] = {sequence: [] for sequence, _ in drafting}
        for ahead, token_ids in enumerate(found):
            going = (sequence for sequence, num in drafting if num > ahead)
            for sequence, token_id in zip(going, token_ids, strict=True):
                guesses[sequence].append(NO_TOKEN if token_id is None else token_id)
        failed = [sequence for sequence, guess in guesses.items() if NO_TOKEN in guess]
        for sequence, guess in guesses.items():
            shadow = self._shadows[sequence]
            shadow.copy.token_ids[shadow.num_true :] = guess[:-1]
            shadow.copy.num_taken_back += UNDECIDED in guess  # from now on it is sorted in full
            usable = [0 <= token_id < self._vocab_sizes[1] for token_id in guess]
            del guess[usable.index(False) if False in usable else len(guess) :]
        for sequence in failed:
            self._refuse(sequence)
        return [guesses.get(sequence, []) for sequence, _ in wanted]

    def _refuse(self, sequence: Sequence) -> None:
        """The draft model has no usable probabilities for the sequence: its blocks may hold NaN."""
        shadow = self._shadows[sequence]
        self.runner.kv_cache.zero(shadow.copy)
        self._drop(shadow)

    def _drop(self, shadow: Shadow) -> None:
        """It gets no more guesses, and others its blocks."""
        shadow.is_refused = True
        self.runner.kv_cache.free(shadow.copy)
        shadow.copy.begin_at(0)


def copy_of(sequence: Sequence) -> Sequence:
    """The same prompt and parameters. Block hashes are shared, because both caches' blocks have one size."""
    return replace(
        sequence,
        sampling=replace(sequence.sampling, logprobs=None),
        token_ids=[],
        grammar=None,
        num_computed=0,
        pending=None,
        block_ids=[],
        draft=[],
        finish_reason=None,
    )


def load_draft_model(loaded: LoadedModel, config: EngineConfig) -> DraftModel:
    """The model of OMNI_DRAFT_MODEL, on the device of `loaded`, which verifies its guesses. Raises ValueError."""
    own_config = replace(
        config,
        device=str(loaded.device),
        dtype="auto",
        max_model_len=None,
        threads=torch.get_num_threads(),  # the number is the process's, and chosen for the larger model
        kv_dtype="auto",
        kv_memory_bytes=FIRST_KV_BYTES,
        speculate=SHORT - 1,  # what a recorded step of it verifies: see _catch_up
        draft_model="",
    )
    folder = Path(config.draft_model)
    if folder.is_dir() and (fault := fault_in(folder, needs_weights=True)):
        raise ValueError(f"{fault}.")
    draft = load(config.draft_model, ("draft",), own_config, lambda stage, share: None)
    check_same_tokens(draft, loaded)
    runner, _ = build_runner(draft, own_config)
    if not runner.takes_drafts or not runner.takes_pending:
        raise ValueError(f"no guess can be taken back from the states that a {draft.card.architecture} model keeps.")
    return DraftModel(runner, draft, loaded.card.vocab_size)


def check_same_tokens(draft: LoadedModel, loaded: LoadedModel) -> None:
    """Raises ValueError unless equal ids are equal tokens. Added tokens that only one of them names do not matter."""
    own, theirs = (each.tokenizer.get_vocab(with_added_tokens=True) for each in (draft, loaded))
    added = {token.content for each in (draft, loaded) for token in each.tokenizer.get_added_tokens_decoder().values()}
    for token in own.keys() | theirs.keys():
        if own.get(token) != theirs.get(token) and (token not in added or (token in own and token in theirs)):
            raise ValueError(
                f"it has another tokenizer than the model: {token!r} is token {own.get(token)} there and "
                f"{theirs.get(token)} here."
            )
