"""The cost of quantization: perplexity of a text under each form of weights. python -m bench.perplexity MODEL FILE"""

import argparse
import math
from pathlib import Path

import torch

from worker.engine import Engine
from worker.loader import EngineConfig, load
from worker.probe import probe_sequence
from worker.scheduler import Row

FORMS: dict[str, EngineConfig] = {
    "float32": EngineConfig(dtype="float32"),
    "bfloat16": EngineConfig(dtype="bfloat16"),
    "int8": EngineConfig(quantize="int8"),
    "int4": EngineConfig(quantize="int4"),
}
WINDOW = 256  # tokens scored together


@torch.inference_mode()
def perplexity(model_path: str, config: EngineConfig, text: str) -> float:
    """exp of the mean negative log-likelihood of each token given those before it in its window."""
    loaded = load(model_path, ("bench",), config, lambda stage, fraction: None)
    engine = Engine(loaded, config)
    token_ids = loaded.tokenizer.encode(text).ids
    total, count = 0.0, 0
    for start in range(0, len(token_ids) - 1, WINDOW):
        window = token_ids[start : start + WINDOW]
        blocks = engine.runner.kv_cache.pool.allocate(engine.runner.kv_cache.num_blocks_for(len(window)))
        sequence = probe_sequence(window[:1], blocks)
        sequence.draft = window[1:-1]  # as if guessed: so the forward pass gives logits at every position
        logits = engine.runner.forward([Row(sequence, 1)])
        engine.runner.kv_cache.release(sequence)
        targets = torch.tensor(window[1:])
        total += torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="sum").item()
        count += len(targets)
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    args = parser.parse_args()
    text = args.text.read_text()
    print("| weights | perplexity |\n|---|---|")
    for name, config in FORMS.items():
        print(f"| {name} | {perplexity(args.model, config, text):.4f} |", flush=True)


if __name__ == "__main__":
    main()
