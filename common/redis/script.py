"""The Lua scripts of common/redis/scripts. Each is one atomic change."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from common.redis import keys, metrics, rq_seams

FOLDER = Path(__file__).parent / "scripts"
# With full memory Redis lets a script write only once it has deleted something, and accepted jobs must still end.
GO_ON = "redis.call('DEL', LOG)\n"  # no job has an empty id
LIBRARIES = ("pace", "lib")  # in front of every script, in this order
STOPPED_BY_FULL_MEMORY = frozenset({"submit"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A script's answer: its outcome, and named values."""

    outcome: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return str(self.values[name].decode())

    def number(self, name: str) -> int:
        return int(self.values[name])


class Scripts:
    """Runs scripts by name; loads them again into a server that has forgotten them (SCRIPT FLUSH, restart)."""

    def __init__(self, redis: "Redis", folder: Path = FOLDER) -> None:
        self._redis = redis
        self._scripts = {
            path.stem: redis.register_script(source(path.stem, folder))
            for path in sorted(folder.glob("*.lua"))
            if path.stem not in LIBRARIES
        }

    def run(self, name: str, *args: Any) -> Any:
        """Raises redis.exceptions.RedisError; a script either happened whole or not at all."""
        script = self._scripts[name]
        try:
            return script(args=args)
        except NoScriptError:  # forgotten again between its loading and its use
            return self._redis.eval(script.script, 0, *args)

    def ask(self, name: str, *args: Any) -> Reply:
        """Run a script that answers {outcome, name, value, ...}."""
        outcome, *values = self.run(name, *args)
        return Reply(outcome.decode(), {name.decode(): value for name, value in pairs(values)})

    def expire(self, queue: str) -> None:
        """Admit the jobs that are due; end those past their deadline or without a reader. Any process may."""
        while self.run("expire", queue, round(keys.READER_GRACE_S * 1000), rq_seams.now_iso()):
            pass


def pairs(flat: Sequence[Any]) -> list[tuple[Any, Any]]:
    """[a, 1, b, 2] -> [(a, 1), (b, 2)]"""
    return list(zip(flat[::2], flat[1::2], strict=True))


def flat(fields: Mapping[Any, Any]) -> list[Any]:
    """{a: 1, b: 2} -> [a, 1, b, 2]"""
    return [part for pair in fields.items() for part in pair]


def source(name: str, folder: Path) -> str:
    """The text that the server runs: the names that it uses, the libraries, the script's right to write, the script."""
    go_on = "" if name in STOPPED_BY_FULL_MEMORY else GO_ON
    libraries = "".join((folder / f"{library}.lua").read_text() for library in LIBRARIES)
    script = go_on + (folder / f"{name}.lua").read_text()
    used = words(libraries) | words(script)  # Lua takes 200 local names at most
    constants = ((name, lua(value)) for name, value in shared_constants().items() if name in used)
    return "".join(f"local {name} = {value}\n" for name, value in constants) + libraries + script


@cache
def words(text: str) -> frozenset[str]:
    """Those of the libraries are looked for once, and not once for each script."""
    return frozenset(re.findall(r"\w+", text))


def shared_constants() -> dict[str, Any]:
    """The constants that scripts and Python share, by name."""
    return _constants(keys) | _constants(rq_seams) | {"BOUNDS_MS": metrics.BOUNDS_MS}


def _constants(module: ModuleType) -> dict[str, Any]:
    kinds = (str, int, float, Mapping)
    return {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, kinds)}


def lua(value: Any) -> str:
    """A Lua literal: of a text, a number, a sequence or a mapping."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {lua(item)}" for name, item in value.items()) + "}"
    if isinstance(value, tuple):
        return "{" + ", ".join(map(lua, value)) + "}"
    return f"'{value}'" if isinstance(value, str) else str(value)
