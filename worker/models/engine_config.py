"""From the operator's settings to what the engine is told."""

from common.settings import Settings
from worker.models.loader import EngineConfig


def engine_config(settings: Settings, num_ranks: int = 1) -> EngineConfig:
    return EngineConfig(
        max_num_seqs=settings.max_num_seqs,
        max_model_len=settings.max_model_len,
        max_step_tokens=settings.max_step_tokens,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        quantize=settings.quantize or None,
        speculate=settings.speculate,
        overlap=settings.overlap,
        num_ranks=num_ranks,
    )
