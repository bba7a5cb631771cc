"""Run by test_kept_kv.py: workers that are killed at any call of their steps, and successors. Prints JSON.

    python -m tests.worker.engine.killed_workers MODEL_FOLDER

All are forks of this process, which computes with one thread. A worker counts its calls, of Python and of C functions,
and kills itself after a share of them.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common.wire import Delta, LoggedChoice
from tests.worker.conftest import Bench, prompt_of
from worker.engine.engine import Engine
from worker.engine.scheduler import Scheduler
from worker.kept.keep import Keep, KeptMemory
from worker.models.kept.state import KeptModel
from worker.models.loader import EngineConfig, LoadedModel, load
from worker.state.block_pool import BlockPool
from worker.state.kept_blocks import FORM_AT, KeptBlocks
from worker.state.kv_cache import KVCache
from worker.state.sequence import Sequence

CONFIG = EngineConfig(max_num_seqs=8, max_step_tokens=32, threads=1, dtype="float32", max_model_len=96)
CONFIGS = {
    "in-turn": CONFIG,
    "overlapped": replace(CONFIG, overlap=True),
    "drafted": replace(CONFIG, speculate=4),
}
KILLS: dict[str, tuple[Seq[str], Seq[float]]] = {  # for each mutation: modes, and shares of a worker's calls
    "": (tuple(CONFIGS), (0.03, 0.4, 0.8)),
    "hash-first": (("in-turn",), (0.02, 0.03, 0.035)),
    "never-cleared": (("in-turn",), (0.6,)),
    "never-kept": (("in-turn",), (0.6,)),
}
LONG: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True}


class MemfdKeep(Keep):
    """Keeps one memory, that of keys and values, for this process and its forks."""

    @property
    def outlives_us(self) -> bool:
        return True

    def __init__(self) -> None:
        super().__init__(None)
        self._fd = os.memfd_create("kept")

    def create(self, name: str, num_bytes: int) -> KeptMemory:
        if not name.startswith("kv:"):
            raise OSError("weights are not kept here")
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, num_bytes)
        return KeptMemory(name, num_bytes, self._fd)

    def put(self, memory: KeptMemory) -> None:
        """It is there."""

    def find(self, name: str) -> KeptMemory | None:
        num_bytes = os.fstat(self._fd).st_size if name.startswith("kv:") else 0
        return KeptMemory(name, num_bytes, self._fd) if num_bytes else None

    def drop(self, name: str) -> None:
        os.ftruncate(self._fd, 0)

    def empty(self, cache: KVCache) -> None:
        """As it was when the cache was new. Mappings stay."""
        assert cache.kept is not None
        form = cache.kept.pages[FORM_AT : FORM_AT + 32]
        num_bytes = os.fstat(self._fd).st_size
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, num_bytes)
        cache.kept.begin(form)


@dataclass(frozen=True)
class Round:
    """What one kill and its successor gave."""

    mode: str
    was_killed: bool
    wrong_blocks: int  # with a hash, and with other keys and values than its tokens have
    num_blocks: int  # with a hash
    are_same: bool  # all tokens are those of an undisturbed worker
    num_resumed: int  # sequences with logged tokens
    most_recomputed: int  # tokens of such a sequence


Logs = dict[str, dict[int, LoggedChoice]]


def requests() -> Iterator[tuple[str, Any]]:
    """Two with one prefix, one with choices, one that repeats itself; of two users."""
    shared = prompt_of(33)
    yield "a", Bench.request("a", [*shared, 5], cache_salt="alice", **LONG)
    yield "b", Bench.request("b", [*shared, 6], cache_salt="alice", temperature=0.9, seed=3, **LONG)
    yield "n", Bench.request("n", prompt_of(20, 2), cache_salt="bob", n=3, temperature=1.0, seed=4, **LONG)
    yield "r", Bench.request("r", prompt_of(8, 3) * 4, **LONG)


def run(
    engine: Engine,
    logs: Logs | None,
    tell: Callable[[str, Delta], None],
    after_step: Callable[[], None] = lambda: None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    """Without a log, blocks are full of earlier answers first, and used again when it begins."""
    for seed in range(8) if logs is None else ():
        engine.add(Bench.request(f"old{seed}", prompt_of(80, 10 + seed), max_tokens=1))
    while engine.has_work:
        engine.step()
        after_step()
    begin()
    for name, request in requests():
        engine.add(request, (logs or {}).get(name, {}))
    while engine.has_work:
        for name, event in engine.step():
            if isinstance(event, Delta):
                tell(name, event)
        after_step()


def forked(work: Callable[[Callable[[object], None]], None]) -> tuple[list[Any], bool]:
    """What the work of a fork put out, and whether it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            work(lambda value: void(os.write(writing, json.dumps(value).encode() + b"\n")))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        lines = [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    _, status = os.waitpid(pid, 0)
    return lines, os.WIFSIGNALED(status)


def void(_: object) -> None:
    """For a value that nobody wants."""


def add_to(logs: Logs, lines: list[Any]) -> Logs:
    found = {name: dict(choices) for name, choices in logs.items()}
    for name, index, token_ids, text, finish_reason in lines:
        before = found.setdefault(name, {}).get(index, LoggedChoice())
        found[name][index] = LoggedChoice(before.token_ids + tuple(token_ids), before.text + text, finish_reason)
    return found


def line_of(name: str, delta: Delta) -> list[object]:
    return [name, delta.index, delta.token_ids, delta.text, delta.finish_reason]


class Killer:
    """Kills this process at its `number`th call; 0: never."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0

    def begin(self) -> None:
        sys.setprofile(self._note)

    def _note(self, frame: object, event: str, arg: object) -> None:
        self.count += 1
        if self.count == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def contents(cache: KVCache) -> dict[bytes, torch.Tensor]:
    """Keys and values of the blocks with a hash in the table."""
    assert cache.kept is not None
    return {block_hash: content(cache, block_id) for block_id, block_hash in cache.kept.blocks()}


def content(cache: KVCache, block_id: int) -> torch.Tensor:
    return torch.cat([pool[:, block_id].flatten() for pool in cache.keys + cache.values])


def break_it(mutation: str) -> None:
    """For the control: the test must see these."""
    if mutation == "hash-first":  # written when the step is scheduled
        add_row = Scheduler._add_row

        def hash_first(self: Scheduler, rows: Any, sequence: Sequence, num_tokens: int, *args: Any) -> int:
            cache = self.kv_cache
            first, last = (at // cache.block_size for at in (sequence.num_computed, sequence.num_computed + num_tokens))
            for at in range(first, min(last, len(sequence.token_ids) // cache.block_size)):
                cache.pool.keep(sequence.block_ids[at], cache._hashes(sequence, last)[at])
            return add_row(self, rows, sequence, num_tokens, *args)

        Scheduler._add_row = hash_first  # type: ignore[method-assign]
    if mutation == "never-cleared":
        KeptBlocks.clear = lambda self, block_id: None  # type: ignore[method-assign]
    if mutation == "never-kept":
        BlockPool.keep = BlockPool.cache  # type: ignore[method-assign]


def round_of(
    mode: str, engine: Engine, new: Callable[[], Engine], kill_at: int, expected: Logs, right: dict[bytes, torch.Tensor]
) -> Round:
    """`engine`: new, with an empty table; each worker is a fork that has it."""

    def first(tell: Callable[[object], None]) -> None:
        run(engine, None, lambda name, delta: tell(line_of(name, delta)), begin=Killer(kill_at).begin)

    def second(tell: Callable[[object], None]) -> None:
        successor = new()
        cache = successor.runner.kv_cache
        recomputed: list[int] = []
        allocate = cache.allocate

        def noted(sequence: Sequence) -> int | None:
            num_cached = allocate(sequence)
            if num_cached is not None and sequence.num_completion_tokens and not sequence.is_preempted:
                recomputed.append(sequence.num_tokens - num_cached - 1)
            return num_cached

        cache.allocate = noted  # type: ignore[method-assign]
        run(successor, logs, lambda name, delta: tell(line_of(name, delta)))
        tell(recomputed)

    lines, was_killed = forked(first)
    logs = add_to({}, lines)
    left = contents(engine.runner.kv_cache)
    wrong = [each for each, own in left.items() if each not in right or not torch.allclose(own, right[each], atol=1e-4)]
    *lines, recomputed = forked(second)[0] or [[]]
    are_same = add_to(logs, lines) == expected
    return Round(mode, was_killed, len(wrong), len(left), are_same, len(recomputed), max(recomputed, default=0))


def loaded(folder: Path, config: EngineConfig) -> LoadedModel:
    return load(str(folder), ("tiny",), config, lambda stage, share: None)


def rounds(folder: Path, mode: str, shares: Seq[float], mutation: str) -> Iterator[Round]:
    keep, config = MemfdKeep(), CONFIGS[mode]
    right: dict[bytes, torch.Tensor] = {}
    plain = Engine(loaded(folder, config), config)
    run(plain, None, lambda name, delta: None, lambda: right.update(cached(plain.runner.kv_cache, right)))

    def worker() -> Engine:
        return Engine(replace(loaded(folder, config), kept=KeptModel(keep, "tiny")), config)

    engine = worker()

    def undisturbed(tell: Callable[[object], None]) -> None:
        killer = Killer(0)
        run(engine, None, lambda name, delta: tell(line_of(name, delta)), begin=killer.begin)
        tell(killer.count)

    *lines, num_calls = forked(undisturbed)[0]
    break_it(mutation)
    for share in shares:
        keep.empty(engine.runner.kv_cache)
        yield round_of(mode, engine, worker, int(share * num_calls) + 1, add_to({}, lines), right)


def cached(cache: KVCache, known: dict[bytes, torch.Tensor]) -> dict[bytes, torch.Tensor]:
    """Keys and values of the blocks that can be found, without the known ones."""
    found = cache.pool._block_of.items()
    return {block_hash: content(cache, block_id) for block_hash, block_id in found if block_hash not in known}


def tried(mutation: str, tell: Callable[[object], None]) -> None:
    modes, shares = KILLS[mutation]
    for mode in modes:
        for each in rounds(Path(sys.argv[1]), mode, shares, mutation):
            tell(asdict(each))


def main() -> None:
    torch.set_num_threads(1)
    found: dict[str, list[Any]] = {}
    for mutation in KILLS:
        found[mutation], _ = forked(partial(tried, mutation))
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
