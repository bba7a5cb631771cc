"""The ways to run a model's ragged steps on a device, fastest first; the probe decides which of them are right."""

import logging
from itertools import product

import torch

from worker.attention.latent.attention import LatentAttention
from worker.attention.paged import PagedAttention
from worker.kernels.available import has_triton, why_no_triton
from worker.models.loader import EngineConfig
from worker.runners.base import AttentionMaker, ModelRunner, RecordedSteps
from worker.runners.decoder import DecoderRunner
from worker.runners.latent.native import NativeLatentRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.native_decoder import NativeDecoderRunner

logger = logging.getLogger(__name__)


def candidates(device: torch.device, *, over_latents: bool = False) -> list[tuple[type[ModelRunner], AttentionMaker]]:
    """Runners and the attention that they run with, for a model that attends over latents or for another."""
    if over_latents:
        return latent_candidates(device)
    if device.type != "cuda":
        return [(runner, PagedAttention) for runner in (NativeDecoderRunner, DecoderRunner, ModelRunner)]
    makers = attention_makers(device)
    found = list(product((DecoderRunner, ModelRunner), makers))
    if uses_kernels(device):
        from worker.runners.triton_decoder import TritonDecoderRunner

        found.insert(0, (TritonDecoderRunner, makers[0]))
    return sorted(found, key=lambda way: way[1] is PagedAttention)


def latent_candidates(device: torch.device) -> list[tuple[type[ModelRunner], AttentionMaker]]:
    """As candidates(), for a model that attends over latents."""
    by_torch: AttentionMaker = LatentAttention
    found: list[tuple[type[ModelRunner], AttentionMaker]] = [(LatentRunner, by_torch)]
    if device.type == "cpu":
        found.insert(0, (NativeLatentRunner, by_torch))
    if uses_kernels(device):
        from worker.attention.latent.kernel import KernelLatentAttention
        from worker.runners.latent.triton import TritonLatentRunner

        found.insert(0, (TritonLatentRunner, KernelLatentAttention.of_rows))
    return found


def attention_makers(device: torch.device) -> list[AttentionMaker]:
    """The kinds of attention to try."""
    if not uses_kernels(device):
        return [PagedAttention]
    from worker.attention.kernel import KernelAttention

    return [KernelAttention.of_rows, PagedAttention]


def uses_kernels(device: torch.device) -> bool:
    """True if our Triton kernels can be tried."""
    return device.type == "cuda" and has_triton()


def warn_without_triton(device: torch.device) -> None:
    """Log that a GPU is used without our kernels."""
    if device.type == "cuda" and (reason := why_no_triton()):
        logger.warning(
            "Triton does not run, so torch's own operators run the model, slowly and without recorded steps: %s", reason
        )


def new_recordings(
    runner: ModelRunner, config: EngineConfig, max_step_tokens: int, most: float
) -> RecordedSteps | None:
    """Recorded steps for a runner on a GPU whose attention can be recorded. `most`: see Recordings."""
    device = runner.kv_cache.keys[0].device
    if (
        not uses_kernels(device)
        or runner.attend_with in (PagedAttention, LatentAttention)
        or not runner.can_be_recorded
    ):
        return None
    from worker.runners.recorded.recordings import Recordings

    return Recordings(config.speculate, max_step_tokens, most)
