"""What adapters add to a product: by the C kernel, by torch, and by one product of all, each against float64."""

from collections.abc import Callable, Sequence

import pytest
import torch

from worker.kernels.adapters.grouped import GroupedChange, GroupedSlots
from worker.kernels.adapters.low_rank import LowRank
from worker.kernels.adapters.stacked import Columns, StackedChange, StackedSlots
from worker.kernels.native import NoKernels

NUM_IN, WIDTHS = 96, (64, 16, 144)
SLOTS = (2, 0, 1, 2, 1, 1, 3, 2, 0, 1, 1)  # of eleven tokens; slot 4 is loaded and not used
RANKS = {1: (4, None, 17), 2: (1, 8, None), 3: (None, None, 5), 4: (16, 16, 16)}  # of each slot's parts


def parts_of(slot: int, dtype: torch.dtype, num_in: int) -> list[LowRank | None]:
    generator = torch.Generator().manual_seed(slot)
    return [
        LowRank(
            torch.randn(rank, num_in, generator=generator).to(dtype),
            torch.randn(rank, width, generator=generator).to(dtype),
        )
        if rank
        else None
        for rank, width in zip(RANKS[slot], WIDTHS, strict=True)
    ]


def expected(
    inputs: torch.Tensor, outputs: torch.Tensor, dtype: torch.dtype, slots: Sequence[int] = SLOTS
) -> torch.Tensor:
    result = outputs.double()
    for token, slot in enumerate(slots):
        start = 0
        for width, part in zip(WIDTHS, parts_of(slot, dtype, inputs.shape[1]) if slot else (), strict=False):
            if part is not None:
                change = inputs[token].double() @ part.down.double().t() @ part.up.double()
                result[token, start : start + width] += change
            start += width
    return result


def grouped(dtype: torch.dtype, num_in: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
    change = GroupedChange(WIDTHS, num_in, dtype)
    for slot in RANKS:
        change.put(slot, parts_of(slot, dtype, num_in))
    return lambda inputs, outputs: change.add(inputs, outputs, GroupedSlots(SLOTS))


def stacked(dtype: torch.dtype, num_in: int) -> Callable[[torch.Tensor, torch.Tensor], None]:
    columns = Columns(torch.device("cpu"))
    change = StackedChange(WIDTHS, num_in, dtype, columns)
    for slot, ranks in (*RANKS.items(), (2, RANKS[2])):  # slot 2 leaves and comes again
        if slot in columns.places:
            change.drop(slot)
            columns.take(slot)
        columns.give(slot, max(rank or 0 for rank in ranks))
        change.put(slot, parts_of(slot, dtype, num_in))
    return lambda inputs, outputs: change.add(inputs, outputs, StackedSlots(torch.tensor(SLOTS), columns))


@pytest.mark.parametrize("make", [grouped, stacked])
@pytest.mark.parametrize("num_in", [NUM_IN, 40], ids=["for the kernel", "not for it"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_each_token_gets_its_own_adapter_s_change(
    make: Callable[..., Callable[[torch.Tensor, torch.Tensor], None]],
    num_in: int,
    dtype: torch.dtype,
    given: torch.dtype,
) -> None:
    """Two more rows are padding, and stay as they are."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(len(SLOTS) + 2, num_in, generator=generator).to(given)
    before = torch.randn(len(SLOTS) + 2, sum(WIDTHS), generator=generator).to(given)
    outputs = before.clone()
    make(dtype, num_in)(inputs, outputs)
    wanted = expected(inputs, before, dtype)
    scale = (wanted - before.double()).square().mean().sqrt()
    error = ((outputs.double() - wanted).abs().max() / scale).item()
    assert error < (1e-5 if dtype == given == torch.float32 else 0.06)
    assert torch.equal(outputs[len(SLOTS) :], before[len(SLOTS) :])
    base = [token for token, slot in enumerate(SLOTS) if slot == 0]
    assert torch.equal(outputs[base], before[base])


def test_another_adapter_s_infinity_stays_with_its_tokens() -> None:
    inputs = torch.ones(len(SLOTS), NUM_IN)
    columns = Columns(torch.device("cpu"))
    change = StackedChange((16,), NUM_IN, torch.float32, columns)
    for slot, number in ((1, torch.inf), (2, 1.0)):
        columns.give(slot, 1)
        change.put(slot, [LowRank(torch.full((1, NUM_IN), number), torch.ones(1, 16))])
    outputs = torch.zeros(len(SLOTS), 16)
    change.add(inputs, outputs, StackedSlots(torch.tensor(SLOTS), columns))
    finite = [slot != 1 for slot in SLOTS]
    assert outputs.isfinite().all(dim=1).tolist() == finite


@pytest.mark.usefixtures("kernels")
def test_the_same_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: torch.dtype) -> None:
        raise NoKernels("there is no C compiler")

    outputs = []
    inputs = torch.randn(len(SLOTS), NUM_IN, generator=torch.Generator().manual_seed(0))
    for has_kernels in (True, False):
        if not has_kernels:
            monkeypatch.setattr("worker.kernels.adapters.grouped.load_kernels", missing)
        outputs.append(torch.zeros(len(SLOTS), sum(WIDTHS)))
        grouped(torch.float32, NUM_IN)(inputs, outputs[-1])
    assert torch.allclose(*outputs, atol=1e-3)


def test_columns_that_do_not_fit_into_memory_leave_the_adapters_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the allocations fails: of the columns, of `down`, or of one of the `ups`."""
    zeros = torch.zeros
    for num_done in range(2 + len(WIDTHS)):
        columns = Columns(torch.device("cpu"))
        change = StackedChange(WIDTHS, NUM_IN, torch.float32, columns)
        columns.give(1, 17)
        change.put(1, parts_of(1, torch.float32, NUM_IN))
        done = iter(range(num_done))

        def failing(*args: object, done: object = done, **options: object) -> torch.Tensor:
            if next(done, None) is None:  # type: ignore[call-overload]
                raise torch.OutOfMemoryError("full")
            return zeros(*args, **options)  # type: ignore[call-overload,no-any-return]

        with monkeypatch.context() as patched, pytest.raises(torch.OutOfMemoryError):
            patched.setattr(torch, "zeros", failing)
            columns.give(4, 64)
            change.put(4, parts_of(4, torch.float32, NUM_IN))
        if 4 in columns.places:
            change.drop(4)
            columns.take(4)
        assert len(columns.slot_of) == columns.num
        inputs, outputs = torch.randn(len(SLOTS), NUM_IN), torch.zeros(len(SLOTS), sum(WIDTHS))
        of_one = [slot if slot == 1 else 0 for slot in SLOTS]
        wanted = expected(inputs, outputs, torch.float32, of_one)
        change.add(inputs, outputs, StackedSlots(torch.tensor(of_one), columns))
        assert torch.allclose(outputs.double(), wanted, atol=1e-3)
