"""Logits to tokens in one launch: the exact distribution of float64, and torch's tokens for the same numbers."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.sampling.test_sampler import chi_squared, sequence_with
from worker.kernels.gpu import sampling
from worker.kernels.gpu.sampling import COLUMNS, sample_rows
from worker.sampling import sampler
from worker.sampling.kernel_sampler import parameters_of
from worker.state.sequence import Sequence

NO_TOKEN = -1
BORDER = 2e-6  # of the weight: a draw nearer to a border between tokens may fall on either side of it
LAST = 1 - 1e-12  # a number that draws the last token that is kept
SMALL_BLOCK = 256


def tokens(logits: torch.Tensor, *rows: tuple[float, ...], block: int = SMALL_BLOCK) -> list[int]:
    """Of `rows` in the order of COLUMNS; a single row of logits serves all of them."""
    logits = logits.expand(len(rows), -1) if logits.dim() == 1 else logits
    return sample_rows(logits, torch.tensor(rows, dtype=torch.float64), NO_TOKEN, block).tolist()


def row(
    uniform: float = 0.5, temperature: float = 1.0, top_k: int = 2**20, top_p: float = 1.0, min_p: float = 0.0
) -> tuple[float, ...]:
    return uniform, temperature, top_k, top_p, temperature * math.log(min_p) if min_p else -math.inf


def weights_of(logits: torch.Tensor, parameters: tuple[float, ...]) -> torch.Tensor:
    """The weights [vocab] of a row's distribution by their definition, in float64, sorted in full."""
    _, temperature, top_k, top_p, least = parameters
    differences = logits.double() - logits.double().max()
    weights = (differences / temperature).exp()
    if top_k < len(weights):
        weights = torch.where(differences >= differences.sort(descending=True).values[int(top_k) - 1], weights, 0)
    if top_p < 1:
        ordered, order = weights.sort(descending=True)
        last = max(0, int((ordered.cumsum(0) - ordered < top_p * ordered.sum()).sum()) - 1)
        weights = torch.where(differences >= differences[order[last]], weights, 0)
    return torch.where(differences >= least, weights, 0)


def exact(logits: torch.Tensor, parameters: tuple[float, ...]) -> tuple[int, float]:
    """The token, and how far the draw is from the next border between tokens, as a share of the weight."""
    cumulative = weights_of(logits, parameters).cumsum(0)
    shares = cumulative / cumulative[-1]
    return int((shares <= parameters[0]).sum()), float((shares - parameters[0]).abs().min())


def kept(logits: list[float], **parameters: Any) -> int:
    """How many tokens a row keeps: the last that can be drawn, of logits that do not rise."""
    assert logits == sorted(logits, reverse=True)
    first, last = tokens(torch.tensor(logits), row(1e-12, **parameters), row(LAST, **parameters))
    assert first == 0
    return last + 1


def shares(*parts: float) -> list[float]:
    return [math.log(part) for part in parts]


# --- greedy


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [1, 7, 256, 257, 1000])
def test_a_greedy_row_takes_the_first_of_its_largest_logits(vocab_size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(4, vocab_size, generator=generator).to(dtype)
    logits[0] = 3
    logits[1, vocab_size // 2 :] = 9
    logits[2, :-1] = -math.inf
    wide = torch.full((4, vocab_size + 5), 99.0, dtype=dtype)  # what lies between the rows is not read
    wide[:, :vocab_size] = logits
    found = sample_rows(wide[:, :vocab_size], None, NO_TOKEN, SMALL_BLOCK)
    assert found.tolist() == logits.float().argmax(-1).tolist() and found.dtype == torch.long
    assert tokens(logits, *[row(temperature=0.0)] * 4) == found.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "none"])
@pytest.mark.parametrize("place", [0, 300, 599])
def test_a_row_with_nan_or_without_a_finite_maximum_has_no_token(
    bad: float | str, place: int, temperature: float
) -> None:
    logits = torch.randn(2, 600, generator=torch.Generator().manual_seed(1))
    if isinstance(bad, str):
        logits[0] = -math.inf
    else:
        logits[0, place] = bad
    first, second = tokens(logits, row(temperature=temperature), row(temperature=0.0))
    assert first == NO_TOKEN and second == int(logits[1].argmax())


def test_an_empty_batch_gives_no_tokens() -> None:
    assert sample_rows(torch.empty(0, 10), None, NO_TOKEN).tolist() == []


# --- what is kept


