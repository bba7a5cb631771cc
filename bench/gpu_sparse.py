"""Sparse models of released widths, a few layers each: is each token the model's own choice, and steps by streams.

Beside ours, the steps of transformers' modules with our attention, which is how sparse models ran before.
"""

import random
import statistics
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from unittest.mock import patch

import torch
from transformers import AutoModelForCausalLM, Glm4MoeConfig, GptOssConfig, Qwen3MoeConfig

from bench.gpu_bench import Bench
from bench.gpu_checks import gap, run, verdict
from bench.gpu_model import CHANGE
from bench.roofline import step_times
from worker.engine.engine import Engine
from worker.runners import choose
from worker.runners.base import ModelRunner
from worker.runners.candidates import candidates
from worker.runners.probe import Unsupported

LAYERS, NUM_TOKENS = 4, 16
BATCHES = (1, 8, 32)
MAX_GAP = 0.3  # of the logits' spread: rounding exchanges experts of nearly equal scores
COMMON: Mapping[str, Any] = MappingProxyType({"vocab_size": 8192, "eos_token_id": 0, "bos_token_id": None})
CONFIGS: Mapping[str, tuple[Any, Mapping[str, Any]]] = MappingProxyType(
    {
        "Qwen3-30B-A3B": (
            Qwen3MoeConfig,
            {
                "hidden_size": 2048, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
                "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "norm_topk_prob": True,
            },
        ),
        "GLM-4.5-Air": (
            Glm4MoeConfig,
            {"hidden_size": 4096, "moe_intermediate_size": 1408, "intermediate_size": 10944, "n_routed_experts": 128,
             "num_experts_per_tok": 8, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
             "attention_bias": True, "first_k_dense_replace": 1},
        ),
        "gpt-oss-20b in bf16": (
            GptOssConfig,
            {"hidden_size": 2880, "intermediate_size": 2880, "num_local_experts": 32, "num_experts_per_tok": 4,
             "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64},
        ),
    }
)  # fmt: skip
TINY: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512, "num_experts": 8, "n_routed_experts": 8,
        "num_local_experts": 8, "num_experts_per_tok": 2,
    }
)  # fmt: skip


def steps(bench: Bench) -> None:
    """Tokens against the model's own, then times."""
    bench.release()
    report = bench.report
    report.columns("model", "runner", "below the likeliest", "streams", "step ms", "by modules ms")
    wrong = []
    for name in CONFIGS if bench.shape == "8b" else ("gpt-oss-20b in bf16",):
        by_modules = times_by_modules(bench, name)
        engine = bench.engine_of(model_of(bench, name), max_num_seqs=max(batches_of(bench)))
        runner = type(engine.runner).__name__
        worst = worst_gap(bench, name, engine)
        report.number(f"sparse/{name}/gap", worst)
        if not worst <= MAX_GAP:
            wrong.append(name)
        for batch in batches_of(bench):
            middle = statistics.median(step_times(engine, batch, bench.sizes.context, bench.sizes.steps))
            shown = f"{worst:.4f} {verdict(name not in wrong)}"
            report.row(name, runner, shown, batch, middle * 1e3, by_modules[batch] * 1e3)
            report.number(f"sparse/{name}/{batch}/step ms", middle * 1e3, by_modules_ms=by_modules[batch] * 1e3)
        del engine
        bench.free()
    assert not wrong, f"tokens of {', '.join(wrong)} are not the model's"


def batches_of(bench: Bench) -> tuple[int, ...]:
    return BATCHES if bench.shape == "8b" else (1, 2)


def model_of(bench: Bench, name: str) -> Any:
    """The same weights each time; large embeddings and small changes of each layer, as in gpu_model.random_model()."""
    kind, released = CONFIGS[name]
    sizes, layers = {**COMMON, **released}, LAYERS
    if bench.shape == "tiny":
        sizes, layers = {field: TINY.get(field, size) for field, size in sizes.items()}, 2
    config = kind(**sizes, num_hidden_layers=layers, max_position_embeddings=8192)
    torch.manual_seed(0)
    with torch.device(bench.device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=1.28 / config.hidden_size**0.5)
    model.model.embed_tokens.weight.normal_()
    for layer in model.model.layers:
        mlp = getattr(layer.mlp, "experts", layer.mlp)
        down = mlp.down_proj if isinstance(mlp.down_proj, torch.Tensor) else mlp.down_proj.weight
        for weight in (layer.self_attn.o_proj.weight, down):
            weight.mul_(CHANGE / layers)
    return model


def times_by_modules(bench: Bench, name: str) -> dict[int, float]:
    """Seconds of a step, by streams."""
    with patch.object(choose, "candidates", modules_only):
        engine = bench.engine_of(model_of(bench, name), max_num_seqs=max(batches_of(bench)))
    times = {
        batch: statistics.median(step_times(engine, batch, bench.sizes.context, bench.sizes.steps))
        for batch in batches_of(bench)
    }
    del engine
    bench.free()
    return times


def modules_only(device: torch.device, **kinds: Any) -> list[Any]:
    """In the place of candidates(): runners of our own are left out."""
    return [(kind if kind is ModelRunner else LeftOut, maker) for kind, maker in candidates(device, **kinds)]


class LeftOut(ModelRunner):
    """In the place of a runner of our own."""

    def __init__(self, *_: Any) -> None:
        raise Unsupported("it is left out, to compare")


def worst_gap(bench: Bench, name: str, engine: Engine) -> float:
    """The most that a greedy token of ours lies below the likeliest of the model in float32, of the logits' spread."""
    rng, lengths = random.Random(1), (5, 300, 64) if bench.shape == "8b" else (5, 40)
    model = model_of(bench, name).float()
    prompts = [[rng.randrange(1, model.config.vocab_size) for _ in range(length)] for length in lengths]
    answers = run(engine, prompts, NUM_TOKENS if bench.shape == "8b" else 4)
    return max(gap(model, prompt, answer) for prompt, answer in zip(prompts, answers, strict=True))
