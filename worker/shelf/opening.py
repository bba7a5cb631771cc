"""Opens and closes engines in a thread, so that other models go on meanwhile."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from worker.engine.interface import AnyEngine
from worker.progress import OnProgress
from worker.shelf.memory import DeviceMemory

logger = logging.getLogger("omni.worker")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0  # between two attempts

OPENING = "shelf"  # the thread's name

OpenEngine = Callable[[OnProgress], AnyEngine]


class NoRoom(MemoryError):
    """A model does not fit into the memory that is left. Its text is the sentence."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A load that failed, in one sentence."""

    text: str
    may_retry: bool  # another attempt may succeed: a full device, a download that broke
    is_out_of_memory: bool = False
    is_final: bool = False  # the GPU is lost: this process must end

    def pause_s(self, num_failures: int) -> float:
        """Until the next attempt, after so many failures in a row; infinite where none may help."""
        if not self.may_retry:
            return float("inf")
        return float(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(num_failures - 1, 16)))


DIED = Fault("the worker process died while loading it: it ran out of memory, or the model's code is faulty.", True)


def fault_of(error: BaseException) -> Fault:
    import torch

    from worker.load_failure import is_passing
    from worker.models.load_fault import is_out_of_memory, reason

    if isinstance(error, NoRoom):
        return Fault(str(error), may_retry=True, is_out_of_memory=True)
    if is_out_of_memory(error):
        return Fault(reason(error), may_retry=True, is_out_of_memory=True)
    return Fault(reason(error), is_passing(error), is_final=isinstance(error, torch.AcceleratorError))


def plain_fault_of(error: BaseException) -> Fault:
    """fault_of(), which reads what models' own code raises: nothing of that may end the thread without an outcome."""
    try:
        return fault_of(error)
    except Exception:
        return Fault(type(error).__name__, may_retry=False)


@dataclass(frozen=True, slots=True)
class Landed:
    """The outcome of one swap."""

    engine: AnyEngine | None  # None: nothing was to be opened, or it failed
    fault: Fault | None
    num_threads: int  # of the engine's products
    seconds: float  # from the first close until the engine is ready
    grown_bytes: int  # memory of this process that loading has taken


class DeviceTurn:
    """Lets the loading thread have a GPU for itself, while the loop waits in give().

    No other thread may launch or wait for anything while steps are recorded.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._wanted, self._given, self._done = threading.Event(), threading.Event(), threading.Event()
        self._taken_at = self._done_at = 0.0

    def take(self) -> None:
        self._wanted.set()
        self._wake()
        self._given.wait()
        self._given.clear()
        self._taken_at = time.monotonic()

    def end(self) -> None:
        self._done_at = time.monotonic()
        self._done.set()

    def give(self) -> None:
        """Between steps. Others had the device for at least as long as the last turn took."""
        if self._wanted.is_set() and time.monotonic() - self._done_at >= self._done_at - self._taken_at:
            self._wanted.clear()
            self._given.set()
            self._done.wait()
            self._done.clear()


class Opener:
    """One swap at a time: engines leave, then one is opened and warmed up."""

    def __init__(self, memory: DeviceMemory, num_threads: int, wake: Callable[[], None]) -> None:
        """`num_threads`: torch's default; `wake` is called from the thread when a swap has landed."""
        self._memory = memory
        self._num_threads = num_threads
        self._wake = wake
        self._thread: threading.Thread | None = None
        self._landed: Landed | None = None
        self.turn = DeviceTurn(wake)
        self.building = threading.Lock()  # held while transformers builds a model: it sets torch's default dtype then
        self.progress = ("", 0.0)  # what is being loaded, and the share that is done

    @property
    def is_busy(self) -> bool:
        return self._thread is not None

    def begin(self, leaves: Sequence[Callable[[], None]], open_engine: OpenEngine | None) -> None:
        """`leaves`: let an engine leave each. The caller keeps no reference to these engines."""
        self.progress = ("", 0.0)
        args = list(leaves), open_engine
        self._thread = threading.Thread(target=self._run, args=args, name=OPENING, daemon=True)
        self._thread.start()

    def take(self) -> Landed | None:
        """The outcome, once."""
        landed = self._landed
        if landed is not None:
            assert self._thread is not None
            self._thread.join()
            self._thread = self._landed = None
        return landed

    def _run(self, leaves: list[Callable[[], None]], open_engine: OpenEngine | None) -> None:
        started = time.monotonic()
        engine, fault, num_threads, grown = None, None, self._num_threads, 0
        try:
            compute_with(self._num_threads)  # the default: how many an engine takes is chosen when it is opened
            while leaves:
                leaves.pop()()
            self._memory.return_freed()
            if open_engine is not None:
                before = self._memory.used_bytes()
                with self.building:
                    engine = open_engine(self._report)
                self._warm_up(engine)
                num_threads = threads_of_this_thread()
                grown = self._memory.used_bytes() - before
        except BaseException as caught:  # transformers, its plugins and a model's own code may raise anything
            logger.debug("the traceback", exc_info=caught)
            fault = plain_fault_of(caught)
            close_failed(engine)
            engine = None
        if fault is not None:  # only now: the error's frames held what was loaded
            with suppress(Exception):  # the device may be lost: the fault says so
                self._memory.return_freed()
        self._landed = Landed(engine, fault, num_threads, time.monotonic() - started, grown)
        self._wake()

    def _warm_up(self, engine: AnyEngine) -> None:
        if self._memory.device == "cpu":
            engine.warm_up(self._report)
            return
        self.turn.take()
        try:
            engine.warm_up(self._report_between_turns)
        finally:
            self.turn.end()

    def _report_between_turns(self, what: str, share: float) -> None:
        self._report(what, share)
        self.turn.end()
        self.turn.take()

    def _report(self, what: str, share: float) -> None:
        self.progress = (what, share)


def close_failed(engine: AnyEngine | None) -> None:
    """Of one that could not be warmed up."""
    if engine is not None:
        with suppress(Exception):  # the device may be lost
            engine.close()


def compute_with(num_threads: int) -> None:
    """Let torch's products in the calling thread use so many from now on: the number is each thread's own."""
    import torch

    if torch.get_num_threads() != num_threads:
        torch.set_num_threads(num_threads)


def threads_of_this_thread() -> int:
    import torch

    return torch.get_num_threads()
