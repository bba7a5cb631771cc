"""The cost of grammars in a whole engine step: `python -m bench.mask_steps [--batch 16] [--model demo/model]`.

The same engine, batch and sampling, free and with a grammar for every row, in turns, so that a busy machine slows both.
"""

import argparse
import time
from statistics import median

from common.grammar.answer import json_schema_grammar
from common.settings import DEMO_MODEL
from common.wire import GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load
from worker.sampling.grammar import GrammarCompiler

WARM_STEPS = 8  # prefill, and the first visits to places in the grammar
COUNT = {"type": "integer"}


def endless(name: dict[str, object]) -> str:
    """A list of objects that comes to no end."""
    entry = {
        "type": "object",
        "properties": {"name": name, "count": COUNT},
        "required": ["name", "count"],
        "additionalProperties": False,
    }
    return json_schema_grammar({"type": "array", "items": entry, "minItems": 500}, "schema").text


GRAMMARS = {
    "a schema": endless({"type": "string"}),
    "a schema of bounded strings": endless({"type": "string", "maxLength": 12}),
}


def build(model: str, batch: int) -> Engine:
    config = EngineConfig(device="auto", threads=None, max_num_seqs=batch)
    loaded = load(model, ("bench",), config, lambda what, share: None)
    compiler = GrammarCompiler(loaded.tokenizer, loaded.card.eos_token_ids, loaded.card.vocab_size)
    return Engine(loaded, config, compiler)


def steps_ms(engine: Engine, grammar: str | None, batch: int, num_steps: int, seed: int) -> list[float]:
    """Decode steps of one full batch, each timed."""
    for row in range(batch):
        sampling = SamplingParams(4 * num_steps, seed + row, ignore_eos=True, grammar=grammar)
        prompt = tuple(range(5 + row, 25 + row))
        engine.add(GenerationRequest(f"row-{row}", "bench", prompt, sampling, cache_salt=f"{seed}-{row}"))
    for _ in range(WARM_STEPS):
        engine.step()
    times = []
    for _ in range(num_steps):
        started = time.perf_counter()
        engine.step()
        times.append((time.perf_counter() - started) * 1000)
    assert engine.stats().num_running == batch, "a row came to its end"
    for row in range(batch):
        engine.cancel(f"row-{row}")
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--model", default=str(DEMO_MODEL))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    engine = build(options.model, options.batch)
    for name, grammar in GRAMMARS.items():
        free: list[float] = []
        masked: list[float] = []
        for number in range(options.rounds):
            free += steps_ms(engine, None, options.batch, options.steps, number)
            masked += steps_ms(engine, grammar, options.batch, options.steps, number)
        before, after = median(free), median(masked)
        print(f"batch {options.batch}, {name}: {before:.2f} ms free, {after:.2f} ms masked, {after / before - 1:+.1%}")


if __name__ == "__main__":
    main()
