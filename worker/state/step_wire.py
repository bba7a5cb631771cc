"""The inputs of a step as a list of integers, which rank 0 sends to the other ranks."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq

from common.wire import SamplingParams
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence
from worker.state.stopping import VisibleText


def pack_rows(rows: Seq[ScheduledSequence]) -> list[int]:
    """For each row five numbers (of tokens, of drafts, if it samples, its start, of blocks), then these lists."""
    packed: list[int] = []
    for row in rows:
        sequence = row.sequence
        tokens = sequence.token_ids[row.start : row.start + row.num_tokens]
        head = [len(tokens), len(sequence.draft), int(row.samples), row.start, len(sequence.block_ids)]
        packed += [*head, *tokens, *sequence.draft, *sequence.block_ids]
    return packed


def unpack_rows(packed: Seq[int]) -> list[ScheduledSequence]:
    """Rows for which a ModelRunner computes the same as for the originals."""
    no_text = VisibleText(detokenizer=None, stops=(), min_tokens=0)  # type: ignore[arg-type]  # followers produce none
    numbers = iter(packed)
    rows = []
    for num_tokens in numbers:
        num_drafted, samples, num_computed, num_blocks = take(numbers, 4)
        tokens, draft, block_ids = take(numbers, num_tokens), take(numbers, num_drafted), take(numbers, num_blocks)
        unseen = [] if samples else [0]  # stands for the rest of the prompt
        sequence = Sequence(
            request_id="",
            index=0,
            sampling=SamplingParams(max_tokens=1, seed=0),
            token_ids=[0] * num_computed + tokens + unseen,
            num_prompt_tokens=num_computed,
            text=no_text,
            stop_token_ids=frozenset(),
            num_computed=num_computed,
            block_ids=block_ids,
            draft=draft,
        )
        rows.append(ScheduledSequence(sequence, num_tokens))
    return rows


def take(numbers: Iterator[int], num: int) -> list[int]:
    return [next(numbers) for _ in range(num)]
