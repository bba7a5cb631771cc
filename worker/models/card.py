"""The model card: what the API needs to encode prompts for a model. Made from the model's files, not its weights."""

import hashlib
import time
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from common.model.template_syntax import syntax_fault
from common.wire import ModelCard
from worker.models.config_fields import USUAL_LENGTH, longest_sequence


def describe(
    model_path: str,
    names: tuple[str, ...],
    tokenizer: Any,
    model_config: Any,
    generation_config: Any,
    max_model_len: int | None,
) -> ModelCard:
    """The card of a model served under `names`. `max_model_len` may be shorter than its config's length."""
    text_config = model_config.get_text_config()
    longest = longest_sequence(text_config)
    default, with_tools = templates_of(tokenizer.chat_template)
    return ModelCard(
        queue=names[0],
        names=names,
        root=shown_name(model_path),
        revision=revision_of(model_path),
        architecture=model_config.model_type,
        max_model_len=min(max_model_len or longest or USUAL_LENGTH, longest or 2**62),
        vocab_size=text_config.vocab_size,
        created=int(time.time()),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        chat_template=default,
        tool_chat_template=with_tools,
        special_tokens={
            name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)
        },
        eos_token_ids=eos_token_ids(model_config, generation_config, tokenizer),
    )


def templates_of(templates: Any) -> tuple[str | None, str | None]:
    """The chat template, and that for conversations with tools: of several named ones those that transformers takes."""
    if not isinstance(templates, dict):
        return templates, None
    with_tools = templates.get("tool_use")
    return templates.get("default", with_tools), with_tools


def check_template(model_path: str, card: ModelCard) -> None:
    """Raises ValueError for a chat template with a syntax error, which would fail every chat."""
    for template, is_for_tools in ((card.chat_template, False), (card.tool_chat_template, True)):
        if template and (fault := syntax_fault(template)):
            file = template_file(model_path, is_for_tools=is_for_tools)
            raise ValueError(f"its {file} has a syntax error ({fault}). Correct it, or copy it again.")


def template_file(model_path: str, *, is_for_tools: bool = False) -> str:
    """The file that a model's chat template is read from: the first of these that the model has."""
    files = ("additional_chat_templates/tool_use.jinja",) if is_for_tools else ("chat_template.jinja",)
    for name in (*files, "chat_template.json"):
        if local_file(model_path, name) is not None:
            return name
    return "tokenizer_config.json"


def local_file(model_path: str, name: str) -> Path | None:
    """A file of the model's folder, or of its place in the hub's cache; None if it is not there."""
    if Path(model_path).is_dir():
        path = Path(model_path) / name
        return path if path.is_file() else None
    cached = try_to_load_from_cache(model_path, name)
    return Path(cached) if isinstance(cached, str) else None


def shown_name(model_path: str) -> str:
    """The name of the weights that callers see: a hub id, or the last two parts of a folder's path."""
    path = Path(model_path)
    return "/".join(path.resolve().parts[-2:]) if path.is_dir() else model_path


def eos_token_ids(model_config: Any, generation_config: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every end token id that the model's files name, sorted."""
    text_config = model_config.get_text_config()
    named = [generation_config.eos_token_id, getattr(text_config, "eos_token_id", None), tokenizer.eos_token_id]
    ids: set[int] = set()
    for value in named:
        ids.update(value if isinstance(value, list | tuple) else [] if value is None else [value])
    return tuple(sorted(ids))


def revision_of(model_path: str) -> str:
    """The hub's commit; for a folder a hash that changes when its files do (weights by size and time)."""
    if not Path(model_path).is_dir() and (config := local_file(model_path, "config.json")) is not None:
        return config.parent.name  # the hub's cache has a folder for each commit
    digest = hashlib.sha256()
    for path in sorted([*Path(model_path).glob("*"), *Path(model_path).glob("additional_chat_templates/*")]):
        if path.suffix in (".json", ".jinja"):
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin"):
            digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:12]
