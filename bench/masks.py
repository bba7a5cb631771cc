"""The cost of grammar masks per engine step: `python -m bench.masks [--vocab 1920 8192 128256] [--batch 16]`.

A batch of rows, each at its own place in a random text of its grammar, as after some steps of decoding. Times are
medians over the steps; the slowest is a first visit to a place in the grammar, which fills the lexer's tables.
"""

import argparse
import json
import time
from random import Random
from statistics import median

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.objects.hermes import HERMES
from common.grammar.answer import Grammar, MarkedText, json_object_grammar, json_schema_grammar
from worker.sampling.bitmask import apply_bitmask, bitmask_words
from worker.sampling.grammar import GrammarCompiler, GrammarState

END = 0
NUM_STEPS = 64
ORDER = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"},
        "items": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "count": {"type": "integer"}, "price": {"type": "number"}},
                "required": ["name", "count", "price"],
                "additionalProperties": False,
            },
        },
        "status": {"enum": ["open", "paid", "sent"]},
    },
    "required": ["customer", "items", "status"],
    "additionalProperties": False,
}


def synthetic_tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level tokens: every byte, then made-up words and bits of JSON up to the size."""
    rng = Random(1)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<end>": END} | {char: index + 1 for index, char in enumerate(alphabet)}
    while len(vocab) < vocab_size:
        stem = "".join(rng.choice('etaoinshrdlucmfwypvbgkjqxz0123456789_-,":{}[]') for _ in range(rng.randint(2, 9)))
        vocab.setdefault(rng.choice(["", "Ġ"]) + stem, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def grammars() -> dict[str, Grammar]:
    functions = [OfferedFunction(f"function_{number}", ORDER, True) for number in range(8)]
    required = HERMES.grammar(functions, must_call=True, parallel=True, marked=MarkedText({}))
    auto = HERMES.grammar(functions, must_call=False, parallel=True, marked=MarkedText({}))
    assert required is not None and auto is not None
    return {
        "json_object": json_object_grammar(),
        "json_schema": json_schema_grammar(ORDER, "response_format"),
        "tools required": required,
        "tools auto": auto,
    }


def measure(compiler: GrammarCompiler, grammar: Grammar, vocab_size: int, batch: int) -> dict[str, float]:
    """Milliseconds: to compile, and per step to fill the masks, to apply them and to accept the sampled tokens."""
    started = time.perf_counter()
    states = [compiler.compile(grammar.text)]
    compiled = time.perf_counter() - started
    states += [compiler.compile(grammar.text) for _ in range(batch - 1)]
    bitmask = torch.zeros(batch, bitmask_words(vocab_size), dtype=torch.int32)
    generator = torch.Generator().manual_seed(1)
    fills, applies, accepts = [], [], []
    for _ in range(NUM_STEPS):
        logits = torch.randn(batch, vocab_size, generator=generator)
        times = [time.perf_counter()]
        for state, row in zip(states, bitmask, strict=True):
            state.fill_mask(row)
        times.append(time.perf_counter())
        apply_bitmask(logits, bitmask)
        times.append(time.perf_counter())
        sampled = logits.argmax(dim=1).tolist()
        times.append(time.perf_counter())
        states = [advanced(state, token, compiler, grammar) for state, token in zip(states, sampled, strict=True)]
        times.append(time.perf_counter())
        fills.append(times[1] - times[0])
        applies.append(times[2] - times[1])
        accepts.append(times[4] - times[3])
    seconds = {
        "compile": compiled,
        "fill": median(fills),
        "fill worst": max(fills),
        "apply": median(applies),
        "accept": median(accepts),
    }
    return {name: 1000 * value for name, value in seconds.items()}


def advanced(state: GrammarState, token_id: int, compiler: GrammarCompiler, grammar: Grammar) -> GrammarState:
    """The state after the token; a finished text makes room for a new one."""
    state.accept([token_id])
    return compiler.compile(grammar.text) if state.is_finished else state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="+", default=[1920, 8192, 128256])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    options = parser.parse_args()
    for vocab_size in options.vocab:
        compiler = GrammarCompiler(synthetic_tokenizer(vocab_size), [END], vocab_size)
        for name, grammar in grammars().items():
            row = measure(compiler, grammar, vocab_size, options.batch)
            if options.json:
                print(json.dumps({"vocab": vocab_size, "batch": options.batch, "grammar": name, **row}))
            else:
                print(
                    f"{vocab_size:7d} {name:15s}", *(f"{key} {value:8.3f} ms" for key, value in row.items()), sep="  "
                )


if __name__ == "__main__":
    main()
