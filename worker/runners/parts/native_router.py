"""The choice of experts by our C kernel."""

import ctypes
from typing import Any

import torch

from worker.kernels.linear import PlainLinear
from worker.runners.parts.routers import LEAST_SUM, Router

MAX_GROUPS = 64  # of worker/kernels/router.c


class NativeRouter:
    """As the Router that it is made of."""

    def __init__(self, router: Router, kernels: ctypes.CDLL) -> None:
        self.logits: Any = router.logits
        self.router, self.kernels = router, kernels
        self.weight = router.logits.weight.contiguous()  # type: ignore[attr-defined]
        bias = router.logits.bias  # type: ignore[attr-defined]
        self.bias = None if bias is None else bias.float().contiguous()
        self.address = None if self.bias is None else self.bias.data_ptr()
        self.correction = None if router.correction is None else router.correction.data_ptr()

    def __call__(self, normed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Router."""
        router, weight = self.router, self.weight
        num_tokens, top_k, (num_experts, width) = len(normed), router.top_k, weight.shape
        logits = normed.new_empty(num_tokens, num_experts, dtype=torch.float32)
        chosen = normed.new_empty(num_tokens, top_k, dtype=torch.int64)
        weights = normed.new_empty(num_tokens, top_k, dtype=torch.float32)
        self.kernels.route(
            normed.data_ptr(), weight.data_ptr(), self.address, self.correction, logits.data_ptr(), chosen.data_ptr(),
            weights.data_ptr(), num_tokens, width, num_experts, top_k, weight.dtype == torch.float32,
            router.scores == "sigmoid", router.renormalizes, router.num_groups, router.num_chosen_groups,
            router.num_best, router.scaling, LEAST_SUM,
        )  # fmt: skip
        return chosen, weights


def native_router(router: Router | NativeRouter, kernels: ctypes.CDLL, dtype: torch.dtype) -> Router | NativeRouter:
    """The same choice by the kernel where it computes such: with logits in the runner's dtype or float32."""
    linear = router.logits
    if isinstance(router, NativeRouter):
        return router
    can = (
        isinstance(linear, PlainLinear)
        and router.num_groups <= MAX_GROUPS
        and linear.weight.shape[1] % 16 == 0
        and linear.weight.dtype in (dtype, torch.float32)
        and router.top_k <= len(linear.weight)  # torch refuses more by a sentence
    )
    return NativeRouter(router, kernels) if can else router
