"""One command on a machine with a GPU: is the engine right there, and how fast? python -m bench.gpu [--layers 32]

Random weights of an 8B Llama's shape; nothing is downloaded. First the greedy tokens of a shallow copy are compared
with those of transformers' generate(); then come throughput and roofline at batch 1, 8 and 32.
"""

import argparse
import random
import time
from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig

from bench.engine import measure
from bench.roofline import print_table, read_bandwidth, weight_bytes
from common.wire import Delta, GenerationRequest, ModelCard, SamplingParams
from worker.engine import Engine
from worker.loader import EngineConfig, LoadedModel

SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "eos_token_id": 0,
    "bos_token_id": None,
}
NUM_CHECKED_TOKENS = 24
CHECK_LENGTHS = (5, 700, 64, 300)


def random_model(num_layers: int, device: torch.device, dtype: torch.dtype) -> Any:
    """A model that was never anywhere but on the device."""
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, num_hidden_layers=num_layers, initializer_range=0.02)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)


def loaded_model(num_layers: int, device: torch.device, dtype: torch.dtype) -> LoadedModel:
    tokenizer = Tokenizer(models.BPE({chr(256 + at): at for at in range(256)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    card = ModelCard(
        queue="bench",
        names=("bench",),
        root="random",
        revision="0",
        architecture="llama",
        max_model_len=SHAPE["max_position_embeddings"],
        vocab_size=SHAPE["vocab_size"],
        created=int(time.time()),
        tokenizer=tokenizer.to_str(),
        chat_template=None,
    )
    return LoadedModel(random_model(num_layers, device, dtype), tokenizer, card, device, dtype)


def check(device: torch.device) -> None:
    """Two layers in float32, where generate() and we must agree token by token, and in bf16, where nearly always."""
    for dtype in (torch.float32, torch.bfloat16):
        loaded = loaded_model(2, device, dtype)
        rng = random.Random(1)
        prompts = [[rng.randrange(1, SHAPE["vocab_size"]) for _ in range(length)] for length in CHECK_LENGTHS]
        expected = [generate(loaded.model, prompt) for prompt in prompts]
        config = EngineConfig(max_num_seqs=8, max_step_tokens=256)
        engine = Engine(replace(loaded, card=replace(loaded.card, max_model_len=2048)), config)
        engine.warm_up(lambda stage, fraction: None)
        answers = run(engine, prompts)
        num_equal = sum(
            a == b for got, want in zip(answers, expected, strict=True) for a, b in zip(got, want, strict=True)
        )
        total = NUM_CHECKED_TOKENS * len(prompts)
        print(f"{dtype}: {num_equal} of {total} tokens as generate(), by {type(engine.runner).__name__}")
        assert dtype == torch.bfloat16 or num_equal == total


def generate(model: Any, prompt: list[int]) -> list[int]:
    inputs = torch.tensor([prompt], device=model.device)
    output = model.generate(
        inputs, max_new_tokens=NUM_CHECKED_TOKENS, min_new_tokens=NUM_CHECKED_TOKENS, do_sample=False, pad_token_id=0
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


def run(engine: Engine, prompts: list[list[int]]) -> list[list[int]]:
    """All prompts at once, greedy, without an end token, as generate() was told."""
    answers: list[list[int]] = [[] for _ in prompts]
    sampling = SamplingParams(max_tokens=NUM_CHECKED_TOKENS, seed=0, temperature=0.0, min_tokens=NUM_CHECKED_TOKENS)
    waiting = list(enumerate(prompts))
    while waiting or engine.has_work:
        if waiting:  # one a step, so that some decode while others prefill
            at, prompt = waiting.pop(0)
            engine.add(GenerationRequest(str(at), "bench", tuple(prompt), sampling))
        for request_id, event in engine.step():
            if isinstance(event, Delta):
                answers[int(request_id)] += event.token_ids
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--context", type=int, default=1024, help="tokens")
    args = parser.parse_args()
    device = torch.device(args.device)
    check(device)
    loaded = loaded_model(args.layers, device, torch.bfloat16)
    weights = weight_bytes(loaded.model, None)
    config = EngineConfig(max_num_seqs=64)
    engine = Engine(loaded, config)
    started = time.perf_counter()
    engine.warm_up(lambda stage, fraction: None)
    print(f"\n{type(engine.runner).__name__}, warm after {time.perf_counter() - started:.1f} s")
    print_table(engine, weights, read_bandwidth(device), [1, 8, 32], args.context)
    print("\nWith prompts of 512 tokens:\n\n| streams | tokens/s | first token p50 ms | gap p50 ms | gap p99 ms |")
    print("|---|---|---|---|---|")
    for concurrency in (1, 8, 32, 64):
        row = measure(engine, concurrency, 2 * concurrency, 512, 128)
        print(f"| {concurrency} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
