"""Which sequence each token of a step belongs to, and how many keys it sees."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap

TOKENS = 16  # of a program
SEQUENCES = 256  # that it compares them with at a time


def token_places(query_starts: torch.Tensor, num_keys: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """[2, T] int32: the sequence of each token, and the keys up to its own; 0 keys for tokens of no sequence.

    `query_starts` [N + 1] and `num_keys` [N], int32: the first token and the keys of each sequence.
    """
    out = torch.empty(2, num_tokens, dtype=torch.int32, device=query_starts.device)
    token_places_kernel[(triton.cdiv(num_tokens, TOKENS),)](
        query_starts, num_keys, out, len(num_keys), num_tokens, TOKENS=TOKENS, SEQUENCES=SEQUENCES, num_warps=4,
        **overlap(out.device),
    )  # fmt: skip
    return out


@triton.jit(
    do_not_specialize=("num_seqs", "num_tokens"), do_not_specialize_on_alignment=("query_starts", "num_keys", "out")
)
def token_places_kernel(
    query_starts, num_keys, out, num_seqs, num_tokens,
    TOKENS: tl.constexpr, SEQUENCES: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    begin(OVERLAPS)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    row = tl.zeros([TOKENS], tl.int32)
    for start in tl.range(0, num_seqs, SEQUENCES):
        at = start + tl.arange(0, SEQUENCES)
        end = tl.load(query_starts + at + 1, mask=at < num_seqs, other=2147483647)
        row += tl.sum((end[None, :] <= token[:, None]).to(tl.int32), 1)
    is_token = (token < num_tokens) & (row < num_seqs)
    end = tl.load(query_starts + row + 1, mask=is_token, other=0)
    keys = tl.load(num_keys + row, mask=is_token, other=0)
    tl.store(out + token, tl.where(is_token, row, 0), mask=token < num_tokens)
    tl.store(out + num_tokens + token, tl.where(is_token, keys - (end - 1 - token), 0), mask=token < num_tokens)