@pytest.mark.parametrize(
    ("parts", "parameters", "expected"),
    [
        ((5, 3, 2), {}, 3),
        ((5, 3, 2), {"top_p": 0.49}, 1),
        ((5, 3, 2), {"top_p": 0.51}, 2),  # the token that reaches the limit is kept
        ((4, 4, 4, 4), {"top_p": 0.5}, 4),  # all of equal logits are kept
        ((8, 4, 4, 4, 4), {"top_p": 0.4}, 5),
        ((8, 4, 2, 1, 1), {"top_p": 0.5 - 1e-6}, 1),
        ((8, 4, 2, 1, 1), {"top_p": 0.5 + 1e-6}, 2),
        ((8, 4, 2, 1, 1), {"top_p": 0.75 - 1e-6}, 2),
        ((8, 4, 2, 1, 1), {"top_p": 0.75 + 1e-6}, 3),
        ((8, 4, 2, 1, 1), {"top_p": 0.0}, 1),
        ((8, 4, 2, 1, 1), {"top_p": 1e-9}, 1),
        ((1, 1e-9), {"top_p": 0.999}, 1),  # a nucleus of one token
        ((8, 4, 2, 1, 1), {"top_k": 1}, 1),
        ((8, 4, 2, 1, 1), {"top_k": 3}, 3),
        ((8, 4, 2, 1, 1), {"top_k": 4}, 5),
        ((8, 4, 2, 1, 1), {"top_k": 5}, 5),
        ((8, 4, 2, 1, 1), {"top_k": 99}, 5),
        ((8, 4, 2, 1, 1), {"min_p": 0.2}, 3),
        ((8, 4, 2, 1, 1), {"min_p": 1.0}, 1),
        ((8, 4, 2, 1, 1), {"top_k": 3, "top_p": 0.8}, 2),  # of the three: 8/14, 12/14
        ((8, 4, 2, 1, 1), {"top_k": 3, "top_p": 0.9}, 3),
        ((8, 4, 2, 1, 1), {"top_p": 0.9, "min_p": 0.4}, 2),
        ((8, 4, 2, 1, 1), {"temperature": 0.5, "top_p": 0.74}, 1),  # 64 of 86
        ((8, 4, 2, 1, 1), {"temperature": 0.5, "min_p": 0.05}, 3),  # 64, 16, 4, 1, 1
    ],
)
def test_the_truncations_keep_what_they_define(
    parts: tuple[float, ...], parameters: dict[str, float], expected: int
) -> None:
    assert kept(shares(*parts), **parameters) == expected


@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 60.0])
def test_a_nucleus_ends_at_the_right_token_in_flat_and_in_peaked_rows(spread: float, top_p: float) -> None:
    """1,000 logits over four blocks. In float64 the border's weight is a millionth or less beside the right one."""
    logits = torch.linspace(spread, 0, 1000)
    [last] = tokens(logits, row(LAST, top_p=top_p))
    weights = (logits.double() - spread).exp()
    share_before = weights.cumsum(0)[last] - weights[last], weights.cumsum(0)[last]
    limit = top_p * weights.sum()
    if spread == 0:
        assert last == 999
    else:
        assert share_before[0] < limit * (1 + BORDER) and share_before[1] > limit * (1 - BORDER)


@pytest.mark.parametrize("temperature", [1e-40, 1e-6, 0.01, 100.0, 1e35])
@pytest.mark.parametrize("truncation", [{}, {"top_k": 3}, {"top_p": 0.5}])
def test_extreme_temperatures_leave_the_likeliest_or_all(temperature: float, truncation: dict[str, float]) -> None:
    logits = torch.tensor([2.0, 2.0, 1.0, 0.0, -1.0, -math.inf])
    drawn = tokens(logits, *[row(at / 25 + 0.01, temperature, **truncation) for at in range(25)])  # type: ignore[arg-type]
    if temperature < 1:
        assert set(drawn) == {0, 1}
    else:
        assert set(drawn) == ({0, 1, 2} if truncation else {0, 1, 2, 3, 4})


