"""Tokens follow the requested distribution, and their random numbers the seed, choice and position."""

import math
from dataclasses import replace

import pytest
import torch

from common.wire import SamplingParams
from worker.runners.probe import probe_sequence
from worker.sampling.rng import uniform
from worker.sampling.sampler import NUM_CANDIDATES, sample
from worker.state.sequence import Sequence

LOGITS = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])


def sequence_with(prompt: tuple[int, ...] = (1,), drawn: tuple[int, ...] = (), **sampling: object) -> Sequence:
    sequence = probe_sequence([*prompt, *drawn])
    sequence.num_prompt_tokens = len(prompt)
    sequence.stop_token_ids = frozenset({5})
    sequence.sampling = replace(SamplingParams(max_tokens=99, seed=1), **sampling)  # type: ignore[arg-type]
    return sequence


def draw_many(num_draws: int, logits: torch.Tensor = LOGITS, **sampling: object) -> torch.Tensor:
    """How often each token comes at `num_draws` different positions."""
    sequence = sequence_with(**sampling)
    drawn = sample(logits.repeat(num_draws, 1), [sequence] * num_draws, range(num_draws)).read().token_ids
    return torch.bincount(torch.tensor(drawn), minlength=logits.shape[0])


def chi_squared(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    return float(((counts - expected)[possible].square() / expected[possible]).sum())


def truncated(keep: list[int], temperature: float = 1.0) -> torch.Tensor:
    weights = torch.zeros(6, dtype=torch.float64)
    weights[keep] = (LOGITS[keep].double() / temperature).exp()
    return weights / weights.sum()


@pytest.mark.parametrize(
    ("sampling", "keep"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 2.0}, [0, 1, 2, 3, 4, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 4, 5]),
        ({"top_k": 2}, [0, 1]),
        ({"top_k": 1}, [0]),
        ({"top_p": 0.75}, [0, 1]),  # 0.562, 0.769: the token that reaches the limit is kept
        ({"top_p": 0.55}, [0]),
        ({"top_p": 0.0}, [0]),
        ({"min_p": 0.2}, [0, 1, 2]),  # relative to the likeliest: 1, 0.37, 0.22, 0.14
        ({"top_k": 3, "top_p": 0.75}, [0, 1]),  # of the three: 0.629, 0.860
        ({"top_k": 4, "min_p": 0.3}, [0, 1]),
    ],
)
def test_frequencies_fit_the_truncated_distribution(sampling: dict[str, float], keep: list[int]) -> None:
    counts = draw_many(4000, **sampling)
    limit = 20.5  # chi-squared with 5 degrees of freedom exceeds this once in a thousand; the draws are fixed
    assert chi_squared(counts, truncated(keep, sampling.get("temperature", 1.0))) < limit


def test_top_p_is_exact_where_the_candidates_do_not_cover_it() -> None:
    logits = torch.linspace(0, 0.01, 4 * NUM_CANDIDATES)  # nearly flat: 0.9 takes 0.9 of all tokens
    counts = draw_many(20000, logits, top_p=0.9)
    probabilities = logits.double().softmax(-1)
    smallest_set = int(probabilities.flip(0).cumsum(0).lt(0.9).sum()) + 1
    assert (counts > 0).sum() == smallest_set
    assert counts[: len(logits) - smallest_set].sum() == 0


def test_a_row_that_needs_the_full_sort_does_not_change_its_neighbours() -> None:
    flat, steep = torch.linspace(0, 0.01, 4 * NUM_CANDIDATES), torch.linspace(0, 90, 4 * NUM_CANDIDATES)
    sequences = [sequence_with(top_p=0.9, seed=seed) for seed in range(20)]
    alone = sample(steep.repeat(20, 1), sequences, [0] * 20).read().token_ids
    mixed = sample(torch.cat([steep.repeat(20, 1), flat[None]]), [*sequences, sequences[0]], [0] * 21).read().token_ids
    assert mixed[:20] == alone


