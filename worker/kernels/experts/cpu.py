"""The experts of a layer on a CPU, by one call of C: worker/kernels/experts.c says how."""

import ctypes
import math

import torch
from torch.nn import functional as F

from worker.kernels.experts.activation import Activation
from worker.kernels.experts.form import (
    ExpertsForm,
    MatrixForm,
    Tensors,
    can_lay_out,
    lay_out,
    plain_weights,
    values_of,
    zero_of,
)
from worker.kernels.experts.layer import Encode, ExpertLayer, encoded
from worker.kernels.experts.nodes import copy_over_nodes, count_nodes
from worker.kernels.heap import LARGE_PAGE, use_large_pages
from worker.kernels.native import NoKernels, address_of
from worker.kernels.packed.layout import FORMS, CPacked, kernels_for

ACTIVATION_NAMES = ("silu", "gelu", "gelu_tanh")  # in the order of the kernels
EXACT = 0  # of experts.h
LEAST_PAGES = 4  # large ones, of a node's part of an expert: a page at its ends lies on one of two nodes


class CExpertLayer(ctypes.Structure):
    """ExpertLayer of experts.h."""

    _fields_ = (
        ("up", CPacked),
        ("down", CPacked),
        *((name, ctypes.c_void_p) for name in ("up_bias", "down_bias")),
        *((name, ctypes.c_int32) for name in ("num_experts", "width", "up_way", "down_way", "activation", "has_gate")),
        *((name, ctypes.c_float) for name in ("limit", "alpha", "shift")),
        *((name, ctypes.c_int32) for name in ("num_nodes", "num_threads")),
    )


