"""The Lua scripts of common/redis/scripts. Each is one atomic change of what Redis holds."""

from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from common.redis import keys
from common.redis.metrics import LUA_BOUNDS
from common.redis.rq_seams import now_iso

FOLDER = Path(__file__).parent / "scripts"
# Redis lets a script that has removed something write though memory is full: what was accepted goes on to its end.
GO_ON = "redis.call('DEL', 'omni:log:')\n"  # there is no job without an id
STOPPED_BY_FULL_MEMORY = frozenset({"submit"})


class Scripts:
    """Runs scripts by name; a server that has forgotten them (SCRIPT FLUSH, restart) is given them again."""

    def __init__(self, redis: "Redis", folder: Path = FOLDER) -> None:
        self._redis = redis
        self._scripts = {
            path.stem: redis.register_script(source(path.stem, folder))
            for path in sorted(folder.glob("*.lua"))
            if path.stem != "lib"
        }

    def run(self, name: str, *args: Any) -> Any:
        """Raises redis.exceptions.RedisError; a script either happened whole or not at all."""
        script = self._scripts[name]
        try:
            return script(args=args)
        except NoScriptError:  # forgotten again between its loading and its use
            return self._redis.eval(script.script, 0, *args)

    def expire(self, queue: str) -> None:
        """End the jobs of a queue that are past their deadline or have lost their reader; any process may."""
        self.run("expire", queue, round(keys.READER_GRACE_S * 1000), now_iso())


def source(name: str, folder: Path) -> str:
    """What the server is given: the histograms' bounds, the library, the script's right to write, the script."""
    go_on = "" if name in STOPPED_BY_FULL_MEMORY else GO_ON
    return LUA_BOUNDS + (folder / "lib.lua").read_text() + go_on + (folder / f"{name}.lua").read_text()
