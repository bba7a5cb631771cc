"""The model card: what the API needs to encode prompts for a model. Made from the model's files, not its weights."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from common.model.folder import CONFIG, size_of_weights
from common.model.gguf_files import gguf_files
from common.model.template_syntax import syntax_fault
from common.wire import ModelCard
from worker.models.config_fields import USUAL_LENGTH, longest_sequence
from worker.models.formats.packing import method_of, packing_of
from worker.models.model_files import file_of

TYPE_NAMES = MappingProxyType({torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"})


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
    default, with_tools = templates_of(tokenizer.chat_template)
    return ModelCard(
        queue=names[0],
        names=names,
        root=shown_name(model_path),
        revision=revision_of(model_path),
        architecture=model_config.model_type,
        max_model_len=context_of(model_config, max_model_len),
        vocab_size=text_config.vocab_size,
        created=int(time.time()),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        chat_template=default,
        tool_chat_template=with_tools,
        special_tokens={
            name: str(token) for name, token in tokenizer.special_tokens_map.items() if not isinstance(token, list)
        },
        eos_token_ids=eos_token_ids(model_config, generation_config, tokenizer),
        **weights_fields(model_path, model_config),
    )


def context_of(model_config: Any, max_model_len: int | None) -> int:
    """Tokens of prompt and completion: as set, but never more than the config names."""
    longest = longest_sequence(model_config.get_text_config())
    return min(max_model_len or longest or USUAL_LENGTH, longest or 2**62)


def weights_fields(model_path: str, model_config: Any) -> dict[str, Any]:
    """The card's fields of the weights' files, as far as the files here tell."""
    config = file_of(model_path, CONFIG)
    folder = str(config.parent) if config else model_path
    packing = packing_of(folder, model_config) if Path(folder).exists() else None
    return {
        "file_format": "gguf" if gguf_files(folder) else "safetensors",
        "packing": TYPE_NAMES.get(model_config.dtype, "") if packing is None else packing_name(packing),
        "file_bytes": size_of_weights(folder),
    }


def packing_name(packing: Mapping[str, Any]) -> str:
    """Such as Q4_K_M, GPTQ, FP8."""
    return str(packing.get("file_type") or method_of(packing).upper())


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
    if files := gguf_files(model_path):
        return files[0].name
    names = ("additional_chat_templates/tool_use.jinja",) if is_for_tools else ("chat_template.jinja",)
    for name in (*names, "chat_template.json"):
        if file_of(model_path, name) is not None:
            return name
    return "tokenizer_config.json"


def shown_name(model_path: str) -> str:
    """The name of the weights that callers see: a hub id, a file's name, or the last two parts of a folder's path."""
    path = Path(model_path)
    if path.is_file():
        return path.name
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
    """The hub's commit; for a folder or file a hash that changes with its files (weights by size and time)."""
    if not Path(model_path).exists() and (config := file_of(model_path, "config.json")) is not None:
        return config.parent.name  # the hub's cache has a folder for each commit
    digest = hashlib.sha256()
    for path in gguf_files(model_path):
        digest.update(size_and_time(path))
    for path in sorted([*Path(model_path).glob("*"), *Path(model_path).glob("additional_chat_templates/*")]):
        if path.suffix in (".json", ".jinja"):
            digest.update(path.read_bytes())
        elif path.suffix in (".safetensors", ".bin", ".model", ".py"):
            digest.update(size_and_time(path))
    return digest.hexdigest()[:12]


def size_and_time(path: Path) -> bytes:
    return f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode()
