"""Sampling on a GPU with Triton: one transfer and one launch for all rows (worker/kernels/gpu/sampling.py)."""

import logging
from collections.abc import Sequence as Seq
from functools import cache
from math import inf, log

import torch

from common.wire import SamplingParams
from worker.device import upload
from worker.kernels.available import has_triton
from worker.sampling.rng import draws_of
from worker.state.sequence import Sequence

logger = logging.getLogger(__name__)


@cache
def has_kernel(device: torch.device) -> bool:
    """True where the kernel runs, which is tried once: nothing else could stand in for it in the middle of a step."""
    if device.type != "cuda" or not has_triton():
        return False
    from worker.kernels.gpu.sampling import sample_rows

    try:
        return sample_rows(one_token_of(device), None, -1).item() == 1
    except Exception as error:  # of Triton's compiler, on a GPU that nobody has tried
        logger.warning("torch samples: Triton's kernel does not run on %s (%s)", device, error)
        return False


def one_token_of(device: torch.device) -> torch.Tensor:
    """Logits [1, 2] of which the second is the larger one."""
    return torch.arange(2.0, device=device)[None]


def sampled_by_kernel(
    logits: torch.Tensor, sequences: Seq[Sequence], positions: Seq[int], no_token: int
) -> torch.Tensor:
    """The next token of each row of `logits` [S, vocab]; `no_token` where a row has NaN or no finite maximum.

    The distribution and the random numbers are those of worker/sampling/sampler.py.
    """
    from worker.kernels.gpu.sampling import sample_rows

    if all(sequence.sampling.temperature == 0 for sequence in sequences):
        return sample_rows(logits, None, no_token)
    parameters = parameters_of(sequences, positions, logits.shape[1])
    return sample_rows(logits, upload(parameters, logits.device), no_token)


def parameters_of(sequences: Seq[Sequence], positions: Seq[int], vocab_size: int) -> torch.Tensor:
    """The kernel's parameters [S, 5], float64."""
    draws = draws_of(sequences, positions).tolist()
    rows = [row_of(draw, sequence.sampling, vocab_size) for draw, sequence in zip(draws, sequences, strict=True)]
    return torch.tensor(rows, dtype=torch.float64)


def row_of(draw: float, params: SamplingParams, vocab_size: int) -> tuple[float, ...]:
    """A row in the order of the kernel's COLUMNS."""
    least = params.temperature * log(params.min_p) if params.min_p > 0 else -inf
    return draw, params.temperature, params.top_k or vocab_size, params.top_p, least
