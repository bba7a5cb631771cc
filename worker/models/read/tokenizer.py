"""A model's tokenizer, also where only the model's own code reads its file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils import cached_file

from worker.models.read.tiktoken import NoPattern, pattern_in, ranks_in, tokenizer_of

WHOLE, TIKTOKEN = "tokenizer.json", "tiktoken.model"


def read_tokenizer(model_path: str, model_config: Any) -> Any:
    """No code of the model's is run. Raises OSError or ValueError."""
    own = get_tokenizer_config(model_path)
    code = code_of(own)
    if not code or file_in(model_path, WHOLE) or (ranks_file := file_in(model_path, TIKTOKEN)) is None:
        return AutoTokenizer.from_pretrained(model_path)
    if (code_file := file_in(model_path, code)) is None:
        raise ValueError(without(f"it has no {code}, which says how texts are cut for its {TIKTOKEN}; copy it there"))
    ranks = ranks_in(ranks_file)
    try:
        pattern = pattern_in(code_file)
    except NoPattern as fault:
        raise ValueError(without(str(fault))) from None
    added = added_tokens(
        own.get("added_tokens_decoder") or {}, range(len(ranks), model_config.get_text_config().vocab_size)
    )
    return MadeTokenizer.from_pretrained(model_path, tokenizer_object=tokenizer_of(ranks, pattern, added))


class MadeTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """One whose `tokenizer_object` is given; templates and names of tokens are read from the model's files."""

    @classmethod
    def convert_to_native_format(cls, **given: Any) -> dict[str, Any]:
        """Called by transformers, which would read the file of tokens its own way, without the model's expression."""
        return given


def code_of(own: Mapping[str, Any]) -> str:
    """The file of the code that a tokenizer_config.json names; empty if it names none."""
    places: Any = own.get("auto_map") or {}
    named = places.get("AutoTokenizer") if isinstance(places, Mapping) else places
    first = named if isinstance(named, str) else next(iter(named or ()), None)
    return f"{first.partition('.')[0]}.py" if first else ""


def without(fault: str) -> str:
    return f"{fault}, or save the tokenizer as {WHOLE}. The model's own code is not run."


def added_tokens(named: Mapping[str, Any], ids: range) -> dict[int, AddedToken]:
    """The tokens after those of the file, of which some have names in tokenizer_config.json."""
    added = {at: AddedToken(f"<|reserved_token_{at}|>", special=True, normalized=False) for at in ids}
    for at, token in named.items():
        is_special = bool(token.get("special", True))
        added[int(at)] = AddedToken(token["content"], special=is_special, normalized=False)
    return added


def file_in(model_path: str, name: str) -> Path | None:
    """A file of a folder or of a hub id, from which it is fetched; None if there is none."""
    found = cached_file(
        model_path,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)