def test_draws_are_right_across_the_spans_of_a_large_vocabulary() -> None:
    logits = torch.full((1000,), -30.0)
    logits[[3, 255, 256, 700, 999]] = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).log()
    counts = draw_many(4000, logits)
    assert counts[[3, 255, 256, 700, 999]].div(4000).tolist() == pytest.approx([0.1, 0.2, 0.3, 0.15, 0.25], abs=0.02)
    assert counts.sum() == counts[[3, 255, 256, 700, 999]].sum()


def test_temperature_zero_takes_the_likeliest_token_in_a_mixed_batch() -> None:
    greedy, drawing = sequence_with(temperature=0.0), sequence_with(temperature=1.0, seed=3)
    mixed = sample(LOGITS.repeat(2, 1), [greedy, drawing], [0, 4]).read().token_ids
    alone = sample(LOGITS[None].clone(), [drawing], [4]).read().token_ids
    assert mixed == [0, alone[0]]


def test_a_draw_depends_on_seed_choice_and_position_and_on_nothing_else() -> None:
    import numpy as np

    def numbers(seed: int, choice: int) -> list[float]:
        size = 1000
        full = [np.full(size, value, dtype=np.uint64) for value in (seed, choice)]
        return uniform(*full, np.arange(size, dtype=np.uint64)).tolist()

    streams = [numbers(0, 0), numbers(0, 1), numbers(1, 0), numbers(2**64 - 1, 0)]
    assert numbers(0, 0) == streams[0]
    assert len({number for stream in streams for number in stream}) == 4000
    for stream in streams:
        assert abs(sum(stream) / 1000 - 0.5) < 0.03
        correlation = torch.corrcoef(torch.tensor([stream[:-1], stream[1:]]))[0, 1]
        assert abs(correlation) < 0.1


def adjusted(sequence: Sequence) -> torch.Tensor:
    logits = LOGITS[None].clone()
    sample(logits, [sequence], [0])
    return logits[0]


def test_presence_and_frequency_penalties_count_what_was_generated() -> None:
    sequence = sequence_with(prompt=(0, 0), drawn=(1, 1, 3), presence_penalty=0.5, frequency_penalty=0.25)
    expected = LOGITS - torch.tensor([0, 0.5 + 2 * 0.25, 0, 0.5 + 0.25, 0, 0])
    assert adjusted(sequence).tolist() == pytest.approx(expected.tolist())


def test_the_repetition_penalty_counts_the_prompt_as_well() -> None:
    sequence = sequence_with(prompt=(0,), drawn=(4,), repetition_penalty=2.0)
    expected = LOGITS * torch.tensor([0.5, 1, 1, 1, 2, 1])
    assert adjusted(sequence).tolist() == pytest.approx(expected.tolist())


def test_a_bias_is_added_and_can_forbid_or_force() -> None:
    assert adjusted(sequence_with(logit_bias=((2, 1.5),)))[2] == 2.0
    assert draw_many(50, logit_bias=((4, 100.0),)).argmax() == 4
    assert draw_many(500, logit_bias=((0, -100.0),))[0] == 0


def test_stop_tokens_are_forbidden_before_min_tokens() -> None:
    assert adjusted(sequence_with(drawn=(1,), min_tokens=2))[5] == -math.inf
    assert adjusted(sequence_with(drawn=(1, 2), min_tokens=2))[5] == LOGITS[5]


def test_logprobs_are_those_of_the_unchanged_logits() -> None:
    sequence = sequence_with(temperature=0.0, logit_bias=((3, 100.0),), logprobs=2)
    plain = sequence_with(temperature=0.0)
    first, second = sample(LOGITS.repeat(2, 1), [sequence, plain], [0, 0]).read().logprobs
    model = LOGITS.log_softmax(-1)
    assert second is None and first is not None
    assert (first.token_id, first.logprob) == (3, pytest.approx(model[3].item()))
    assert [token_id for token_id, _ in first.top] == [0, 1]
    assert [logprob for _, logprob in first.top] == pytest.approx(model[:2].tolist())


def test_a_row_of_nan_has_no_token_and_its_neighbours_do() -> None:
    logits = LOGITS.repeat(3, 1)
    logits[1] = math.nan
    greedy = [sequence_with(temperature=temperature) for temperature in (0.0, 1.0, 0.0)]
    assert sample(logits, greedy, [0, 0, 0]).read().token_ids[1:] == [None, 0]
