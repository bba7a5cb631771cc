"""Runs work that grows with the size of a request in a thread, so that the process's other requests go on.

gevent runs all requests in one thread: a request that computes for a second stops every stream for that second. There
are two pools. Python code holds the GIL, so its pool has few threads and a short switch interval; native code that
releases the GIL (tokenizers in batches) has a pool of its own, so that long texts do not wait for each other.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

import gevent
from gevent.threadpool import ThreadPool
from pydantic import BaseModel

LARGE = 16 * 1024  # characters plus values; smaller work is done before a thread would have started
PYTHON_THREADS = 4
NATIVE_THREADS = 16
STORE_THREADS = 4
FILE_THREADS = 8
SWITCH_INTERVAL_S = 0.001  # with four threads Python's default of 5 ms would delay every stream by 20 ms

SCALARS = frozenset({int, float, bool, type(None)})

T = TypeVar("T")
_Done = tuple[T] | Exception


def offload(work: Callable[..., T], *args: Any) -> T:
    """work(*args): in a thread if the arguments are large, otherwise inline."""
    result: T = executor_for(args)(work, *args)
    return result


def executor_for(value: Any) -> Callable[..., Any]:
    """The function that runs work on this value: `in_python_thread` if the value is large, otherwise `inline`."""
    return in_python_thread if is_large(value) else inline


def inline(work: Callable[..., T], *args: Any) -> T:
    return work(*args)


def in_python_thread(work: Callable[..., T], *args: Any) -> T:
    """work(*args) in the pool for Python code. Raises what the work raises."""
    return _finished(_python_threads(gevent.get_hub()), work, args)


def in_native_thread(work: Callable[..., T], *args: Any) -> T:
    """work(*args) in the pool for code that releases the GIL. Raises what the work raises."""
    return _finished(_native_threads(gevent.get_hub()), work, args)


def in_store_thread(work: Callable[..., T], *args: Any) -> T:
    """work(*args) in the pool for SQL, whose calls wait for a disk. Raises what the work raises."""
    return _finished(_store_threads(gevent.get_hub()), work, args)


def in_file_thread(work: Callable[..., T], *args: Any) -> T:
    """work(*args) in the pool for files, of which hundreds of megabytes may be on their way. Raises what it raises."""
    return _finished(_file_threads(gevent.get_hub()), work, args)


def is_large(value: Any, limit: int = LARGE) -> bool:
    """True if `value` holds more than `limit` characters and values. Stops counting there."""
    left = limit
    rest = [value]
    for node in rest:  # grows while it is iterated
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
        del done  # its traceback refers to this frame, which would keep the arguments until the next garbage collection


def _tried(work: Callable[..., T], args: tuple[Any, ...]) -> "_Done[T]":
    """An error is returned as a value, because gevent prints errors that a thread raises."""
    try:
        return (work(*args),)
    except Exception as error:
        return error


@cache
def _python_threads(hub: Any) -> ThreadPool:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return ThreadPool(PYTHON_THREADS, hub=hub)


@cache
def _store_threads(hub: Any) -> ThreadPool:
    return ThreadPool(STORE_THREADS, hub=hub)


@cache
def _file_threads(hub: Any) -> ThreadPool:
    return ThreadPool(FILE_THREADS, hub=hub)


@cache
def _native_threads(hub: Any) -> ThreadPool:
    return ThreadPool(NATIVE_THREADS, hub=hub)