class CExpertsCall(ctypes.Structure):
    """ExpertsCall of experts.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("hidden", "chosen", "weights", "out")),
        *((name, ctypes.c_int32) for name in ("num_rows", "top_k")),
        ("layer", ctypes.POINTER(CExpertLayer)),
    )


class CpuExperts:
    """See Experts. A choice below 0 adds nothing to its row and reads no weights."""

    def __init__(
        self,
        form: ExpertsForm,
        tensors: Tensors,
        up_bias: torch.Tensor | None = None,
        down_bias: torch.Tensor | None = None,
    ) -> None:
        """`tensors`: of lay_out(), each [experts, ...], which are only read; biases [experts, out].

        Raises NoKernels where there is no compiler, or none for the model's dtype.
        """
        self.form, self.tensors = form, dict(tensors)
        self.biases = tuple(
            None if bias is None else bias_in_lanes(matrix, bias)
            for matrix, bias in ((form.up, up_bias), (form.down, down_bias))
        )
        self.may_round = form.up.dtype == "bfloat16"
        self.bind()

    @classmethod
    def of(cls, layer: ExpertLayer, encode: Encode | None = None) -> "CpuExperts":
        """A copy of the layer's experts, quantized by `encode`.

        Raises NoKernels, also for forms that no kernel reads.
        """
        if not isinstance(layer.activate, Activation):
            raise NoKernels("no kernel computes the activation of its experts")
        kernels_for(layer.up.dtype)  # before anything is packed
        tensors: dict[str, torch.Tensor] = {}
        num_nodes = count_nodes()
        for expert in range(layer.num_experts):
            up, down = (encoded(part.matrix(expert), encode) for part in (layer.up, layer.down))
            if not (can_lay_out(up) and can_lay_out(down)):
                raise NoKernels(f"no kernel reads experts of {up.kind} in groups of {up.group}")
            form = ExpertsForm.of(up, down, layer.activate)
            for name, part in lay_out(form, up, down).items():
                if name not in tensors:
                    tensors[name] = part.new_empty(layer.num_experts, *part.shape)
                    if part.nbytes // num_nodes >= LEAST_PAGES * LARGE_PAGE or num_nodes == 1:
                        use_large_pages(tensors[name])
                if num_nodes > 1:
                    copy_over_nodes(part, tensors[name][expert], num_nodes)
                else:
                    tensors[name][expert] = part
        return cls(form, tensors, layer.up_bias, layer.down_bias)

    def bind(self) -> None:
        """Find the kernels, and tell them where the tensors lie: of experts that were made before, too."""
        self.dtype = getattr(torch, self.form.up.dtype)
        self.kernels = kernels_for(self.dtype)
        self.function = address_of(self.kernels.compute_experts)
        activation = self.form.activation
        self.values = {
            name: ctypes.c_char_p(values_of(matrix))
            for name, matrix in (("up", self.form.up), ("down", self.form.down))
        }
        up, down = self.packed("up", self.form.up), self.packed("down", self.form.down)
        self.c_layer = CExpertLayer(
            up,
            down,
            *(None if bias is None else bias.data_ptr() for bias in self.biases),
            len(self.tensors["up.codes"]),
            self.form.up.num_in,
            self.way_of(up),
            self.way_of(down),
            ACTIVATION_NAMES.index(activation.name),
            activation.has_gate,
            0 if activation.limit == math.inf else activation.limit,
            activation.alpha,
            activation.shift,
            count_nodes(),
            0,
        )

    def packed(self, name: str, form: MatrixForm) -> CPacked:
        """The first expert's matrix."""
        parts = {part: self.tensors.get(f"{name}.{part}") for part in ("codes", "scales", "minimums", "offsets")}
        scales, has_least = parts["scales"], parts["minimums"] is not None or parts["offsets"] is not None
        scale_form = 0 if scales is None else len(FORMS) if form.has_panel_scales else FORMS.index(scales.dtype)
        bits = 4 if form.kind in ("int4", "mxfp4") else 8 if form.kind != "dense" else 8 * self.dtype.itemsize
        kind = 2 if form.kind == "dense" else 1 if form.kind.startswith("fp8") else 0
        return CPacked(
            *(None if part is None else part.data_ptr() for part in parts.values()),
            ctypes.cast(self.values[name], ctypes.c_void_p),
            None,
            *(len(form.lanes()), form.width, bits, form.columns, scale_form, zero_of(form, has_least), kind),
        )

    def way_of(self, packed: CPacked) -> int:
        return int(self.kernels.best_way(ctypes.addressof(packed))) if self.may_round else EXACT

    def round_inputs(self) -> None:
        """Inputs may be rounded from now on, to 15 bits and a sign; those of bfloat16 are from the beginning."""
        self.may_round = True
        self.bind()

    @property
    def num_bytes(self) -> int:
        """That this holds."""
        return sum(part.numel() * part.element_size() for part in self.tensors.values())

    def arguments(self, hidden: int, chosen: int, weights: int, out: int, num_rows: int, top_k: int) -> CExpertsCall:
        """What `function` takes: addresses of a call's tensors, contiguous ones. `self` has to outlive it."""
        return CExpertsCall(hidden, chosen, weights, out, num_rows, top_k, ctypes.pointer(self.c_layer))

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts."""
        hidden, chosen, weights = hidden.contiguous(), chosen.contiguous(), weights.contiguous()
        found = out if out.is_contiguous() else torch.empty_like(hidden)
        addresses = (part.data_ptr() for part in (hidden, chosen, weights, found))
        self.kernels.compute_experts(ctypes.byref(self.arguments(*addresses, *chosen.shape)))
        if found is not out:
            out.copy_(found)

    def dense(self, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The numbers of one expert's matrices, [out, in] each, of what stands in the tensors."""
        up, down = plain_weights(self.form, {name: part[expert] for name, part in self.tensors.items()})
        return up.dense(), down.dense()


def bias_in_lanes(form: MatrixForm, bias: torch.Tensor) -> torch.Tensor:
    """[experts, out] -> float32 [experts, panels * PANEL]."""
    return F.pad(bias.float(), (0, 1)).index_select(-1, form.lanes()).contiguous()
