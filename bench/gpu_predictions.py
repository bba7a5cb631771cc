"""What bench.gpu is expected to measure, written down before it ran on a GPU, and the goals.

A decode step of the 8B Llama shape in bf16 reads 13.96 GB of layers, 1.05 GB of lm_head, and 131,072 bytes of keys and
values a token of context. Products reach 90 % of the memory bandwidth at one row and 80 to 82 % at 32, attention 70 to
80 %, and the six other kernels of a layer take 2.2 us each. Bandwidths are what such cards read: 2.95 and 4.15 TB/s.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

CARDS = ("H100", "H200")

# key -> on an H100, on an H200
PREDICTED: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "bandwidth/read GB/s": (2950, 4150),
        "bandwidth/copy GB/s": (2800, 3900),
        "step/1x1024/p50 ms": (6.2, 4.7),
        "step/8x1024/p50 ms": (6.7, 5.0),
        "step/32x1024/p50 ms": (8.6, 6.3),
        "step/64x1024/p50 ms": (10.5, 7.7),
        "step/64x1024/tokens/s": (6100, 8300),
        "step/1x32768/p50 ms": (8.0, 6.0),
        "step/32x8192/p50 ms": (21.0, 15.2),
        "kernels a layer/1": (10, 10),
        "kernels a layer/32": (10, 10),
        "first token/512/p50 ms": (18, 17),
        "throughput/1/tokens/s": (155, 200),
        "throughput/8/tokens/s": (1050, 1350),
        "throughput/32/tokens/s": (2900, 3500),
        "throughput/64/tokens/s": (3700, 4300),
        "throughput/256/tokens/s": (5200, 6300),
        "mixed/512/largest gap ms": (25, 23),
        "fp8/1/times as fast": (1.65, 1.6),
        "fp8/32/times as fast": (1.4, 1.35),
        "int8/1/times as fast": (1.65, 1.6),
        "int8/32/times as fast": (1.1, 1.1),
        "int4/1/times as fast": (2.3, 2.1),
        "int4/32/times as fast": (1.1, 1.1),
        "fp8 kv/32x8192/times as fast": (1.45, 1.4),
        "draft/1/times as fast": (2.5, 2.4),
        "start/all s": (45, 45),
    }
)


def card_named(name: str) -> str:
    """ "NVIDIA H100 80GB HBM3" -> "H100"; other names stay as they are."""
    return next((card for card in CARDS if card in name), name)


def predicted(key: str, card: str) -> float | None:
    return PREDICTED[key][CARDS.index(card)] if key in PREDICTED and card in CARDS else None


@dataclass(frozen=True)
class Goal:
    """A bound for each card of CARDS, by the issue that asked for it."""

    key: str
    bounds: tuple[float, float]
    is_least: bool = False  # the bound is the least, not the most

    def judged(self, measured: float | None, card: str) -> tuple[str, str, object, str]:
        """A row: what, the goal, the measured number, the verdict."""
        bound = self.bounds[CARDS.index(card)] if card in CARDS else self.bounds[0]
        asked = f"{'>=' if self.is_least else '<='} {bound:g}"
        if measured is None:
            return self.key, asked, "", "not measured"
        if card not in CARDS:
            return self.key, asked, measured, "another device"
        holds = measured >= bound if self.is_least else measured <= bound
        return self.key, asked, measured, "pass" if holds else "MISS"


GOALS = (
    Goal("step/1x1024/p50 ms", (6.3, 4.7)),
    Goal("step/32x1024/p50 ms", (9.8, 7.3)),
    Goal("step/64x1024/tokens/s", (5000, 5000), is_least=True),
    Goal("first token/512/p50 ms", (40, 40)),
    Goal("kernels a layer/1", (10, 10)),
    Goal("fp8/1/times as fast", (1.5, 1.5), is_least=True),
    Goal("draft/1/times as fast", (2, 2), is_least=True),
    Goal("tokens/float32/equal share", (1, 1), is_least=True),
    Goal("tokens/bfloat16/gap", (0.15, 0.15)),
)
