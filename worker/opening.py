"""Opens an engine: on weights that are kept where there are any, else from the model's files."""

import logging
from contextlib import nullcontext
from dataclasses import replace

from worker.engine.engine import Engine
from worker.gpu_memory.arena import arena_of
from worker.kept.keep import Keep
from worker.kernels.heap import freed_memory_returned
from worker.models.kept.key import kept_name
from worker.models.kept.state import KeptFault
from worker.models.loader import EngineConfig, LoadedModel, load
from worker.progress import KERNELS, OnProgress
from worker.sampling.grammar import GrammarCompiler

logger = logging.getLogger("omni.worker")


def open_engine(
    source: str,
    names: tuple[str, ...],
    config: EngineConfig,
    on_progress: OnProgress,
    keep: Keep | None,
    *,
    may_sleep: bool = False,
) -> Engine:
    """An engine for this folder or hub id, still to be warmed up. Raises what load() and Engine() raise.

    `may_sleep`: on a GPU, it can leave it for a while (AnyEngine.sleep).
    """
    try:
        loaded = load(source, names, config, on_progress, keep)
        if may_sleep:
            loaded = replace(loaded, arena=arena_of(loaded.device))
        return engine_of(loaded, config, on_progress)
    except KeptFault as fault:
        name = kept_name(source, config)
        assert keep is not None and name is not None
        logger.warning("%s is loaded anew: %s", source, fault)
        keep.drop(name)
    return engine_of(load(source, names, config, on_progress), config, on_progress)


def engine_of(loaded: LoadedModel, config: EngineConfig, on_progress: OnProgress) -> Engine:
    on_progress("kernels", KERNELS)
    compiler = GrammarCompiler(loaded.tokenizer, loaded.card.eos_token_ids, loaded.card.vocab_size)
    is_moved = loaded.kept is not None and loaded.kept.found is None
    with freed_memory_returned() if is_moved else nullcontext():  # or weights would take their memory twice
        return Engine(loaded, config, compiler)
