"""The choice of experts for each token, and the weights of those that are chosen."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from worker.kernels.linear import Linear, PlainLinear, dense_linear, has_kernels
from worker.runners.probe import Unsupported

LEAST_SUM = 1e-20  # of chosen scores that are divided by their sum


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """Scores are made of logits; the best experts are chosen, of the best groups where there are groups."""

    logits: Linear  # [T, width] -> [T, experts]
    top_k: int
    scores: Literal["softmax", "sigmoid"]
    renormalizes: bool = True  # the scores of a token's experts, so that they add up to 1
    scaling: float = 1.0
    correction: torch.Tensor | None = None  # [experts] float32: added to scores, for the choice alone
    num_groups: int = 1  # of neighbouring experts
    num_chosen_groups: int = 1
    group_scores: Literal["largest", "two largest"] = "largest"
    in_float32: bool = False  # inputs of `logits` are float32

    def __call__(self, normed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, width] -> the experts of each token, [T, top_k] int64, and their weights, float32."""
        logits = self.logits(normed.float() if self.in_float32 else normed)
        return self.by_kernel(logits) if has_kernels(logits.device) else self.by_torch(logits.float())

    @property
    def num_best(self) -> int:
        """Experts of a group whose scores are the group's."""
        return 1 if self.group_scores == "largest" else 2

    def by_kernel(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As a call, from logits [T, experts], in one launch."""
        from worker.kernels.gpu.experts.routing import route

        return route(
            logits, self.top_k, by_sigmoid=self.scores == "sigmoid", correction=self.correction,
            num_groups=self.num_groups, num_chosen_groups=self.num_chosen_groups,
            num_best=self.num_best, renormalizes=self.renormalizes, scaling=self.scaling,
            least_sum=LEAST_SUM,
        )  # fmt: skip

    def by_torch(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As a call, from logits [T, experts] in float32."""
        scores = logits.softmax(dim=-1) if self.scores == "softmax" else logits.sigmoid()
        preferred = scores if self.correction is None else scores + self.correction
        if self.num_chosen_groups < self.num_groups:
            preferred = self._of_chosen_groups(preferred)
        found, chosen = preferred.topk(self.top_k, dim=-1)
        weights = found if self.correction is None else scores.gather(1, chosen)
        if self.renormalizes:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + LEAST_SUM)
        return chosen, weights if self.scaling == 1 else weights * self.scaling

    def _of_chosen_groups(self, preferred: torch.Tensor) -> torch.Tensor:
        """Scores [T, experts], those of other groups -inf."""
        num_tokens, num_experts = preferred.shape
        groups = preferred.view(num_tokens, self.num_groups, num_experts // self.num_groups)
        of_groups = groups.topk(self.num_best, dim=-1).values.sum(dim=-1)
        chosen = of_groups.topk(self.num_chosen_groups, dim=-1).indices
        is_out = torch.ones_like(of_groups, dtype=torch.bool).scatter_(1, chosen, False)
        return groups.masked_fill(is_out[..., None], float("-inf")).flatten(1)


def router_of(module: Any) -> Router:
    """Raises Unsupported for a module without the parts of a router. The probe tells whether it computes the same."""
    weight, top_k = getattr(module, "weight", None), getattr(module, "top_k", None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or not isinstance(top_k, int):
        raise Unsupported(f"{type(module).__name__} is no router of experts")
    correction, method = getattr(module, "e_score_correction_bias", None), getattr(module, "topk_method", None)
    in_float32 = correction is not None or method is not None or weight.dtype == torch.float32
    has_groups = correction is not None or method == "group_limited_greedy"
    weight, bias = weight.detach(), getattr(module, "bias", None)
    return Router(
        PlainLinear(weight.float(), bias) if in_float32 else dense_linear(weight, bias),
        top_k,
        scores="softmax" if correction is None else "sigmoid",
        renormalizes=method is None and bool(getattr(module, "norm_topk_prob", True)),
        scaling=float(getattr(module, "routed_scaling_factor", 1.0)),
        correction=None if correction is None else correction.detach().float(),
        num_groups=int(getattr(module, "num_group", None) or 1) if has_groups else 1,
        num_chosen_groups=int(getattr(module, "topk_group", None) or 1) if has_groups else 1,
        group_scores="largest" if correction is None else "two largest",
        in_float32=in_float32,
    )
