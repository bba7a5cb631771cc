"""The engine's configuration from the service's settings. The engine itself knows no settings: it is also a library."""

from common.settings import Settings
from worker.kernels.quantized import quantization_named
from worker.models.loader import EngineConfig

PRODUCTS_FILE, PACKED_FOLDER = "products.json", "packed"  # in OMNI_DATA_DIR


def engine_config(settings: Settings, num_ranks: int = 1) -> EngineConfig:
    """The configuration for OMNI_MODEL. Raises ValueError for an unknown quantization."""
    model = settings.model
    return EngineConfig(
        max_num_seqs=model.max_num_seqs,
        max_model_len=model.max_model_len,
        device=model.device,
        dtype=model.dtype,
        threads=model.threads,
        quantization=quantization_named(model.quantize),
        kv_dtype=model.kv_dtype,
        experts=model.experts,
        gpu_memory_utilization=model.gpu_memory_utilization,
        speculate=model.speculate,
        draft_model=model.draft_model,
        num_ranks=num_ranks,
        adapters=model.adapters,
        products_table=settings.redis.data_dir.resolve() / PRODUCTS_FILE,
        packed_folder=settings.redis.data_dir.resolve() / PACKED_FOLDER,
    )
