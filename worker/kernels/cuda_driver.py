"""The calls of CUDA's driver that torch has no name for: functions of the CPU in a stream, and plain copies.

libcuda has the same interface for all versions of CUDA, and torch's streams are its streams.
"""

import ctypes

LIBRARY = "libcuda.so.1"


class CudaDriver:
    """A thread that calls this has used the device by torch before: its context is the current one."""

    def __init__(self, library: str = LIBRARY) -> None:
        """Raises OSError where there is no driver."""
        self._library = cuda = ctypes.CDLL(library)
        pointer, size, device_pointer = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64
        cuda.cuLaunchHostFunc.argtypes = (pointer, pointer, pointer)
        cuda.cuMemcpyDtoHAsync_v2.argtypes = (pointer, device_pointer, size, pointer)
        cuda.cuMemcpyHtoDAsync_v2.argtypes = (device_pointer, pointer, size, pointer)
        cuda.cuGetErrorString.argtypes = (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))

    def call(self, function: int, argument: int, stream: int) -> None:
        """Have the stream call a C function, which may not call CUDA. All are addresses. Raises RuntimeError."""
        self._check("cuLaunchHostFunc", self._library.cuLaunchHostFunc(stream, function, argument))

    def to_host(self, host: int, source: int, num_bytes: int, stream: int) -> None:
        """Copy in the stream; beside other work if the host's memory is pinned. Raises RuntimeError."""
        self._check("cuMemcpyDtoHAsync", self._library.cuMemcpyDtoHAsync_v2(host, source, num_bytes, stream))

    def to_device(self, target: int, host: int, num_bytes: int, stream: int) -> None:
        """See to_host()."""
        self._check("cuMemcpyHtoDAsync", self._library.cuMemcpyHtoDAsync_v2(target, host, num_bytes, stream))

    def _check(self, name: str, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'unknown error').decode()} ({code})")
