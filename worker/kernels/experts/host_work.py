"""Work of a GPU's stream that the CPU does: copies to pinned memory, a host node, and the copy back, beside the GPU.

What stands here needs no Python when a step runs: the calls become nodes of a CUDA graph when a step is recorded.
"""

import ctypes
import weakref
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import torch

from worker.device import usable_cores
from worker.kernels.cuda_driver import CudaDriver
from worker.kernels.experts.cpu import CExpertsCall, CpuExperts
from worker.kernels.native import NoKernels
from worker.kernels.packed.layout import kernels_for

ROOMS = (16, 64, 512, 4096)  # rows of buffers; a step takes the smallest that holds it
COPY_STREAMS = 3  # one copies to the GPU while another copies to pinned memory
KEPT_TIMES, MOST_PARTS = 4096, 16  # of host_node.c


class CHostWorker(ctypes.Structure):
    """The first fields of HostWorker of host_node.c."""

    _fields_ = (("num_calls", ctypes.c_int64), ("times", (ctypes.c_int64 * 5) * KEPT_TIMES))


class CHostNode(ctypes.Structure):
    """HostNode of host_node.c."""

    _fields_ = (
        ("call", CExpertsCall),
        *((name, ctypes.c_void_p) for name in ("compute", "worker", "num_rows", "is_elsewhere", "uses", "chosen")),
        *((name, ctypes.c_int32) for name in ("num_experts", "is_once")),
    )


class CCopyPart(ctypes.Structure):
    """A part of HostCopy of host_node.c."""

    _fields_ = (("target", ctypes.c_void_p), ("source", ctypes.c_void_p), ("num_bytes", ctypes.c_int64))


class CHostCopy(ctypes.Structure):
    """HostCopy of host_node.c."""

    _fields_ = (
        ("worker", ctypes.c_void_p),
        ("num_parts", ctypes.c_int64),
        ("num_threads", ctypes.c_int64),
        ("parts", CCopyPart * MOST_PARTS),
    )


class HostStream(Protocol):
    """Where copies and host nodes are put, in order, beside what the device is told. Of CUDA, or a test's."""

    def told(self) -> Any:
        """A mark behind all that the device was told."""

    def wait(self, mark: Any) -> None:
        """What is put from now on runs after the mark."""

    def mark(self) -> Any:
        """A mark behind all that was put."""

    def meet(self, mark: Any) -> None:
        """What the device is told from now on runs after the mark."""

    def to_host(self, host: torch.Tensor, source: torch.Tensor) -> None:
        """Copy all of `source`, contiguous, to the begin of `host`."""

    def to_device(self, target: torch.Tensor, host: torch.Tensor) -> None:
        """Fill `target`, contiguous, from the begin of `host`."""

    def call(self, function: int, argument: int) -> None:
        """Call a C function with one argument; both are addresses."""

    @property
    def is_recording(self) -> bool:
        """True while what is put becomes part of a recording, which runs it any number of times."""


class CudaStream:
    """A stream beside the current one."""

    def __init__(self, device: torch.device) -> None:
        self.driver = CudaDriver()
        self.device = device
        self.side: Any = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def told(self) -> Any:
        return torch.cuda.current_stream(self.device).record_event()

    def wait(self, mark: Any) -> None:
        self.side.wait_event(mark)

    def mark(self) -> Any:
        return self.side.record_event()

    def meet(self, mark: Any) -> None:
        torch.cuda.current_stream(self.device).wait_event(mark)

    def to_host(self, host: torch.Tensor, source: torch.Tensor) -> None:
        self.driver.to_host(host.data_ptr(), source.data_ptr(), source.nbytes, self.side.cuda_stream)

    def to_device(self, target: torch.Tensor, host: torch.Tensor) -> None:
        self.driver.to_device(target.data_ptr(), host.data_ptr(), target.nbytes, self.side.cuda_stream)

    def call(self, function: int, argument: int) -> None:
        self.driver.call(function, argument, self.side.cuda_stream)

    @property
    def is_recording(self) -> bool:
        return bool(torch.cuda.is_current_stream_capturing())


class CallTimes(NamedTuple):
    """Of one call; in nanoseconds since 1970."""

    began: int
    ended: int
    num_rows: int  # -1: of copies
    node_began: int
    node_ended: int


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    """Host memory for one layer's inputs and outputs. A model's layers and steps use it in turn."""

    hidden: torch.Tensor
    chosen: torch.Tensor
    weights: torch.Tensor
    out: torch.Tensor


class HostThread:
    """Computes what host nodes give it, one call after the other, of whichever model."""

    def __init__(self) -> None:
        """Raises NoKernels."""
        self.kernels = kernels_for(torch.bfloat16)  # which of its dtypes makes no difference here
        place = ctypes.c_void_p()
        self.kernels.open_host_worker(ctypes.byref(place))
        if place.value is None:
            raise NoKernels("there can be no thread for experts")
        self.address = place.value
        self._close = weakref.finalize(self, self.kernels.close_host_worker, self.address)
        self._close.atexit = False  # the thread ends with the process

    def close(self) -> None:
        """End the thread. Nothing that was put may still run."""
        self._close()


