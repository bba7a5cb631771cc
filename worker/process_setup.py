"""Settings of this process that must be made before torch or transformers is loaded."""

import ctypes
from pathlib import Path

from common.environment import set_default

# How long OpenMP's threads spin for more work before they sleep, in iterations (about 50 ms): longer than the pause
# between two steps, so that a step does not begin by waking them. Read once, when torch is loaded.
SPIN_COUNT = "3000000"

# One heap for all threads (malloc.h; glibc only): a thread's own heap ends at 64 MiB, and larger blocks return to the
# system with every tensor that is freed.
M_ARENA_MAX = -8


def prepare_process() -> None:
    """Set up OpenMP and malloc for inference. Has no effect on OpenMP once torch is loaded."""
    set_default("GOMP_SPINCOUNT", SPIN_COUNT)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)


def prepare_transformers() -> None:
    """Have transformers read the files of its models once, before anything imports `transformers.models`.

    It reads all 1,600 for their names at its own import, and keeps the result by the folder's path. Its module of
    models asks by the path of a file in the folder, so they would be read again: a quarter of a second in each process.
    """
    from transformers.utils import import_utils

    kept = import_utils.create_import_structure_from_path

    def of_folder(path: str | Path) -> object:
        return kept(Path(path).parent if Path(path).is_file() else Path(path))

    import_utils.create_import_structure_from_path = of_folder
