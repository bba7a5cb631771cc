"""Steps of a slice of DeepSeek-V3.2 by context: the part `slice` of bench.gpu.

Layers of its width, heads, latents and indexer, with a dense MLP as wide as the nine experts that a token passes: what
a step reads of a layer, but for the choice of experts. Random weights.
"""

import statistics
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV32Config

from bench.gpu_bench import Bench
from bench.gpu_profile import kernels_during, print_kernels
from bench.roofline import decoding, kv_bytes, weight_bytes
from worker.engine.engine import Engine

LAYERS, NUM_STEPS, CHANGE = 8, 20, 3.0
CONTEXTS = ((1, 512), (1, 2048), (1, 8192), (1, 16384), (1, 32000), (8, 8192), (8, 32000))
PROFILED = ((1, 2048), (1, 32000), (8, 32000))  # whose prompts are cached by then
TINY_CONTEXTS = ((1, 20), (2, 60))
TINY: Mapping[str, Any] = MappingProxyType(
    {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 4,
        "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16,
        "v_head_dim": 16, "index_n_heads": 8, "index_head_dim": 32, "index_topk": 32, "num_hidden_layers": 2,
    }
)  # fmt: skip


def slice_model(bench: Bench) -> Any:
    sizes = dict(TINY) if bench.shape == "tiny" else {"num_hidden_layers": LAYERS, "vocab_size": 8192}
    layers = sizes["num_hidden_layers"]
    config = DeepseekV32Config(
        **sizes, first_k_dense_replace=layers, mlp_layer_types=["dense"] * layers, eos_token_id=0, bos_token_id=None,
        max_position_embeddings=65536,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(bench.device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    model.model.embed_tokens.weight.normal_()
    for layer in model.model.layers:  # small changes of each layer, as in gpu_model.random_model()
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(CHANGE / layers)
    return model


def steps(bench: Bench) -> None:
    """Decode steps and prompts by context, and the kernels of a step after much of it."""
    bench.release()
    model = slice_model(bench)
    weights, num_layers = weight_bytes(model, ""), model.config.num_hidden_layers
    longest = 36864 if bench.shape == "8b" else 96
    engine = bench.engine_of(model, max_num_seqs=16 if bench.shape == "8b" else 2, max_model_len=longest)
    report, bandwidth = bench.report, bench.read_bandwidth()
    report.say(f"{num_layers} layers, {weights / 1e9:.1f} GB of weights, {kv_bytes(engine)} bytes a token\n")
    report.columns("streams", "context", "step ms", "a layer us", "at the weights ms", "prompts s", "prompt tokens/s")
    contexts = CONTEXTS if bench.shape == "8b" else TINY_CONTEXTS
    for batch, context in contexts:
        started = time.perf_counter()
        with decoding(engine, batch, context, NUM_STEPS):
            bench.synchronize()
            prompts = time.perf_counter() - started
            step = statistics.median(seconds_of_steps(engine))
        least = weights / bandwidth
        rate = batch * context / prompts
        report.row(batch, context, step * 1e3, step * 1e6 / num_layers, least * 1e3, f"{prompts:.2f}", f"{rate:.0f}")
        report.number(f"slice/{batch}x{context}/step ms", step * 1e3, at_the_weights_ms=least * 1e3)
        report.number(f"slice/{batch}x{context}/prompt tokens/s", rate)
    for batch, context in contexts if bench.shape == "tiny" else PROFILED:
        with decoding(engine, batch, context, 4 * NUM_STEPS):
            engine.step()
            rows = kernels_during(bench, lambda: [engine.step() for _ in range(3)])
        print_kernels(bench, f"{batch} x {context}", rows, 3)


def seconds_of_steps(engine: Engine) -> list[float]:
    times = []
    for _ in range(NUM_STEPS):
        started = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - started)
    return times
