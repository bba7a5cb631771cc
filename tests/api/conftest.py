"""A model card with a byte-level tokenizer, made here, and the encoder for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from tokenizers import AddedToken, Tokenizer

from api.prompt.encoder import PromptEncoder
from common.wire import ModelCard
from tests.api.cards import SPECIAL, bytes_tokenizer
from tests.api.kept import Kept

ROOT = Path(__file__).resolve().parents[2]
CHATML = (ROOT / "demo" / "chat_template.jinja").read_text()
THINKING = CHATML + "{%- if enable_thinking is defined and not enable_thinking -%}<think>\n\n</think>\n\n{%- endif -%}"
MARKS = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # kept in the text, unlike special tokens


def chat_tokenizer() -> Tokenizer:
    tokenizer = bytes_tokenizer(*SPECIAL)
    tokenizer.add_tokens([AddedToken(token, special=False) for token in MARKS])
    return tokenizer


def card(tokenizer: Tokenizer, **changes: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "queue": "tiny",
        "names": ("tiny",),
        "root": "tiny",
        "revision": "1",
        "architecture": "llama",
        "max_model_len": 4096,
        "vocab_size": tokenizer.get_vocab_size(),
        "created": 0,
        "tokenizer": tokenizer.to_str(),
        "chat_template": CHATML,
        "eos_token_ids": (258,),
    }
    return ModelCard(**fields | changes)


@pytest.fixture(scope="session")
def encoder() -> PromptEncoder:
    """For a model with a ChatML template that writes calls in Hermes form."""
    return PromptEncoder(card(chat_tokenizer()))


@pytest.fixture(scope="session")
def encoder_of() -> Callable[..., PromptEncoder]:
    """As `encoder`, for a card with changed fields."""

    def make(**changes: Any) -> PromptEncoder:
        return PromptEncoder(card(chat_tokenizer(), **changes))

    return make


@pytest.fixture
def kept(redis: "Redis", valkey_url: str, tmp_path: Path, encoder: PromptEncoder) -> Kept:
    return Kept(redis, valkey_url, tmp_path, encoder)
