"""Chooses what guesses the next tokens: the settings' draft model, the checkpoint's own heads, or prompt lookup."""

import logging

from worker.drafting.drafter import Drafter, Guesser
from worker.drafting.lookup import PromptLookup
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners.base import Runner
from worker.runners.limits import Limits

logger = logging.getLogger(__name__)

USUAL_NUM_AHEAD = 5  # drafted tokens where a draft model is named and no number


def num_drafted(config: EngineConfig) -> int:
    """The most tokens drafted for a sequence and step; 0: none."""
    return config.speculate or (USUAL_NUM_AHEAD if config.draft_model else 0)


def choose_guesser(loaded: LoadedModel, config: EngineConfig) -> Guesser | None:
    """Its weights are in place when this returns, so that the model's KV cache gets what memory is left.

    Raises ValueError for a draft model that does not fit the model.
    """
    return PromptLookup() if num_drafted(config) else None


def drafter_with(guesser: Guesser | None, config: EngineConfig, runner: Runner, limits: Limits) -> Drafter:
    """A drafter for the model of this runner; one that drafts nothing if the runner cannot verify drafts."""
    if guesser is not None and not runner.takes_drafts:
        logger.warning("OMNI_SPECULATE and OMNI_DRAFT_MODEL have no effect: the model's runner cannot verify drafts")
        guesser = None
    if guesser is not None:
        guesser.attach(runner, limits)
    return Drafter(guesser, num_drafted(config))