# --- the distribution

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "warm": {"temperature": 1.7},
    "cold": {"temperature": 0.3},
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.02},
    "all": {"temperature": 1.2, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("vocab_size", [3, 256, 1000])
def test_each_draw_is_the_token_of_the_exact_distribution(vocab_size: int, case: str) -> None:
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(vocab_size, generator=generator) * 3
    rows = [row(float(number), **CASES[case]) for number in torch.rand(12, generator=generator, dtype=torch.float64)]
    expected = [exact(logits, each) for each in rows]
    found = tokens(logits, *rows)
    wrong = [at for at, (token, margin) in enumerate(expected) if found[at] != token and margin > BORDER]
    assert not wrong, [(found[at], expected[at]) for at in wrong]


@pytest.mark.parametrize("parameters", [{}, {"temperature": 0.7, "top_p": 0.9}])
def test_many_draws_follow_the_distribution(parameters: dict[str, float]) -> None:
    logits = torch.tensor([2.0, 1.0, 0.5, 0.0, -1.0, -3.0])
    numbers = torch.rand(200, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = tokens(logits, *[row(float(number), **parameters) for number in numbers])
    weights = weights_of(logits, row(**parameters))
    counts = torch.bincount(torch.tensor(drawn), minlength=len(logits))
    limit = 20.5  # 5 degrees of freedom: once in a thousand
    assert chi_squared(counts, weights / weights.sum()) < limit
    assert chi_squared(counts, torch.full((6,), 1 / 6)) > limit


def test_a_row_does_not_depend_on_its_neighbours_or_the_block() -> None:
    logits = torch.randn(6, 1000, generator=torch.Generator().manual_seed(3))
    rows = [row(0.1 + at / 8, top_p=0.9) for at in range(6)]
    together = tokens(logits, *rows)
    assert [tokens(logits[at : at + 1], rows[at])[0] for at in range(6)] == together
    assert tokens(logits, *rows, block=1024) == together
    assert tokens(logits.bfloat16(), *rows) == tokens(logits.bfloat16().float(), *rows)


# --- in the sampler


@pytest.fixture
def by_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def use() -> None:
        monkeypatch.setattr(sampler, "has_kernel", lambda device: True)
        monkeypatch.setattr(sampling, "BLOCK", SMALL_BLOCK)

    return use


def mixed_sequences() -> list[Sequence]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {},
        {"temperature": 0.8, "top_p": 0.95},
        {"top_k": 40, "top_p": 0.9},
        {"min_p": 0.05},
        {"top_p": 0.9999, "temperature": 1.5},  # beyond torch's candidates
        {"logit_bias": ((3, 5.0),), "presence_penalty": 1.0},
        {"logprobs": 3, "temperature": 0.6},
    ]
    return [sequence_with(seed=seed, **kind) for kind, seed in product(kinds, range(4))]


def test_the_tokens_are_torch_s_for_the_same_numbers(by_kernel: Callable[[], None]) -> None:
    sequences = mixed_sequences()
    positions = list(range(len(sequences)))
    logits = torch.randn(len(sequences), 700, generator=torch.Generator().manual_seed(9)) * 2
    by_torch = sampler.sample(logits.clone(), sequences, positions).read()
    by_kernel()
    found = sampler.sample(logits.clone(), sequences, positions, may_defer=True).read()
    assert found.token_ids == by_torch.token_ids  # none of these 32 lies at a border
    assert found.logprobs == by_torch.logprobs


def test_the_parameters_of_a_row_are_in_the_kernel_s_order() -> None:
    sequences = [sequence_with(temperature=0.5, min_p=0.1, top_p=0.7), sequence_with(temperature=0.0, top_k=5)]
    table = parameters_of(sequences, [0, 1], 100)
    assert table.shape == (2, len(COLUMNS)) and table.dtype == torch.float64
    assert table[0, 1:].tolist() == [0.5, 100, 0.7, 0.5 * math.log(0.1)]
    assert table[1, 1:].tolist() == [0.0, 5, 1.0, -math.inf]


class CountOperations(TorchDispatchMode):
    """Counts torch's operations that would launch a kernel or a copy on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.count += not (func.is_view or name.startswith(("aten.empty", "aten._local", "aten.item")))
        return func(*args, **(kwargs or {}))


class NotRead:
    """In place of ReadBack, for tensors without data."""

    def __init__(self, tensors: Any) -> None: ...


GREEDY, DRAWN, NUCLEUS = {"temperature": 0.0}, {"temperature": 0.7}, {"temperature": 0.7, "top_p": 0.9}


@pytest.mark.parametrize(("kind", "before", "after"), [(GREEDY, 8, 1), (DRAWN, 36, 2), (NUCLEUS, 74, 2)])
def test_a_step_s_samples_take_one_launch_and_one_copy(
    kind: dict[str, float], before: int, after: int, by_kernel: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's operations as a GPU would get them, on tensors without data; the kernel's with data."""
    monkeypatch.setattr(sampler, "ReadBack", NotRead)
    monkeypatch.setattr("worker.sampling.sampler.upload", lambda values, device: values.to(device))
    sequences = [sequence_with(**kind) for _ in range(2)]
    with CountOperations() as by_torch:
        sampler.sample(torch.empty(2, 1000, device="meta"), sequences, [0, 0], may_defer=True)
    by_kernel()
    launches: list[object] = []
    logits = torch.zeros(2, 1000)
    monkeypatch.setattr(sampling, "sample_kernel", {(2,): lambda *args, **options: launches.append(args)})
    monkeypatch.setattr("worker.sampling.kernel_sampler.upload", lambda values, device: values.to("meta"))
    with CountOperations() as ours:
        sampler.sample(logits, sequences, [0, 0])
    assert ours.count + len(launches) == after
    assert by_torch.count == pytest.approx(before, abs=4)  # it varies with the version


@pytest.mark.parametrize("overlap", [False, True], ids=["in-turn", "overlapped"])
def test_an_engine_s_answers_are_the_same_by_the_kernel(
    overlap: bool, model_folder: ModelFolder, by_kernel: Callable[[], None]
) -> None:
    def answers() -> list[list[int]]:
        bench = Bench(model_folder(), replace(SMALL, overlap=overlap))
        bench.add("greedy", prompt_of(5), max_tokens=6)
        bench.add("wide", prompt_of(9), max_tokens=6, temperature=1.5, top_p=0.99, seed=4)  # beyond torch's candidates
        bench.add("ruled", prompt_of(7), max_tokens=6, temperature=0.7, top_k=9, presence_penalty=1.0, seed=2)
        bench.finish()
        return [bench.token_ids(name) for name in ("greedy", "wide", "ruled")]

    by_torch = answers()
    by_kernel()
    assert answers() == by_torch
