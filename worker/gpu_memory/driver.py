"""The CUDA driver's calls for memory at addresses that stay (cuMem*), by ctypes: they need no compiler and no GIL."""

import ctypes
import logging
import threading
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)

LIBRARY = "libcuda.so.1"
SUPPORTED = 102  # CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
OUT_OF_MEMORY = 2
ON_DEVICE, PINNED, READ_AND_WRITE = 1, 1, 3  # of CUmemLocationType, CUmemAllocationType, CUmemAccess_flags

UINT, INT, SIZE, ULONG, POINTER = ctypes.c_uint, ctypes.c_int, ctypes.c_size_t, ctypes.c_ulonglong, ctypes.c_void_p


class Location(ctypes.Structure):
    """CUmemLocation."""

    _fields_ = (("type", INT), ("id", INT))


class Properties(ctypes.Structure):
    """CUmemAllocationProp."""

    _fields_ = (
        ("type", INT), ("handle_types", INT), ("location", Location), ("of_windows", POINTER),
        ("flags", ctypes.c_ubyte * 8),
    )  # fmt: skip


class Access(ctypes.Structure):
    """CUmemAccessDesc."""

    _fields_ = (("location", Location), ("flags", INT))


SIGNATURES = (
    ("cuInit", (UINT,)),
    ("cuDeviceGet", (POINTER, INT)),
    ("cuDeviceGetAttribute", (POINTER, INT, INT)),
    ("cuDevicePrimaryCtxRetain", (POINTER, INT)),
    ("cuCtxGetCurrent", (POINTER,)),
    ("cuCtxSetCurrent", (POINTER,)),
    ("cuGetErrorString", (INT, POINTER)),
    ("cuMemGetAllocationGranularity", (POINTER, POINTER, INT)),
    ("cuMemAddressReserve", (POINTER, SIZE, SIZE, ULONG, ULONG)),
    ("cuMemAddressFree", (ULONG, SIZE)),
    ("cuMemCreate", (POINTER, SIZE, POINTER, ULONG)),
    ("cuMemRelease", (ULONG,)),
    ("cuMemMap", (ULONG, SIZE, SIZE, ULONG, ULONG)),
    ("cuMemUnmap", (ULONG, SIZE)),
    ("cuMemSetAccess", (ULONG, SIZE, POINTER, SIZE)),
    ("cuMemHostRegister_v2", (ULONG, SIZE, UINT)),
    ("cuMemHostUnregister", (ULONG,)),
)


class NoDriver(Exception):
    """There is no such driver, or it cannot do this; the message says why."""


class DriverError(RuntimeError):
    """A call of the driver failed."""


class MemoryDriver:
    """Of one GPU of this process. Its methods may be called from any thread."""

    def __init__(self, library: str, ordinal: int) -> None:
        """Raises NoDriver."""
        try:
            self._library = ctypes.CDLL(library)
            for name, types in SIGNATURES:
                getattr(self._library, name).argtypes = types
        except (OSError, AttributeError) as error:
            raise NoDriver(str(error)) from error
        self.mapped_bytes = 0  # of all engines
        self._lock = threading.Lock()  # one engine may grow while another leaves
        self._where = Location(ON_DEVICE, ordinal)
        self._wanted = Properties(type=PINNED, location=self._where)
        try:
            self._call("cuInit", 0)
            self._device = self._number("cuDeviceGet", INT, ordinal)
            if not self._number("cuDeviceGetAttribute", INT, SUPPORTED, self._device):
                raise NoDriver("the GPU has no virtual memory management")
            self._context = self._number("cuDevicePrimaryCtxRetain", POINTER, self._device)
            self.granularity = self._number("cuMemGetAllocationGranularity", SIZE, ctypes.byref(self._wanted), 0)
        except DriverError as error:
            raise NoDriver(str(error)) from error

    def reserve(self, num_bytes: int) -> int:
        """Addresses for so many bytes, a multiple of the granularity, without memory. Raises DriverError."""
        self._enter()
        return self._number("cuMemAddressReserve", ULONG, num_bytes, 0, 0, 0)

    def free(self, address: int, num_bytes: int) -> None:
        """Addresses whose memory is unmapped."""
        self._enter()
        self._call("cuMemAddressFree", address, num_bytes)

    def map(self, address: int, num_bytes: int) -> int:
        """Put new memory of undefined content there; returns its handle. Raises torch.OutOfMemoryError, DriverError."""
        self._enter()
        handle = ULONG()
        code = self._library.cuMemCreate(ctypes.byref(handle), num_bytes, ctypes.byref(self._wanted), 0)
        if code == OUT_OF_MEMORY and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()  # what torch keeps for later
            code = self._library.cuMemCreate(ctypes.byref(handle), num_bytes, ctypes.byref(self._wanted), 0)
        if code == OUT_OF_MEMORY:
            raise torch.OutOfMemoryError(f"the GPU has no {num_bytes / 2**20:.0f} MiB left")
        self._check("cuMemCreate", code)
        try:
            self._call("cuMemMap", address, num_bytes, 0, handle, 0)
        except DriverError:
            self._call("cuMemRelease", handle)
            raise
        access = Access(self._where, READ_AND_WRITE)
        self._call("cuMemSetAccess", address, num_bytes, ctypes.byref(access), 1)
        self._count(num_bytes)
        return int(handle.value)

    def unmap(self, address: int, num_bytes: int, handle: int) -> None:
        """Free what map() has put there. No kernel may use it any more."""
        self._enter()
        self._call("cuMemUnmap", address, num_bytes)
        self._call("cuMemRelease", handle)
        self._count(-num_bytes)

    def pin(self, address: int, num_bytes: int) -> None:
        """Lock host memory into its place, for copies at the link's full rate. Raises DriverError."""
        self._enter()
        self._call("cuMemHostRegister_v2", address, num_bytes, 0)

    def unpin(self, address: int) -> None:
        self._enter()
        self._call("cuMemHostUnregister", address)

    def _count(self, num_bytes: int) -> None:
        with self._lock:
            self.mapped_bytes += num_bytes

    def _enter(self) -> None:
        """A thread that torch has not used yet has no context."""
        if not self._number("cuCtxGetCurrent", POINTER):
            self._call("cuCtxSetCurrent", self._context)

    def _number(self, name: str, kind: Any, *arguments: object) -> int:
        """What a call writes to its first argument."""
        found = kind()
        self._call(name, ctypes.byref(found), *arguments)
        return int(found.value or 0)

    def _call(self, name: str, *arguments: object) -> None:
        self._check(name, getattr(self._library, name)(*arguments))

    def _check(self, name: str, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise DriverError(f"{name}: {(text.value or b'').decode() or code}")


@cache
def driver_of(ordinal: int) -> MemoryDriver | None:
    """Of this GPU; None, which is logged, where memory at addresses that stay cannot be had."""
    try:
        return MemoryDriver(LIBRARY, ordinal)
    except NoDriver as reason:
        logger.warning("steps are recorded again when a model returns to the GPU: %s", reason)
        return None
