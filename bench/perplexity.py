"""The cost of quantization: perplexity of a text under each form of weights. python -m bench.perplexity MODEL [FILE]

Without a file, of the answers in dialogues as the demo model was trained on, of a seed that it was not: of what their
users say it learned nothing.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer

from demo.batches import DialogueEncoder
from demo.corpus import dialogues, render
from worker.engine.engine import Engine
from worker.kernels.quantized import Fp8, Int4, Int8
from worker.models.loader import EngineConfig, load
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import ScheduledSequence

FORMS: dict[str, EngineConfig] = {
    "float32": EngineConfig(dtype="float32"),
    "bfloat16": EngineConfig(dtype="bfloat16"),
    "int8": EngineConfig(quantization=Int8()),
    "int4": EngineConfig(quantization=Int4()),
    "fp8": EngineConfig(quantization=Fp8()),
}
WINDOW = 256  # tokens of a text scored together
SEED = 90_001
NUM_DIALOGUES = 400
Window = tuple[list[int], list[bool]]  # tokens, and which of them count
Windows = Callable[[Tokenizer], list[Window]]


def of_text(text: str, tokenizer: Tokenizer) -> list[Window]:
    token_ids = tokenizer.encode(text).ids
    parts = [token_ids[start : start + WINDOW] for start in range(0, len(token_ids) - 1, WINDOW)]
    return [(part, [True] * len(part)) for part in parts]


def of_answers(tokenizer: Tokenizer) -> list[Window]:
    encoder = DialogueEncoder(tokenizer)
    rows = [tokenizer.encode(render(dialogue)).ids for dialogue in islice(dialogues(SEED), NUM_DIALOGUES)]
    return [(row, encoder.is_answer(row)) for row in rows]


@torch.inference_mode()
def perplexity(model_path: str, config: EngineConfig, windows: Windows) -> float:
    """exp of the mean negative log-likelihood of each token that counts, given those before it in its window."""
    loaded = load(model_path, ("bench",), config, lambda stage, fraction: None)
    engine = Engine(loaded, config)
    total, count = 0.0, 0
    for window, counts in windows(loaded.tokenizer):
        blocks = engine.runner.kv_cache.pool.allocate(engine.runner.kv_cache.num_blocks_for(len(window)))
        sequence = probe_sequence(window[:1])
        sequence.block_ids = blocks
        sequence.draft = window[1:-1]  # as if guessed: so the forward pass gives logits at every position
        logits = engine.runner.forward([ScheduledSequence(sequence, 1)])
        engine.runner.kv_cache.free(sequence)
        targets = torch.tensor(window[1:])
        losses = torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="none")
        total += losses[torch.tensor(counts[1:])].sum().item()
        count += sum(counts[1:])
    return math.exp(total / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text", type=Path, nargs="?")
    args = parser.parse_args()
    windows = of_answers if args.text is None else partial(of_text, args.text.read_text())
    print("| weights | perplexity |\n|---|---|")
    for name, config in FORMS.items():
        print(f"| {name} | {perplexity(args.model, config, windows):.4f} |", flush=True)


if __name__ == "__main__":
    main()
