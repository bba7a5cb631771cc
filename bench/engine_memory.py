"""What stays of a process that opens and closes engines: memory, memfds, threads.

    python -m bench.engine_memory --cycles 100 demo/model OTHER_MODEL

Each cycle opens every model in turn, generates, and closes it; with a keeper, so that weights are loaded once, and keys
and values lie in shared memory. The last figures should be the first ones: what the first cycles leave (compiled
kernels, caches of libraries) stays. Ends with 1 where private memory has grown by more than 2 %.
"""

import argparse
import os
import sys
import threading
from pathlib import Path

import torch

from bench.report import table
from common.process.keeper.supervised import KeeperProcess
from common.wire import GenerationRequest, SamplingParams
from worker.device import return_memory
from worker.engine.engine import Engine
from worker.kept.keep import Keep
from worker.models.loader import EngineConfig, load
from worker.sampling.grammar import GrammarCompiler

PROMPT, ANSWER = 200, 20  # tokens


def cycle(folder: str, config: EngineConfig, keep: Keep) -> None:
    """Open, generate, one answer of two with a grammar, close."""
    loaded = load(folder, ("model",), config, lambda what, share: None, keep)
    compiler = GrammarCompiler(loaded.tokenizer, loaded.card.eos_token_ids, loaded.card.vocab_size)
    engine = Engine(loaded, config, compiler)
    del loaded
    engine.warm_up(lambda what, share: None)
    for number in range(4):
        grammar = '{"grammars": [{"json_schema": {"type": "integer"}}]}' if number % 2 else None
        sampling = SamplingParams(max_tokens=ANSWER, seed=number, temperature=1.0, grammar=grammar)
        engine.add(GenerationRequest(str(number), "model", tuple(range(5, 5 + PROMPT)), sampling))
    while engine.has_work:
        engine.step()
    engine.close()


def memory() -> dict[str, int]:
    """Of this process: kilobytes in private and in shared pages, memfds, threads."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    fds = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return {
        "private_kb": int(status["RssAnon"].split()[0]),
        "shared_kb": int(status["RssShmem"].split()[0]),
        "memfds": sum("memfd" in target for target in fds),
        "threads": int(status["Threads"]),
        "python_threads": threading.active_count(),
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--cycles", type=int, default=100)
    args = parser.parse_args()
    keeper = KeeperProcess()
    keeper.tick()
    keep, config = Keep(keeper.door_fd), EngineConfig(max_num_seqs=8, threads=torch.get_num_threads())
    rows: list[dict[str, int]] = []
    for number in range(1, args.cycles + 1):
        for folder in args.models:
            cycle(folder, config, keep)
        return_memory()
        if number % max(1, args.cycles // 10) == 0:
            rows.append({"cycles": number, **memory(), "kept_kb": sum(keep.sizes().values()) // 1024})
            print(table(list(rows[0]), [list(row.values()) for row in rows[-1:]]), flush=True)
    keeper.end()
    return int(rows[-1]["private_kb"] > 1.02 * rows[0]["private_kb"])


if __name__ == "__main__":
    sys.exit(main())
