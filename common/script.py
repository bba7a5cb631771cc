"""The Lua scripts of common/scripts. Each is one atomic change of what Redis holds."""

from pathlib import Path
from typing import Any

from redis import Redis

FOLDER = Path(__file__).parent / "scripts"


class Scripts:
    """Runs scripts by name; a server that has forgotten them (SCRIPT FLUSH, restart) is given them again."""

    def __init__(self, redis: "Redis", folder: Path = FOLDER) -> None:
        library = (folder / "lib.lua").read_text()
        self._scripts = {
            path.stem: redis.register_script(library + path.read_text())
            for path in sorted(folder.glob("*.lua"))
            if path.stem != "lib"
        }

    def run(self, name: str, *args: Any) -> Any:
        """Raises redis.exceptions.RedisError; a script either happened whole or not at all."""
        return self._scripts[name](args=args)
