"""Which device, how much of it, and what happens when it is lost. No GPU is needed: torch's answers are put in."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from common.settings import read_settings
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker import device, ranks
from worker.models.loader import EngineConfig, LoadedModel, cast, load
from worker.runners import limits
from worker.state.kv_cache import LayerShape

GIB = 2**30
SHAPES = [LayerShape(8, 128, 128)] * 32  # of an 8B Llama: 128 KiB a token, 32 MiB a block of 256


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "tpu-v9"])
def test_a_device_that_is_not_here_is_refused_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=name):
        device.choose_device(name)


def test_the_gpu_that_was_named_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams and recordings are made on the current one."""
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    for name in ("cpu", "cuda", "cuda:1"):
        device.use_device(device.choose_device(name))
    assert used == [torch.device("cuda:1")]


def gpu_model(max_model_len: int) -> LoadedModel:
    text = SimpleNamespace(intermediate_size=14336, hidden_size=4096, vocab_size=128256, num_hidden_layers=32)
    model = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))
    card = SimpleNamespace(max_model_len=max_model_len)
    return LoadedModel(model, None, card, torch.device("cuda"), torch.bfloat16)  # type: ignore[arg-type]


def chosen(
    free: int, max_model_len: int, monkeypatch: pytest.MonkeyPatch, config: EngineConfig = SMALL
) -> limits.Limits:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda of: (free, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return limits.choose_limits(gpu_model(max_model_len), config, SHAPES, 8_000_000_000)


def test_a_block_is_kept_for_the_rows_that_pad_a_recorded_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the longest sequence that the card promises would wait for it for ever."""
    for free, max_num_seqs in ((8 * GIB, 8), (64 * GIB, 1)):
        found = chosen(free, 131072, monkeypatch, replace(SMALL, max_num_seqs=max_num_seqs))
        assert (found.num_blocks - 1) * found.block_size >= found.max_model_len
    with pytest.raises(ValueError, match="131072 needs more KV memory"):
        chosen(8 * GIB, 131072, monkeypatch, replace(SMALL, max_model_len=131072))


def test_a_gpu_that_the_weights_fill_is_refused_with_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"0 bytes are left .* takes 33554432"):
        chosen(GIB, 8192, monkeypatch)


def test_larger_steps_leave_less_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = chosen(40 * GIB, 131072, monkeypatch, EngineConfig())
    wide = chosen(40 * GIB, 131072, monkeypatch, EngineConfig(max_step_tokens=32768, max_num_seqs=1024))
    assert wide.num_blocks < usual.num_blocks < 0.9 * 40 * 32


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="OMNI_TENSOR_PARALLEL=2 needs as many GPUs; there are 1"):
        ranks.our_ranks(read_settings({"OMNI_TENSOR_PARALLEL": "2"}))


def test_a_lost_gpu_is_no_requests_fault(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an illegal access nothing works any more: the process has to end, and no job fails for it."""

    def lost(*_: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    bench.add("r", prompt_of(5))
    monkeypatch.setattr(bench.engine.runner, "forward", lost)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    with pytest.raises(torch.AcceleratorError):
        bench.step()


def test_rotary_frequencies_stay_as_they_were_computed(model_folder: ModelFolder) -> None:
    folder = model_folder("llama", max_position_embeddings=131072)
    for config in (replace(SMALL, dtype="bfloat16"), SMALL):
        model = load(str(folder), ("tiny",), config, lambda what, share: None).model
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    positions = torch.tensor([[100_000]])
    exact = model.model.rotary_emb(torch.zeros(1), positions)
    again = cast(model, torch.bfloat16).model.rotary_emb(torch.zeros(1), positions)
    assert all(torch.equal(*pair) for pair in zip(exact, again, strict=True))
