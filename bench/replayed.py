"""Decode steps of sparse models on a CPU, replayed and not: python -m bench.replayed [SHAPE] [--form bf16]

Random weights at a released model's sizes, in fewer layers, each with memory of its own. A step is the runner's: from
token ids to logits, each sequence at a context whose keys, or latents, are random; nothing is sampled. The three ways
have the same products and take turns: calls of kernels by C, by Python, and torch in the place of all but the products.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, PreTrainedConfig, Qwen2MoeConfig

from bench.report import machine, row
from worker.kernels.fused import PackedBefore
from worker.kernels.linear import tune_products
from worker.kernels.quantized import quantization_named
from worker.runners.base import ModelRunner
from worker.runners.candidates import candidates
from worker.runners.choose import new_runner
from worker.runners.latent.survey import survey_latents
from worker.runners.layer_survey import LayerSurvey, survey_layers
from worker.runners.probe import probe_sequence, use_paged_attention
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence

CPU, BLOCK, ROOM = torch.device("cpu"), 16, 16
SHAPES: Mapping[str, Callable[[int], PreTrainedConfig]] = MappingProxyType(
    {
        "deepseek-v2-lite": lambda num_layers: DeepseekV2Config(
            vocab_size=32000, hidden_size=2048, intermediate_size=10944, moe_intermediate_size=1408,
            num_hidden_layers=num_layers, num_attention_heads=16, num_key_value_heads=16, kv_lora_rank=512,
            q_lora_rank=None, qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=64,
            num_experts_per_tok=6, n_shared_experts=2, first_k_dense_replace=0, topk_method="greedy", n_group=1,
            topk_group=1, max_position_embeddings=163840,
        ),
        "qwen2-moe": lambda num_layers: Qwen2MoeConfig(
            vocab_size=32000, hidden_size=2048, intermediate_size=5632, moe_intermediate_size=1408,
            num_hidden_layers=num_layers, num_attention_heads=16, num_key_value_heads=16, num_experts=60,
            num_experts_per_tok=4, shared_expert_intermediate_size=5632, use_sliding_window=False,
            max_position_embeddings=163840,
        ),
    }
)  # fmt: skip


def random_model(shape: str, num_layers: int) -> Any:
    """In bf16. Its layers share one memory: the runner's products are copies."""
    torch.manual_seed(0)
    one = AutoModelForCausalLM.from_config(SHAPES[shape](1), dtype=torch.bfloat16)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(SHAPES[shape](num_layers), dtype=torch.bfloat16)
    state = one.state_dict()
    own = {f"model.layers.{at}.{name.split('.', 3)[3]}": part
           for name, part in state.items() if ".layers.0." in name for at in range(num_layers)}  # fmt: skip
    whole.load_state_dict(state | own, assign=True)
    whole.model.rotary_emb = one.model.rotary_emb
    return whole.eval().requires_grad_(False)


def layers_of(model: Any, longest: int) -> LayerSurvey:
    if (latents := survey_latents(model, longest, torch.bfloat16)) is not None:
        return latents
    layers = survey_layers(model, longest)
    use_paged_attention(model)
    return layers


@dataclass(frozen=True)
class Ways:
    """A native runner, and one by torch with the same products and cache."""

    native: Any
    by_torch: ModelRunner
    num_layers: int

    @classmethod
    def of(cls, shape: str, num_layers: int, form: str, num_slots: int) -> "Ways":
        model = random_model(shape, num_layers)
        layers = layers_of(model, num_slots)
        cache = KVCache(layers.shapes, num_slots // BLOCK, BLOCK, torch.bfloat16, CPU)
        for pool in (*cache.keys, *cache.values):
            pool.normal_()
        (kind, maker), (other, by_torch), *_ = candidates(CPU, over_latents=layers.is_of_latents)
        quantization = quantization_named("" if form == "bf16" else form)
        native: Any = new_runner(kind, model, cache, maker, layers, quantization)
        tune_products(native.linears, CPU, None)
        before: Any = PackedBefore(native.products)
        return cls(native, new_runner(other, model, cache, by_torch, layers, before), num_layers)

    def rows(self, num_streams: int, context: int) -> list[ScheduledSequence]:
        """Each sequence reads the last token of its context."""
        found = []
        for at in range(num_streams):
            sequence = probe_sequence([(7 * at + token) % 31000 for token in range(context)])
            each = self.native.kv_cache.num_blocks_for(context)
            sequence.block_ids = list(range(at * each, (at + 1) * each))
            sequence.begin_at(context - 1)
            found.append(ScheduledSequence(sequence, 1))
        return found

    def milliseconds(self, num_streams: int, context: int, num_turns: int) -> Iterator[float]:
        """Medians: replayed, from Python, by torch."""
        rows, steps = self.rows(num_streams, context), self.native.steps
        times: list[list[float]] = [[], [], []]
        for turn in range(num_turns + 1):
            for at, (runner, recorded) in enumerate(((self.native, steps), (self.native, None), (self.by_torch, None))):
                self.native.steps = recorded
                started = time.perf_counter()
                runner.forward(rows)
                if turn:  # the first records
                    times[at].append(time.perf_counter() - started)
        self.native.steps = steps
        assert steps.programs[num_streams] is not None, "the step was not recorded"
        return (statistics.median(found) * 1e3 for found in times)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", nargs="?", choices=SHAPES, default="deepseek-v2-lite")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--form", choices=["int4", "int8", "bf16"], default="int4")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--contexts", default="128,2048,8192")
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    streams, contexts = ([int(text) for text in each.split(",")] for each in (args.streams, args.contexts))
    longest = max(contexts) + ROOM
    ways = Ways.of(args.shape, args.layers, args.form, max(streams) * longest)
    ways.native.warm_up(max(streams), longest, lambda what, share: None)
    print(f"{machine()}, {torch.get_num_threads()} threads; {args.layers} layers of {args.shape}, {args.form}\n")
    print("| streams | context | replayed, ms a step | from Python | by torch |\n|---|---|---|---|---|")
    for num_streams in streams:
        for context in contexts:
            print(row([num_streams, context, *ways.milliseconds(num_streams, context, args.turns)]), flush=True)


if __name__ == "__main__":
    main()
