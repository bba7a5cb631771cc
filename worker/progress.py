"""How far a worker is before it can work: what it does now, and the share of the whole that is done (0 to 1)."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

OnProgress = Callable[[str, float], None]

WEIGHTS, KERNELS, RECORDING, FIRST_STEP, READY = 0.05, 0.80, 0.85, 0.98, 1.0  # where each begins
PAUSE_S = 1.0  # at least, between two words about the same thing


def counted(
    what: str, items: Iterable[Any], num_items: int, span: tuple[float, float], tell: OnProgress
) -> Iterator[Any]:
    """The items, and now and then a word of how many of them are done."""
    told = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - told >= PAUSE_S:
            told = time.monotonic()
            begin, end = span
            tell(f"{what}, {number} of {num_items}", begin + (end - begin) * number / num_items)
        yield item


@contextmanager
def telling_weights(tell: OnProgress) -> Iterator[None]:
    """While transformers puts tensors into the model, its progress bar speaks through `tell`."""

    def bar(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not args or "weights" not in str(options.get("desc", "")):
            return make(*args, **options)
        return counted("weights", args[0], len(args[0]), (WEIGHTS, KERNELS), tell)

    tell("weights", WEIGHTS)
    before = set_tqdm_hook(bar)
    try:
        yield
    finally:
        set_tqdm_hook(before)
