"""Work that grows with what a caller sent is done in a thread: meanwhile the other requests of this process go on.

gevent runs all requests in one thread, so a request that computes for a second stops every stream for that second. Two
kinds of work, two sets of threads: Python code takes turns with the requests, so it gets few threads and short turns;
code that gives the GIL up (tokenizers in batches) runs beside them, and long texts do not queue up behind each other.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import gevent
from gevent.threadpool import ThreadPool
from pydantic import BaseModel

BIG = 16 * 1024  # characters and values together; what is smaller is done sooner than a thread has woken up
PYTHON_THREADS = 4
NATIVE_THREADS = 16
TURN_S = 0.001  # how long a thread keeps the GIL when another wants it; Python's own 5 ms would be felt with four

SCALARS = frozenset({int, float, bool, type(None)})

T = TypeVar("T")
_Done = tuple[T] | Exception


def aside(work: Callable[..., T], *args: Any) -> T:
    """work(*args), in a thread if the arguments are big."""
    result: T = way_for(args)(work, *args)
    return result


def way_for(value: Any) -> Callable[..., Any]:
    """How work on this value is to be done: in a thread if it is big, otherwise at once."""
    return in_thread if is_big(value) else at_once


def at_once(work: Callable[..., T], *args: Any) -> T:
    return work(*args)


def in_thread(work: Callable[..., T], *args: Any) -> T:
    """work(*args) in one of the threads for Python code. Raises what it raises."""
    return _finished(_python_threads(gevent.get_hub()), work, args)


def beside(work: Callable[..., T], *args: Any) -> T:
    """The same for code that gives the GIL up."""
    return _finished(_native_threads(gevent.get_hub()), work, args)


def is_big(value: Any, limit: int = BIG) -> bool:
    """Whether a value's texts and its number of parts come to more than the limit. Looks no further than that."""
    left = limit
    rest = [value]
    for node in rest:  # it grows meanwhile
        kind = type(node)
        if kind is str or kind is bytes:
            left -= len(node)
        elif kind in SCALARS:
            continue
        elif kind is list or kind is tuple:
            left -= len(node)
            rest += node if left > 0 else ()
        elif issubclass(kind, BaseModel):
            rest += [item for item in node.__dict__.values() if item is not None]
        elif is_dataclass(kind):
            rest += [getattr(node, field.name) for field in fields(kind)]
        elif issubclass(kind, Mapping):
            left -= len(node)
            rest += (*node, *node.values()) if left > 0 else ()
        if left <= 0:
            return True
    return False


def _finished(threads: ThreadPool, work: Callable[..., T], args: tuple[Any, ...]) -> T:
    done: _Done[T] = threads.apply(_tried, (work, args))
    if not isinstance(done, Exception):
        return done[0]
    try:
        raise done
    finally:
        del done  # its traceback has this frame, which would keep the arguments until garbage is looked for


def _tried(work: Callable[..., T], args: tuple[Any, ...]) -> "_Done[T]":
    """An error is handed over as a value: gevent would print those that a thread raises."""
    try:
        return (work(*args),)
    except Exception as error:
        return error


@cache
def _python_threads(hub: Any) -> ThreadPool:
    sys.setswitchinterval(TURN_S)
    return ThreadPool(PYTHON_THREADS, hub=hub)


@cache
def _native_threads(hub: Any) -> ThreadPool:
    return ThreadPool(NATIVE_THREADS, hub=hub)
