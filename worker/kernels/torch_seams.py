"""The parts of torch that its documentation does not promise to keep. No other file of worker/ touches such parts.

Each docstring has the reason, and what to check when torch is upgraded; tests/test_seams.py calls them all.
"""

import ctypes
from collections.abc import Callable
from collections.abc import Sequence as Seq
from pathlib import Path

import torch


def reorder_weight(weight: torch.Tensor, num_rows: int) -> torch.Tensor:
    """A CPU weight [out, in] in oneDNN's blocked layout, tuned for products of `num_rows` rows.

    Why: F.linear reorders the weight in every call; reordered once, a product takes half the time.
    On an upgrade: linear.can_pack() compares a product and falls back to F.linear; check that it is still true.
    """
    reordered: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    return reordered


def reordered_product() -> Callable[..., torch.Tensor]:
    """The product with a weight of reorder_weight(): call it with (inputs, weight, bias, "none", [], "").

    Why and on an upgrade: as for reorder_weight(). The operator is returned, because looking it up costs microseconds.
    """
    product: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.default
    return product


def is_opaque(tensor: torch.Tensor) -> bool:
    """True for a weight of reorder_weight(), whose numbers torch hides."""
    return bool(tensor.layout == torch._mkldnn)  # type: ignore[attr-defined]


def bytes_of_opaque(tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The numbers of a weight of reorder_weight(), without a copy, and oneDNN's description of their layout; as bytes.

    Why: a product that is kept must be made again without reordering its weight.
    On an upgrade: these are what AOTInductor writes constants with (torch/_inductor/codecache.py).
    """
    operators = torch.ops.mkldnn
    numbers = (ctypes.c_uint8 * operators._nbytes(tensor)).from_address(operators.data_ptr(tensor))
    return torch.frombuffer(numbers, dtype=torch.uint8), operators._get_mkldnn_serialized_md(tensor)


def opaque_tensor(
    numbers: torch.Tensor, description: torch.Tensor, shape: Seq[int], dtype: torch.dtype
) -> torch.Tensor:
    """A weight of reorder_weight() on these bytes, without a copy. See bytes_of_opaque().

    Why: nothing public makes such a tensor on memory that is there.
    On an upgrade: compare the argument list with torch/csrc/inductor/aoti_torch/c/shim.h.
    """
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    size, number, pointer = ctypes.c_int64, ctypes.c_int32, ctypes.c_void_p
    make = library.aoti_torch_create_tensor_from_blob_v2
    make.argtypes = (pointer, size, pointer, pointer, size, *[number] * 3, pointer, number, ctypes.c_char_p, size)
    name, layout = str(dtype).removeprefix("torch."), bytes(description.tolist())
    handle = pointer()
    failed = make(
        numbers.data_ptr(), len(shape), (size * len(shape))(*shape), (size * len(shape))(*[1] * len(shape)), 0,
        library[f"aoti_torch_dtype_{name}"](), library.aoti_torch_device_type_cpu(), 0, ctypes.byref(handle),
        library.aoti_torch_layout__mkldnn(), layout, len(layout),
    )  # fmt: skip
    if failed:
        raise RuntimeError("torch makes no tensor of oneDNN's layout")
    capsule = ctypes.pythonapi.PyCapsule_New
    capsule.restype, capsule.argtypes = ctypes.py_object, (pointer, ctypes.c_char_p, pointer)
    made: torch.Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(capsule(handle, None, None))
    if made._use_count() > 1:  # type: ignore[attr-defined]  # torch 2.13 adds a reference to it
        library.aoti_torch_delete_tensor_object(handle)
    made.kept_bytes = numbers  # type: ignore[attr-defined]  # it does not own them
    return made


def has_fast_bf16() -> bool:
    """True if oneDNN multiplies bfloat16 on this processor without converting it to float32.

    Why: torch has no public question for it; on other processors float32 is faster.
    On an upgrade: check that a processor with AVX512 still answers True, else models are served in float32.
    """
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # a build without oneDNN
        return False


def openmp_library() -> Path | None:
    """The OpenMP runtime that comes with torch; None where torch uses another one than GCC's.

    Why: kernels that load a second runtime would have a second pool of threads on the same cores.
    On an upgrade: check that the wheel still has lib/libgomp*.so*; without it models run without our C kernels.
    """
    return next(iter(sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))), None)
