"""A GGUF file's tokenizer and chat templates, for transformers."""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from common.model.gguf_header import GgufHeader

logger = logging.getLogger(__name__)

PREFIX = "tokenizer."
TEMPLATE = "tokenizer.chat_template"
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # values of tokenizer.ggml.model
SPECIAL = MappingProxyType({"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"})
# How texts are cut before merges (tokenizer.ggml.pre), beside those that transformers knows; the first as GPT-2 does.
AS_GPT2 = frozenset({"default", "gpt-2", "gpt2", "mpt", "olmo", "phi-2", "jais", "trillion", "exaone4"})
SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
SPLITS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
        "deepseek-v3": (
            r"\p{N}{1,3}",
            "[一-龥぀-ゟ゠-ヿ]+",
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
    }
)


def tokenizer_of(header: GgufHeader) -> Any:
    """transformers' tokenizer. Raises ValueError for a kind that is not read."""
    from transformers.integrations.gguf import GGUF_TOKENIZER_MAPPING, convert_gguf_tokenizer  # not in 5.17

    metadata = header.metadata
    parts = {
        name: metadata[f"{PREFIX}{key}"]
        for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items()
        if f"{PREFIX}{key}" in metadata
    }
    kind = parts.get("tokenizer_type")
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise ValueError(
            f"the tokenizer in {header.path.name} is of kind {kind!r}, and {BYTE_LEVEL!r} and {SENTENCEPIECE!r} are "
            "read. Use the model's safetensors."
        )
    backend, _ = convert_gguf_tokenizer(header.architecture, parts)
    if kind == BYTE_LEVEL:
        split_as(backend, parts.get("pre_tokenizer_type", "default"))
    elif parts.get("add_prefix_space") is False and header.architecture != "gemma":
        without_prefix_space(backend)
    tokens = parts["tokens"]
    ids = {name: metadata.get(f"{PREFIX}ggml.{key}_token_id") for name, key in SPECIAL.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=templates_of(metadata),
        add_bos_token=metadata.get(f"{PREFIX}ggml.add_bos_token", kind == SENTENCEPIECE),
        add_eos_token=metadata.get(f"{PREFIX}ggml.add_eos_token", False),
        **{f"{name}_token": tokens[index] for name, index in ids.items() if index is not None},
    )


def templates_of(metadata: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template, or all of them by name where there are several."""
    named = {
        key.removeprefix(f"{TEMPLATE}."): value for key, value in metadata.items() if key.startswith(f"{TEMPLATE}.")
    }
    template = metadata.get(TEMPLATE)
    return {"default": template, **named} if named and template else template


def split_as(backend: Tokenizer, name: str) -> None:
    """Cut texts in a byte-level vocabulary as its merges were learned."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=name not in SPLITS)
    if name in SINGLE_DIGITS:
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    elif name in SPLITS:
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITS[name]]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, byte_level])
    elif name not in AS_GPT2 and name not in GGUF_PRE_TOKENIZER_SPLITS:
        logger.warning("texts are cut as GPT-2 does it: the file's way, %r, is not known; answers may be worse", name)


def without_prefix_space(backend: Tokenizer) -> None:
    """For a SentencePiece vocabulary whose texts do not begin with a space."""
    if isinstance(backend.pre_tokenizer, pre_tokenizers.Metaspace):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
