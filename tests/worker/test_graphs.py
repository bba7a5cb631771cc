"""The GPU's way of running a step, with its kernel written out and its recordings played by hand."""

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker import varlen
from worker.decoder import DecoderRunner
from worker.graphs import BUCKETS, GraphedDecoderRunner, cuda_capture
from worker.varlen import VarlenAttention


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: None,
    max_q: int,
    max_k: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    seqused_k: torch.Tensor,
    block_table: torch.Tensor,
) -> torch.Tensor:
    """What torch's kernel is documented to do, one sequence at a time."""
    outputs = []
    for at, (start, stop) in enumerate(zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True)):
        assert stop - start <= max_q
        num_keys = int(seqused_k[at])
        assert num_keys <= max_k
        keys, values = (pool[block_table[at]].flatten(0, 1)[:num_keys].transpose(0, 1) for pool in (key, value))
        distance = torch.arange(num_keys - (stop - start), num_keys)[:, None] - torch.arange(num_keys)
        seen = (distance >= 0) & ((distance <= window_size[0]) | (window_size[0] < 0))
        own = query[start:stop].transpose(0, 1)
        output = F.scaled_dot_product_attention(own, keys, values, attn_mask=seen, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)


def as_on_a_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> GraphedDecoderRunner:
    """Swap the engine's runner for the GPU's."""
    monkeypatch.setattr(varlen.varlen, "varlen_attn", varlen_attn)
    decoder = bench.engine.runner
    assert isinstance(decoder, DecoderRunner)
    runner = GraphedDecoderRunner.__new__(GraphedDecoderRunner)
    runner.__dict__.update(decoder.__dict__ | {"attend_with": VarlenAttention.of_rows, "steps": {}})
    bench.engine.runner = runner
    return runner


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_padded_decode_steps_and_ragged_ones_give_the_tokens_of_generate(
    family: str, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(model_folder(family))
    runner = as_on_a_gpu(bench, monkeypatch)
    runner.record(8, 256, capture=lambda function: function, on_progress=lambda what, share: None)
    sizes = []
    fill = runner._fill
    monkeypatch.setattr(
        runner, "_fill", lambda step, rows, size: (sizes.append((len(rows), size)), fill(step, rows, size))
    )
    for num_tokens in (3, 40, 17):
        bench.add(f"r{num_tokens}", prompt_of(num_tokens))
        bench.step(3)
    bench.finish()
    assert {(1, 1), (2, 2), (3, 4)} <= set(sizes)
    for num_tokens in (3, 40, 17):
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


def test_windows_are_passed_on_to_the_kernel(model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(model_folder("gemma3"))
    monkeypatch.setattr(varlen.varlen, "varlen_attn", varlen_attn)
    monkeypatch.setattr(bench.engine.runner, "attend_with", VarlenAttention.of_rows)
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recording_replays_what_it_recorded() -> None:
    inputs = torch.zeros(BUCKETS[3], device="cuda")
    replay: Callable[[], torch.Tensor] = cuda_capture()(lambda: inputs + 1)
    inputs.fill_(2)
    assert replay().tolist() == [3] * BUCKETS[3]
