"""Chooses what guesses the next tokens: the settings' draft model, the checkpoint's own heads, or prompt lookup."""

import logging
from dataclasses import replace

from worker.drafting.draft_model import load_draft_model
from worker.drafting.drafter import Drafter, Guesser
from worker.drafting.heads_eagle3 import load_eagle3
from worker.drafting.heads_mtp import load_mtp
from worker.drafting.lookup import PromptLookup
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners.base import Runner
from worker.runners.limits import Limits

logger = logging.getLogger(__name__)

USUAL_NUM_AHEAD = 5  # drafted tokens where a draft model is named and no number


class DraftFault(ValueError):
    """OMNI_DRAFT_MODEL cannot be used, because of `error`."""

    def __init__(self, draft_model: str, error: Exception) -> None:
        super().__init__(f"OMNI_DRAFT_MODEL={draft_model}: {error}")
        self.error = error


def with_usual_number(config: EngineConfig) -> EngineConfig:
    """The configuration with as many drafts as a draft model gets where no number is set."""
    return replace(config, speculate=USUAL_NUM_AHEAD) if config.draft_model and not config.speculate else config


def choose_guesser(loaded: LoadedModel, config: EngineConfig) -> Guesser | None:
    """Its weights are in place when this returns, so that the model's KV cache gets what memory is left.

    Raises DraftFault.
    """
    if not config.draft_model:
        head = load_mtp(loaded, config) if config.speculate and config.num_ranks == 1 else None
        return head or (PromptLookup() if config.speculate else None)
    try:
        if config.num_ranks > 1:  # before rank 0 alone opens a channel that the others never join
            raise ValueError("a draft model or head guesses for a model on one GPU only.")
        return load_eagle3(config.draft_model, loaded) or load_draft_model(loaded, config)
    except Exception as error:  # as for OMNI_MODEL: a model's own code may raise anything
        raise DraftFault(config.draft_model, error) from error


def drafter_with(guesser: Guesser | None, config: EngineConfig, runner: Runner, limits: Limits) -> Drafter:
    """A drafter for the model of this runner; one that drafts nothing if the runner cannot verify drafts."""
    if guesser is not None and not runner.takes_drafts:
        logger.warning("OMNI_SPECULATE and OMNI_DRAFT_MODEL have no effect: the model's runner cannot verify drafts")
        guesser = None
    if guesser is not None:
        guesser.attach(runner, limits)
    return Drafter(guesser, config.speculate)
