"""Models over latents as transformers runs them, and the same by our runner over pages, step by step."""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config

from tests.models import BASE, DEEPSEEK, FAMILIES, MTP_FAMILIES
from worker.attention.latent.attention import LatentAttention
from worker.runners.latent.runner import LatentRunner
from worker.runners.latent.survey import survey_latents
from worker.runners.probe import probe_sequence
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

CPU = torch.device("cpu")
NATIVE_WIDTHS = {  # that the C kernels take
    "kv_lora_rank": 64, "q_lora_rank": 32, "qk_rope_head_dim": 32, "qk_nope_head_dim": 16, "v_head_dim": 16,
    "moe_intermediate_size": 32,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64,
    "mscale": 1.0, "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip


def stock_model(family: str, **changes: Any) -> Any:
    """With random weights, those of norms and the routers' corrections included."""
    torch.manual_seed(0)
    config_class, own = (FAMILIES | MTP_FAMILIES | {"deepseek_v2": (DeepseekV2Config, DEEPSEEK)})[family]
    model = AutoModelForCausalLM.from_config(config_class(**(BASE | own | changes))).eval()
    with torch.no_grad():
        for name, numbers in (*model.named_parameters(), *model.named_buffers()):
            if "norm" in name:
                numbers.uniform_(0.5, 1.5)
            elif "correction_bias" in name:
                numbers.normal_(std=0.1)
    return model


def runner_of(model: Any, attend_with: Any = LatentAttention, kind: type[LatentRunner] = LatentRunner) -> LatentRunner:
    layers = survey_latents(model, 512, torch.float32)
    assert layers is not None
    cache = KVCache(layers.shapes, 64, 16, torch.float32, CPU)
    return kind(model, cache, layers.specs, attend_with)


def stock(model: Any, token_ids: Seq[int]) -> torch.Tensor:
    """Logits [T, vocab] of one pass."""
    logits: torch.Tensor = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    return logits


def steps(runner: LatentRunner, texts: Seq[list[int]], chunk: int, num_decoded: int) -> Iterator[tuple[int, int, Any]]:
    """Run the texts in one batch: prompts in chunks, then the last tokens one by one.

    Yields (text, position, logits [vocab]) of all tokens whose logits a step computes.
    """
    sequences = [probe_sequence(text[: len(text) - num_decoded]) for text in texts]
    for sequence, text in zip(sequences, texts, strict=True):
        sequence.block_ids = runner.kv_cache.pool.allocate(runner.kv_cache.num_blocks_for(len(text)))
    while any(len(text) > sequence.num_computed for sequence, text in zip(sequences, texts, strict=True)):
        rows = [ScheduledSequence(each, min(chunk, each.num_uncomputed)) for each in sequences if each.num_uncomputed]
        yield from after(runner, rows, sequences)
        for sequence, text in zip(sequences, texts, strict=True):
            if not sequence.num_uncomputed and sequence.num_tokens < len(text):
                sequence.append(text[sequence.num_tokens])
    for sequence in sequences:
        runner.kv_cache.free(sequence)


def after(
    runner: LatentRunner, rows: list[ScheduledSequence], sequences: list[Sequence]
) -> Iterator[tuple[int, int, Any]]:
    """One step."""
    logits = iter(runner.forward(rows))
    for row in rows:
        if row.samples:
            yield sequences.index(row.sequence), row.start + row.num_tokens - 1, next(logits)
        row.sequence.advance(row.num_tokens)
