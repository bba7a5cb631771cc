"""One step's inputs as a row of integers, so that every rank computes the same: tokens, places, blocks."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

from common.wire import SamplingParams
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence
from worker.state.stopping import VisibleText

NOTHING_SHOWN = VisibleText(detokenizer=None, stops=(), min_tokens=0)  # type: ignore[arg-type]  # a follower reads nothing


def pack_rows(rows: Seq[ScheduledSequence]) -> list[int]:
    """Per row: tokens, drafted ones, whether it samples, where it is, its blocks."""
    packed: list[int] = []
    for row in rows:
        sequence = row.sequence
        tokens = sequence.token_ids[row.start : row.start + row.num_tokens]
        head = [len(tokens), len(sequence.draft), int(row.samples), row.start, len(sequence.block_ids)]
        packed += [*head, *tokens, *sequence.draft, *sequence.block_ids]
    return packed


def unpack_rows(packed: Seq[int]) -> list[ScheduledSequence]:
    """Rows that a ModelRunner computes as it would compute the originals."""
    numbers = iter(packed)
    rows = []
    for num_tokens in numbers:
        num_drafted, samples, num_computed, num_blocks = take(numbers, 4)
        tokens, draft, block_ids = take(numbers, num_tokens), take(numbers, num_drafted), take(numbers, num_blocks)
        unseen = [] if samples else [0]  # more of the prompt, in a later step
        sequence = Sequence(
            request_id="",
            index=0,
            sampling=SamplingParams(max_tokens=1, seed=0),
            token_ids=[0] * num_computed + tokens + unseen,
            num_prompt_tokens=num_computed,
            text=NOTHING_SHOWN,
            ends=frozenset(),
            num_computed=num_computed,
            block_ids=block_ids,
            draft=draft,
        )
        rows.append(ScheduledSequence(sequence, num_tokens))
    return rows


def take(numbers: Iterator[int], num: int) -> list[int]:
    return [next(numbers) for _ in range(num)]
