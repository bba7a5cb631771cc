"""Tokens/s of decoding by the engines of bench.sparse, one after the other."""

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.engine import measure
from bench.sparse_model import shared_model
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load

NUM_PROMPT, NUM_OUTPUT = 16, 64


def our_tokens(path: Path, streams: Sequence[int]) -> dict[int, float]:
    """The engine alone, after a round that warms it up."""
    config = EngineConfig(max_num_seqs=max(streams), dtype="bfloat16")
    engine = Engine(load(str(path), ("bench",), config, lambda stage, fraction: None), config)
    engine.warm_up(lambda stage, fraction: None)
    found = {}
    for num_streams in streams:
        measure(engine, num_streams, num_streams, NUM_PROMPT, 8)
        gaps = measure(engine, num_streams, num_streams, NUM_PROMPT, NUM_OUTPUT)
        found[num_streams] = num_streams * 1000 / gaps["gap p50"]
    return found


def llama_tokens(binary: Path, path: Path, streams: Sequence[int]) -> dict[int, float]:
    """Of generating, as llama.cpp's own benchmark counts it."""
    threads = str(torch.get_num_threads())
    command = [
        str(binary), "-m", str(path), "-c", "2048", "-npp", str(NUM_PROMPT), "-ntg", str(NUM_OUTPUT),
        "-npl", ",".join(map(str, streams)), "-t", threads, "-tb", threads, "--output-format", "jsonl",
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return {row["pl"]: row["speed_tg"] for row in rows}


def transformers_tokens(streams: Sequence[int]) -> dict[int, float]:
    """Of generate() with its own modules in bf16, the prompt's time left out."""
    model, found = shared_model(), {}
    for num_streams in streams:
        prompt = torch.randint(4, 300, (num_streams, NUM_PROMPT))
        seconds = []
        for num_tokens in (1, 17):
            started = time.perf_counter()
            model.generate(prompt, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False)
            seconds.append(time.perf_counter() - started)
        found[num_streams] = num_streams * 16 / (seconds[1] - seconds[0])
    return found