class HostWork:
    """A model's stream to the CPU, the thread that computes there, and the memory between them.

    Its streams and memory are the model's own: another one may be opened, and tried, while this one's steps run.
    """

    def __init__(self, new_stream: Callable[[], HostStream], *, pins: bool, thread: HostThread | None = None) -> None:
        """`pins`: memory is pinned, which copies that run beside other work need. `thread`: None is one of its own.

        Raises NoKernels.
        """
        self.stream = new_stream()  # of calls
        self.copies = [new_stream() for _ in range(COPY_STREAMS)]  # of weights
        self.pins = pins
        self.thread = thread or HostThread()
        self.kernels, self.worker = self.thread.kernels, self.thread.address
        self._rooms: dict[tuple[object, ...], Room] = {}
        self._count = self.memory(1, torch.int32)  # of the rows of a step
        self.is_counted = False  # `_count` holds the rows of the step that is put now

    @contextmanager
    def counted(self, num_rows: torch.Tensor) -> Iterator[None]:
        """Within this, what is put computes only the first `num_rows` (int32 [1] on the device) rows of a step.

        The others pad a recorded step: what is computed of them is used by nobody, and their experts need not be read.
        """
        self.stream.wait(self.stream.told())
        self.stream.to_host(self._count, num_rows)
        self.stream.meet(self.stream.mark())
        self.is_counted = True
        try:
            yield
        finally:
            self.is_counted = False

    def room(self, num_rows: int, width: int, top_k: int, dtype: torch.dtype) -> Room:
        """Never freed: recordings hold its addresses."""
        rows = next((rows for rows in ROOMS if num_rows <= rows), num_rows)
        key = (rows, width, top_k, dtype)
        if key not in self._rooms:
            hidden, out = (self.memory(rows * width, dtype) for _ in range(2))
            chosen, weights = (self.memory(rows * top_k, kind) for kind in (torch.int64, torch.float32))
            self._rooms[key] = Room(hidden, chosen, weights, out)
        return self._rooms[key]

    @torch.inference_mode(False)  # whoever asks first may be in that mode, and others not
    def memory(self, size: int, dtype: torch.dtype) -> torch.Tensor:
        """Host memory that the device copies from and to."""
        return torch.zeros(size, dtype=dtype, pin_memory=self.pins)

    def new_node(self, experts: CpuExperts, room: Room, num_rows: int, top_k: int) -> CHostNode:
        """A node that computes these experts; see HostNode."""
        hidden, chosen, weights, out = (part.data_ptr() for part in (room.hidden, room.chosen, room.weights, room.out))
        call = experts.arguments(hidden, chosen, weights, out, num_rows, top_k)
        counted = self._count.data_ptr() if self.is_counted else None
        num_experts = experts.c_layer.num_experts
        return CHostNode(
            call, experts.function, self.worker, counted, None, None, room.chosen.data_ptr(), num_experts, 0
        )

    def put(self, node: CHostNode) -> None:
        """Run the node in the stream; it must be kept as long as the recording, if this is one."""
        node.is_once = not self.stream.is_recording
        address = self._kept_for_once(node) if node.is_once else ctypes.addressof(node)
        self.stream.call(address_of(self.kernels.run_host_node), address)

    def put_copies(self, stream: HostStream, copies: Seq[tuple[torch.Tensor, torch.Tensor]], threads: int) -> None:
        """Copy in a stream, by so many threads: pairs of what is filled and a source of its size, in host memory.

        MOST_PARTS at most. Both must be kept until the stream has done it.
        """
        call = CHostCopy(self.worker, len(copies), threads)
        for part, (target, source) in zip(call.parts, copies, strict=False):
            part.target, part.source, part.num_bytes = target.data_ptr(), source.data_ptr(), source.nbytes
        stream.call(address_of(self.kernels.run_host_copy), self._kept_for_once(call))

    def _kept_for_once(self, call: ctypes.Structure) -> int:
        """The address of a copy, which frees itself when it has run."""
        place = ctypes.c_void_p()
        self.kernels.keep_for_once(ctypes.addressof(call), ctypes.sizeof(call), ctypes.byref(place))
        if place.value is None:
            raise MemoryError("no memory for a host node")
        return place.value

    @property
    def num_calls(self) -> int:
        """That have ended."""
        return int(CHostWorker.from_address(self.worker).num_calls)

    def times(self) -> list[CallTimes]:
        """Of the latest calls, in their order."""
        worker = CHostWorker.from_address(self.worker)
        last = worker.num_calls
        return [CallTimes(*worker.times[at % KEPT_TIMES]) for at in range(max(0, last - KEPT_TIMES), last)]


def address_of(function: Callable[..., object]) -> int:
    found = ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
    assert found is not None
    return found


@cache
def host_thread() -> HostThread:
    """The process's: one call at a time has all cores. Raises NoKernels."""
    return HostThread()


def host_work(device: torch.device) -> HostWork:
    """For a model on a GPU. Raises NoKernels."""
    try:
        return HostWork(partial(CudaStream, device), pins=True, thread=host_thread())
    except OSError as error:
        raise NoKernels(str(error)) from error


def num_threads(threads: int | None) -> int:
    """That compute experts: the setting, or all cores but one, which launches what the GPU does."""
    cores = usable_cores()
    return threads or max(1, cores - (cores > 2))
