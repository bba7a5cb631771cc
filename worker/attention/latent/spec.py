"""The properties of a layer that attends over latents."""

from dataclasses import dataclass

from worker.attention.spec import AttentionSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentSpec(AttentionSpec):
    """How one layer attends. All its heads read the same vector of a token."""

    rank: int  # the first numbers of a latent, which are values too; the rest is a rotated key
    topk: int | None = None  # keys that a query attends to, chosen by their index keys; None: all of them
