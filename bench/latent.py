"""The step of one layer of DeepSeek-V3.2 on a CPU by its context: python -m bench.latent [--contexts 2048,8192,32768]

At the released sizes (128 heads, latents of 576 numbers, 64 index heads of 128), in bf16 with index keys in 8 bits, for
one token and for a chunk of a prompt: scores and choice of keys, and attention over what was chosen, or over all keys.
The GPU's figures are those of `python -m bench.gpu --only latents,slice`.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch

from bench.report import machine, table
from bench.roofline import seconds_of
from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.index_keys import index_shape, write_index_keys
from worker.attention.latent.selection import MAX_HEAD_SCORES, MAX_ROW_SCORES, Selected
from worker.attention.latent.spec import LatentSpec
from worker.runners.probe import probe_sequence
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

CPU, BLOCK, TRIES = torch.device("cpu"), 16, 3
HEADS, RANK, ROTATED, INDEX_HEADS, DIM, TOPK = 128, 512, 64, 64, 128, 2048
SPEC = LatentSpec(scale=0.07, rank=RANK, topk=TOPK)


class Layer:
    """Random latents and index keys of one sequence of `context` tokens, and the queries of its last ones."""

    def __init__(self, context: int, num_tokens: int) -> None:
        torch.manual_seed(0)
        shape = LayerShape(1, RANK + ROTATED, *index_shape(DIM, torch.bfloat16))
        cache = KVCache([shape], -(-context // BLOCK), BLOCK, torch.bfloat16, CPU)
        cache.keys[0].copy_(torch.randn(cache.keys[0].shape))
        slots = torch.arange(context)
        write_index_keys(cache.values[0], slots, torch.randn(context, DIM))
        sequence = probe_sequence([1] * context)
        sequence.block_ids = list(range(cache.num_blocks_for(context)))
        sequence.begin_at(context - num_tokens)
        self.attention = LatentAttention(cache, [ScheduledSequence(sequence, num_tokens)], CPU)
        self.queries = torch.randn(num_tokens, HEADS, RANK + ROTATED).bfloat16()
        self.index_queries = torch.randn(num_tokens, INDEX_HEADS, DIM).bfloat16()
        self.weights = torch.randn(num_tokens, INDEX_HEADS)

    def select(self) -> Selected | None:
        return self.attention.select(0, self.index_queries, self.weights, SPEC)

    def attend(self, selected: Selected | None) -> torch.Tensor:
        return self.attention.attend(0, self.queries, selected, SPEC)


@torch.inference_mode()
def row_of(context: int, num_tokens: int) -> tuple[object, ...]:
    layer = Layer(context, num_tokens)
    chosen = layer.select()
    choice, own, everything = (
        milliseconds(call) for call in (layer.select, partial(layer.attend, chosen), partial(layer.attend, None))
    )
    return num_tokens, context, choice if chosen is not None else 0.0, own, everything


def milliseconds(call: Callable[[], object]) -> float:
    return statistics.median(seconds_of(call, CPU, TRIES)) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contexts", default="2048,4096,8192,16384,32768")
    parser.add_argument("--chunk", type=int, default=64, help="tokens of a prompt in a step")
    args = parser.parse_args()
    print(machine(), f"{torch.get_num_threads()} threads")
    print(f"at most {MAX_ROW_SCORES * 4 >> 20} MB of scores, and {MAX_HEAD_SCORES * 4 >> 20} MB of those of heads\n")
    print(table(["tokens", "context", "choice ms", "attention ms", "attention to all keys ms"], []))
    for num_tokens in (1, args.chunk):
        for context in map(int, args.contexts.split(",")):
            print("| " + " | ".join(f"{number:.4g}" for number in row_of(context, num_tokens)) + " |", flush=True)


if __name__ == "__main__":
    main()
