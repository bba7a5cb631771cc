"""What the API must know of a model to encode prompts for it, read from the model's folder without its weights."""

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from common.model.template_syntax import syntax_fault
from common.wire import ModelCard
from worker.models.config_numbers import USUAL_LENGTH, longest_sequence


def describe(
    model_path: str,
    names: tuple[str, ...],
    tokenizer: Any,
    model_config: Any,
    generation_config: Any,
    max_model_len: int | None,
) -> ModelCard:
    """The card of a model served under `names`. `max_model_len` may only shorten what the model can do, if it says."""
    text_config = model_config.get_text_config()
    longest = longest_sequence(text_config)
    return ModelCard(
        queue=names[0],
        names=names,
        root=shown_name(model_path),
        revision=revision_of(model_path, model_config),
        architecture=model_config.model_type,
        max_model_len=min(max_model_len or longest or USUAL_LENGTH, longest or 2**62),
        vocab_size=text_config.vocab_size,
        created=int(time.time()),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        special_tokens={
            name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)
        },
        eos_token_ids=eos_token_ids(model_config, generation_config, tokenizer),
    )


def check_template(model_path: str, card: ModelCard) -> None:
    """Raises ValueError where every chat would fail, whatever its messages."""
    if card.chat_template and (fault := syntax_fault(card.chat_template)):
        raise ValueError(f"its {template_file(model_path)} has a syntax error ({fault}). Correct it, or copy it again.")


def template_file(model_path: str) -> str:
    """Where a model keeps its chat template: of these the first that it has."""
    has_file = partial(
        cached_file,
        model_path,
        local_files_only=True,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    for name in ("chat_template.jinja", "chat_template.json"):
        if has_file(name):
            return name
    return "tokenizer_config.json"


def shown_name(model_path: str) -> str:
    """What callers see of where the weights are: a hub id, or the end of a folder's path, never all of it."""
    path = Path(model_path)
    return "/".join(path.resolve().parts[-2:]) if path.is_dir() else model_path


def eos_token_ids(model_config: Any, generation_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that the model's authors name as an end, sorted."""
    text_config = model_config.get_text_config()
    named = [generation_config.eos_token_id, getattr(text_config, "eos_token_id", None), tokenizer.eos_token_id]
    ids: set[int] = set()
    for value in named:
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return tuple(sorted(ids))


def revision_of(model_path: str, model_config: Any) -> str:
    """The hub's commit, or for a local folder a hash that changes when its files do (weights by size and time)."""
    if (commit := getattr(model_config, "_commit_hash", None)) is not None:
        return str(commit)
    digest = hashlib.sha256()
    for path in sorted(Path(model_path).glob("*")):
        if path.suffix == ".json":
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:12]
