"""The properties of a layer that attends over latents."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatentSpec:
    """How one layer attends. All its heads read the same vector of a token."""

    scale: float
    rank: int  # the first numbers of a latent, which are values too; the rest is a rotated key
    topk: int | None = None  # keys that a query attends to, chosen by their index keys; None: all of them
