"""Experts in host memory beside a GPU, on a driver that is none: what is computed, when it is, and for whom."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.worker.kernels.experts.streams import (
    CPU,
    NUM_EXPERTS,
    TOP_K,
    WIDTH,
    FakeStream,
    fake_cuda,
    inputs,
    small_layer,
)
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.host_work import HostWork, address_of, num_threads
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.experts.placing import MOST_REPLACED, MOST_USES, HostedExperts
from worker.kernels.experts.ram import RamExperts, RamMaker, WaitingExperts, slices
from worker.kernels.experts.streamed import Ring, StreamedExperts

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_cuda(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def work(library: Path) -> Iterator[HostWork]:
    work = HostWork(partial(FakeStream, library), pins=False)
    yield work
    work.thread.close()


def stream_of(work: HostWork) -> FakeStream:
    assert isinstance(work.stream, FakeStream)
    return work.stream


def ram_experts(work: HostWork, layer: ExpertLayer) -> RamExperts:
    experts = CpuExperts.of(layer)
    experts.c_layer.num_threads = 1
    return RamExperts(experts, work, StreamedExperts(experts, work, CPU))


def expected(layer: ExpertLayer, *call: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(call[0])
    LoopedExperts(layer)(*call, out)
    return out


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_tokens", [1, 7, 70])
def test_the_sums_are_those_of_the_experts_one_by_one(work: HostWork, num_tokens: int, has_bias: bool) -> None:
    layer = small_layer(has_bias=has_bias)
    experts, call = ram_experts(work, layer), inputs(num_tokens)
    out = torch.empty_like(call[0])
    experts(*call, out)
    assert torch.allclose(out, expected(layer, *call), atol=1e-5)
    experts.min_streamed = 1
    experts(*call, out.zero_())
    assert torch.allclose(out, expected(layer, *call), atol=1e-5)


def test_nothing_is_computed_before_the_streams_meet(work: HostWork) -> None:
    layer = small_layer()
    experts, call = ram_experts(work, layer), inputs(4)
    out = torch.full_like(call[0], 5.0)
    finish = experts.begin(*call, out)
    assert (out == 5).all() and not work.times()
    finish()
    assert torch.allclose(out, expected(layer, *call), atol=1e-5)
    (times,) = work.times()
    assert 0 < times.node_began <= times.began < times.ended <= times.node_ended and times.num_rows == 4


def test_layers_and_chunks_take_turns_in_the_same_memory(work: HostWork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kernels.experts.host_work.ROOMS", (4,))
    monkeypatch.setattr("worker.kernels.experts.ram.ROOMS", (4,))
    assert [slice(0, 4), slice(4, 8), slice(8, 10)] == list(slices(10))
    layer = small_layer()
    first, second, call = ram_experts(work, layer), ram_experts(work, layer), inputs(10)
    outs = [torch.empty_like(call[0]) for _ in range(2)]
    ends = [first.begin(*call, outs[0]), second.begin(*call, outs[1])]
    for end in ends:
        end()
    assert all(torch.allclose(out, expected(layer, *call), atol=1e-5) for out in outs)


def test_a_recording_reads_what_stands_in_its_inputs_and_computes_as_many_rows_as_the_step_has(work: HostWork) -> None:
    layer = small_layer()
    experts, call, count = ram_experts(work, layer), inputs(6), torch.tensor([6], dtype=torch.int32)
    out, stream = torch.empty_like(call[0]), stream_of(work)
    stream.is_recording = True
    with work.counted(count):
        assert work.is_counted
        experts.begin(*call, out)()
    assert not work.is_counted
    for num_rows, seed in ((6, 1), (2, 2), (0, 3), (5, 4)):
        count.fill_(num_rows)
        for own, new in zip(call, inputs(6, seed), strict=True):
            own.copy_(new)
        uses = experts.uses.clone()
        stream.replay()
        assert torch.allclose(out[:num_rows], expected(layer, *call)[:num_rows], atol=1e-5)
        assert int((experts.uses - uses).sum()) == num_rows * TOP_K  # rows that pad the step read no expert
    stream.end_recording()
    assert [times.num_rows for times in work.times()][:4] == [6, 2, 0, 5]


def test_a_recorded_step_never_waits_for_the_choice_of_experts(work: HostWork) -> None:
    experts, call = ram_experts(work, small_layer()), inputs(6)
    experts.min_streamed = 1
    with work.counted(torch.tensor([6], dtype=torch.int32)):
        experts(*call, torch.empty_like(call[0]))
    assert len(work.times()) == 1  # the CPU computed them
    experts(*call, torch.empty_like(call[0]))
    assert [times.num_rows for times in work.times()] == [6, -1]  # and then copied weights


def test_a_call_that_the_driver_refuses_says_which(work: HostWork) -> None:
    stream = stream_of(work)
    with pytest.raises(RuntimeError, match=r"cuLaunchHostFunc: out of memory \(2\)"):
        for _ in range(1000):
            stream.call(address_of(work.kernels.compute_nothing), 0)
    stream.end_recording()


class TestOnTheCard:
    """Some of the experts stand on the GPU."""

    def test_the_sums_are_the_same_and_the_cpu_reads_the_others_only(self, work: HostWork) -> None:
        layer = small_layer(has_bias=True)
        experts, call = ram_experts(work, layer), inputs(9)
        hosted = HostedExperts([experts], CPU)
        each = experts.experts.num_bytes // NUM_EXPERTS
        assert hosted.fill_card(each) == 0  # one alone is not worth the launches
        assert hosted.fill_card(4 * each) == 4
        assert experts.card is not None and experts.card.ids.tolist() == [0, 1, 2, 3]
        out = torch.empty_like(call[0])
        experts(*call, out)
        assert torch.allclose(out, expected(layer, *call), atol=1e-5)
        room = work.room(9, call[0].shape[1], TOP_K, torch.float32)
        left = room.chosen[: 9 * TOP_K].view(9, TOP_K)
        assert torch.equal(left, torch.where(call[1] < 4, -1, call[1]))

    def test_with_all_of_them_nothing_goes_to_the_cpu(self, work: HostWork) -> None:
        layer = small_layer()
        experts, call = ram_experts(work, layer), inputs(5)
        assert HostedExperts([experts], CPU).fill_card(10**9) == NUM_EXPERTS
        out = torch.empty_like(call[0])
        experts(*call, out)
        assert torch.allclose(out, expected(layer, *call), atol=1e-5) and not work.times()

    def test_those_that_are_used_most_come_there(self, work: HostWork) -> None:
        layer = small_layer()
        experts = ram_experts(work, layer)
        hosted = HostedExperts([experts], CPU)
        hosted.fill_card(3 * experts.experts.num_bytes // NUM_EXPERTS)
        assert hosted.replace_least_used() == 0  # nothing is known yet
        experts.uses.fill_(70)
        experts.uses[[2, 7, 9]] = torch.tensor([100, 400, 300])
        assert hosted.replace_least_used() == 2
        assert experts.card is not None and sorted(experts.card.ids.tolist()) == [2, 7, 9]
        assert hosted.replace_least_used() == 0
        call = inputs(20)
        out = torch.empty_like(call[0])
        experts(*call, out)
        assert torch.allclose(out, expected(layer, *call), atol=1e-5)

    def test_they_are_looked_at_now_and_then(self, work: HostWork, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.kernels.experts.placing.STEPS_BETWEEN", 3)
        experts = ram_experts(work, small_layer())
        hosted = HostedExperts([experts], CPU)
        hosted.fill_card(2 * experts.experts.num_bytes // NUM_EXPERTS)
        experts.uses[7] = 10**6  # of what was tried before the first step
        hosted.between_steps()
        assert not experts.uses.any()
        experts.uses.fill_(100)
        experts.uses[5] = 1000
        for _ in range(2):
            assert experts.card is not None and 5 not in experts.card.ids
            hosted.between_steps()
        assert 5 in experts.card.ids and 7 not in experts.card.ids

    def test_those_with_the_most_gain_over_all_layers_come_first(self, work: HostWork) -> None:
        layers = [ram_experts(work, small_layer()) for _ in range(5)]
        hosted = HostedExperts(layers, CPU)
        assert hosted.fill_card(sum(2 * layer.experts.num_bytes // NUM_EXPERTS for layer in layers)) == 2
        for layer, most in zip(layers, (200, 200, 200, 200, 900), strict=True):
            layer.uses.fill_(100)
            layer.uses[[5, 6]] = most
        assert hosted.replace_least_used() == MOST_REPLACED
        cards = [layer.card.ids.tolist() for layer in layers if layer.card is not None]
        assert sorted(cards[-1]) == [5, 6] and sum(5 in card or 6 in card for card in cards) == 4

    def test_what_was_asked_long_ago_counts_less(self, work: HostWork) -> None:
        experts = ram_experts(work, small_layer())
        hosted = HostedExperts([experts], CPU)
        hosted.fill_card(2 * experts.experts.num_bytes // NUM_EXPERTS)
        experts.uses.fill_(MOST_USES - 1)
        hosted.replace_least_used()
        assert int(experts.uses[0]) == MOST_USES - 1
        experts.uses.fill_(MOST_USES)
        hosted.replace_least_used()
        assert int(experts.uses[0]) == MOST_USES // 2


def test_streaming_begins_where_it_was_measured_to_pay(work: HostWork, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = small_layer()
    hosted = HostedExperts([ram_experts(work, layer), ram_experts(work, layer)], CPU)
    seconds = iter([0.5, 0.1, 0.3, 0.6])  # copied; then by the CPU: 32, 64, 128 rows
    monkeypatch.setattr(hosted, "_seconds_of", lambda *_: next(seconds))
    hosted.choose_streaming(TOP_K, torch.float32)
    assert [experts.min_streamed for experts in hosted.layers] == [128, 128]
    assert hosted.streams(128) and not hosted.streams(127)


def test_what_only_a_first_call_takes_does_not_count(work: HostWork) -> None:
    pauses = iter((0.5, 0.02, 0.01))
    hosted = HostedExperts([ram_experts(work, small_layer())], CPU)
    assert 0.01 <= hosted._seconds_of(lambda *_: time.sleep(next(pauses)), ()) < 0.4


def test_streaming_is_measured_with_the_layer_itself(work: HostWork) -> None:
    hosted = HostedExperts([ram_experts(work, small_layer())], CPU)
    hosted.choose_streaming(TOP_K, torch.float32)
    assert hosted.min_streamed is None or hosted.min_streamed >= 32
    assert work.times()


def test_streamed_experts_are_copied_block_by_block(work: HostWork, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = small_layer(has_bias=True)
    experts = CpuExperts.of(layer)
    experts.c_layer.num_threads = 1
    monkeypatch.setattr("worker.kernels.experts.streamed.BLOCK_BYTES", 3 * experts.num_bytes // NUM_EXPERTS)
    streamed = StreamedExperts(experts, work, CPU)
    assert streamed.at_once in (2, 3)
    hidden, chosen, weights = inputs(40)
    chosen = chosen.clamp(max=5)  # of the last blocks nothing was chosen
    out = torch.empty_like(hidden)
    streamed(hidden, chosen, weights, out)
    assert torch.allclose(out, expected(layer, hidden, chosen, weights), atol=1e-5)


def test_a_model_s_layers_share_blocks_of_the_gpu_and_models_do_not(work: HostWork) -> None:
    """A model may leave the GPU with all of its memory while another one serves."""
    layer, call = small_layer(), inputs(7)
    one, other = dict[int, Ring](), dict[int, Ring]()
    for rings in (one, one, other):
        out = torch.empty_like(call[0])
        StreamedExperts(CpuExperts.of(layer), work, CPU, rings)(*call, out)
        assert torch.allclose(out, expected(layer, *call), atol=1e-5)
    (ring,), (second,) = one.values(), other.values()
    assert ring is not second


class InterruptedStream(FakeStream):
    """Something else happens before each call of a function."""

    def __init__(self, library: Path, meanwhile: Callable[[], None]) -> None:
        super().__init__(library)
        self.meanwhile = meanwhile

    def call(self, function: int, argument: int) -> None:
        self.meanwhile()
        super().call(function, argument)


def test_a_model_that_is_opened_meanwhile_has_other_memory(
    work: HostWork, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a model tries its experts in another thread, at any time between two calls of the first one's step."""
    layer, turns = small_layer(), list[None]()

    def meanwhile() -> None:
        turns.append(None)
        if len(turns) == 1:  # the other's own call is not interrupted
            other(*inputs(4, seed=9), torch.empty(4, WIDTH))

    stream = partial(InterruptedStream, library, meanwhile)
    monkeypatch.setattr(
        "worker.kernels.experts.ram.host_work", lambda device: HostWork(stream, pins=False, thread=work.thread)
    )
    one, other = (RamMaker(CPU, 1).made(CpuExperts.of(layer)) for _ in range(2))
    call = inputs(4)
    out = torch.empty_like(call[0])
    one(*call, out)
    assert len(turns) == 2 and torch.allclose(out, expected(layer, *call), atol=1e-5)


def test_experts_that_no_kernel_computes_are_waited_for() -> None:
    layer, call = small_layer(), inputs(5)
    out = torch.empty_like(call[0])
    WaitingExperts(layer)(*call, out)
    assert torch.allclose(out, expected(layer, *call), atol=1e-5)


def test_a_core_is_left_for_what_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected_threads in ((1, 1), (2, 2), (16, 15)):
        monkeypatch.setattr("worker.kernels.experts.host_work.usable_cores", lambda cores=cores: cores)
        assert num_threads(None) == expected_threads
    assert num_threads(5) == 5
