"""Builds the engine that OMNI_ENGINE names: the card from the model's folder, the rest from the server."""

import time
from dataclasses import replace
from typing import Any

from tokenizers import Tokenizer
from transformers import GenerationConfig

from common.settings import Settings
from worker.models.card import check_template, describe
from worker.models.gguf.model import gguf_model
from worker.models.read.config import read_config
from worker.models.read.tokenizer import read_tokenizer
from worker.progress import OnProgress
from worker.remote.client import Away, Served, VllmClient
from worker.remote.engine import RemoteEngine
from worker.sampling.grammar import GrammarCompiler

RETRY_S = 0.5
REPORT_S = 10.0


def connect_engine(settings: Settings, tell: OnProgress) -> RemoteEngine:
    """Raises OSError or ValueError when OMNI_MODEL has no tokenizer or configuration. Waits for the server."""
    tell("tokenizer", 0.0)
    tokenizer, model_config, generation_config = read(settings.model.source)
    card = describe(
        settings.model.source,
        settings.model.names,
        tokenizer,
        model_config,
        generation_config,
        settings.model.max_model_len,
    )
    check_template(settings.model.source, card)
    client = VllmClient(settings.model.engine_url, settings.model.engine_key)
    served = wait_for(client, tell)
    card = replace(card, max_model_len=min(card.max_model_len, served.max_model_len or card.max_model_len))
    compiler = GrammarCompiler(Tokenizer.from_str(card.tokenizer), card.eos_token_ids, card.vocab_size)
    return RemoteEngine(client, served, card, Tokenizer.from_str(card.tokenizer), compiler, settings.model.max_num_seqs)


def read(model: str) -> tuple[Any, Any, GenerationConfig]:
    """The tokenizer and configurations of a folder, hub id or GGUF file."""
    if (gguf := gguf_model(model)) is not None:
        return gguf.tokenizer(), gguf.config, gguf.generation_config
    config = read_config(model)
    try:
        generation = GenerationConfig.from_pretrained(model)
    except OSError:  # the file is optional
        generation = GenerationConfig.from_model_config(config)
    return read_tokenizer(model, config), config, generation


def wait_for(client: VllmClient, tell: OnProgress) -> Served:
    """Wait until the server answers; report the reason every REPORT_S."""
    reported_at = -REPORT_S
    while True:
        try:
            return client.served()
        except Away as error:
            if time.monotonic() - reported_at >= REPORT_S:
                tell(f"waiting for the engine at {client.url} ({error})", 0.5)
                reported_at = time.monotonic()
            time.sleep(RETRY_S)
