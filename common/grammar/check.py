"""Tests before a request is queued that its grammar compiles within bounds, so that no grammar can stall a worker.

Most grammars compile here in milliseconds. One that may take any time (combined patterns, a caller's own rules, large
ones) is compiled in a child process with limits on processor time and memory. Good grammars are remembered.
"""

import hashlib
import os
import re
import resource
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from common.errors import InvalidRequest, Overloaded
from common.grammar.answer import TOKEN_ID, Grammar
from common.grammar.fault_place import placed

CHILD_CPU_S = 2
CHILD_WALL_S = 20.0  # on a busy machine the child may wait for its two seconds
CHILD_MEMORY_BYTES = 2 << 30
CHILD_PROCESSES = 2
TRIED_BYTES = 64
KEPT_VERDICTS = 1024
DEAD_END = "NoExtension"  # how llguidance's message for such a grammar begins
INNER_PLACE = re.compile(r"\s+while processing json-schema:\S+")  # behind a reference: fault_place says it better
NOTHING_FITS = "no text can fulfil it. Look for rules that contradict each other, or that never come to an end."
ADVICE = re.compile(r"\s*Enable '\w+' option[^.\n]*\.?")  # of llguidance, about options that callers do not have
EOS_ID = 256
ALL_TOOLS = "tools"  # the field of a grammar of all tools, of which each has a schema


class GrammarFault(NamedTuple):
    place: str  # in the schema, "" for all of it
    says: str


class BytesTokenizer:
    """One token per byte, and an end token: enough to compile a grammar without a model."""

    eos_token_id = EOS_ID
    bos_token_id = None
    special_token_ids = (EOS_ID,)

    def __init__(self) -> None:
        self.tokens = [bytes([value]) for value in range(EOS_ID)] + [b"<eos>"]

    def __call__(self, text: bytes | str) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


class GrammarCheck:
    """Checks grammars. One per process; safe to use from many threads."""

    def __init__(self) -> None:
        self._tokenizer = bytes_tokenizer()
        self._good: OrderedDict[bytes, None] = OrderedDict()
        self._children = threading.BoundedSemaphore(CHILD_PROCESSES)

    def compiled(self, grammar: Grammar) -> str:
        """The grammar's text for SamplingParams. Raises InvalidRequest that names the request field."""
        key = hashlib.sha256(grammar.text.encode()).digest()
        if key not in self._good:
            if fault := self._fault_in_child(grammar.text) if grammar.is_costly else self._fault(grammar.text):
                param = grammar.param + fault.place * (grammar.param != ALL_TOOLS)
                raise InvalidRequest(f"'{param}' cannot be enforced: {fault.says}", param=param)
            self._good[key] = None
            while len(self._good) > KEPT_VERDICTS:
                self._good.popitem(last=False)
        return grammar.text

    def _fault(self, text: str) -> GrammarFault | None:
        says = fault_of(text, self._tokenizer)
        return GrammarFault(*placed(text, says, lambda part: fault_of(part, self._tokenizer))) if says else None

    def _fault_in_child(self, text: str) -> GrammarFault | None:
        if not self._children.acquire(timeout=CHILD_WALL_S):
            raise Overloaded("Too many grammars are being checked; try again.")
        try:
            tried = subprocess.run(
                [sys.executable, "-m", __name__],
                input=text.encode(),
                capture_output=True,
                timeout=CHILD_WALL_S,
                cwd=Path(__file__).parents[2],
                check=False,
            )
        except subprocess.TimeoutExpired:
            return GrammarFault("", "it takes too long to compile.")
        finally:
            self._children.release()
        says, _, where = tried.stdout.decode().partition("\n")
        if tried.returncode < 0 and not says:  # killed by the system
            return GrammarFault("", "it takes too much time or memory to compile.")
        if tried.returncode > 0:
            raise RuntimeError(f"The grammar check failed: {tried.stderr.decode(errors='replace')[-500:]}")
        return GrammarFault(*orjson.loads(where)) if where else GrammarFault("", says) if says else None


def bytes_tokenizer() -> Any:
    return LLTokenizer(TokenizerWrapper(BytesTokenizer()))


def parser_limits() -> Any:
    """Limits on a grammar's cost, shared with the worker. Fuel counts work, not time."""
    return LLParserLimits(
        initial_lexer_fuel=500_000,  # about 10 ms
        step_lexer_fuel=100_000,  # about 7 ms
        step_max_items=50_000,
        max_lexer_states=50_000,  # 1-2 KB each
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def fault_of(text: str, tokenizer: Any, num_tried: int = 1) -> str | None:
    """The grammar's fault, found by compiling it and taking `num_tried` steps; None for a good grammar."""
    any_special = TOKEN_ID.sub(f"<[{EOS_ID}]>", text)  # this tokenizer does not have the model's special tokens
    matcher = LLMatcher(tokenizer, any_special, log_level=0, limits=parser_limits())
    for step in range(num_tried):
        if matcher.is_error():
            break
        allowed = _allowed_bytes(matcher.compute_bitmask())
        if not allowed:
            break
        matcher.consume_token(
            allowed[step * 37 % len(allowed)]
        )  # any fixed walk that does not stay in one corner of the grammar
    return _sentence(matcher.get_error()) if matcher.is_error() else None


def _allowed_bytes(bitmask: bytes) -> Sequence[int]:
    return [value for value in range(EOS_ID) if bitmask[value // 8] >> (value % 8) & 1]


def _sentence(error: str) -> str:
    """The error's message, short and on one line."""
    if error.strip().startswith(DEAD_END):
        return NOTHING_FITS
    error = INNER_PLACE.sub("", ADVICE.sub("", error))
    lines = [line.strip() for line in error.splitlines() if line.strip() and not line.startswith("<")]
    return re.sub(r"\s+", " ", " ".join(lines))[:300]


def main() -> None:
    """The child: reads a grammar, writes its fault and, in a second line, where it is.

    The system kills the child when it exceeds its limits.
    """
    os.nice(5)  # the API process comes first
    for kind, limit in ((resource.RLIMIT_CPU, CHILD_CPU_S), (resource.RLIMIT_AS, CHILD_MEMORY_BYTES)):
        with suppress(ValueError, OSError):  # some systems cannot limit memory
            resource.setrlimit(kind, (limit, limit))
    text, tokenizer = sys.stdin.buffer.read().decode(), bytes_tokenizer()
    if fault := fault_of(text, tokenizer, TRIED_BYTES):
        print(fault, flush=True)  # in time, whatever happens while its place is looked for
        sys.stdout.write(orjson.dumps(placed(text, fault, lambda part: fault_of(part, tokenizer))).decode())


if __name__ == "__main__":
    main()
