"""Checks of what a program passes to the library: sampling, prompts, conversations. The API has checks of its own.

All raise TypeError or ValueError that names the argument or field, before anything is queued.
"""

import secrets
from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import fields, replace
from numbers import Integral
from reprlib import repr as shown
from types import MappingProxyType
from typing import Any

from common.wire import GREEDY_BELOW, SamplingParams
from worker.models.config_checks import Numbers

USUAL_MAX_TOKENS = 256
NUM_SEEDS = 2**63
SAMPLING_FIELDS = tuple(field.name for field in fields(SamplingParams))
NUMBERS: Mapping[str, Numbers] = MappingProxyType(
    {
        "max_tokens": Numbers(1),
        "seed": Numbers(-NUM_SEEDS, 2 * NUM_SEEDS - 1),
        "temperature": Numbers(0, 2, is_whole=False),
        "top_p": Numbers(0, 1, is_whole=False, is_above=True),
        "top_k": Numbers(-1, 1_000_000),  # 0 and -1: all tokens
        "min_p": Numbers(0, 1, is_whole=False),
        "presence_penalty": Numbers(-2, 2, is_whole=False),
        "frequency_penalty": Numbers(-2, 2, is_whole=False),
        "repetition_penalty": Numbers(0.01, 10, is_whole=False),
        "min_tokens": Numbers(0),
        "logprobs": Numbers(0, 20, may_be_none=True),
        "n": Numbers(1),
    }
)
BIAS = Numbers(-100, 100, is_whole=False)
FLAGS = ("ignore_eos", "skip_special_tokens")
NOT_TEXT = ("image", "audio", "video")  # in the type of a message's part


def checked_sampling(given: Any, vocab_size: int) -> SamplingParams:
    """Parameters from SamplingParams or a mapping of its fields; None: the usual ones, with a seed by chance."""
    if given is None or isinstance(given, Mapping):
        given = sampling_of(given or {})
    if not isinstance(given, SamplingParams):
        raise TypeError(f"sampling={shown(given)}: it must be SamplingParams, a mapping of its fields or None.")
    changes = {
        name: allowed.checked(f"SamplingParams.{name}", getattr(given, name)) for name, allowed in NUMBERS.items()
    }
    for name in FLAGS:
        if not isinstance(getattr(given, name), bool):
            raise TypeError(f"SamplingParams.{name}={shown(getattr(given, name))}: it must be True or False.")
    if given.grammar is not None:
        checked_text("SamplingParams.grammar", given.grammar)
    changes["seed"] %= NUM_SEEDS
    changes["top_k"] = max(changes["top_k"], 0)
    if changes["temperature"] < GREEDY_BELOW:
        changes["temperature"] = 0.0
    changes["stop"] = stop_strings(given.stop)
    ids = Numbers(0, vocab_size - 1)
    name = "SamplingParams.stop_token_ids"
    changes["stop_token_ids"] = tuple(ids.checked(name, token) for token in items_of(name, given.stop_token_ids))
    changes["logit_bias"] = biases(given.logit_bias, ids)
    return replace(given, **changes)


def sampling_of(values: Mapping[str, Any]) -> SamplingParams:
    """None in a field: its default."""
    if unknown := [name for name in values if name not in SAMPLING_FIELDS]:
        raise TypeError(f"SamplingParams has no field {shown(unknown[0])}; it has {', '.join(SAMPLING_FIELDS)}.")
    usual = {"max_tokens": USUAL_MAX_TOKENS, "seed": secrets.randbits(63)}
    return SamplingParams(**(usual | {name: value for name, value in values.items() if value is not None}))


def stop_strings(stop: Any) -> tuple[str, ...]:
    """One text is one stop string, as in OpenAI's API, and not one for each of its letters."""
    name = "SamplingParams.stop"
    texts = [stop] if isinstance(stop, str) else items_of(name, stop)
    if any(text == "" for text in texts):
        raise ValueError(f"{name}={shown(stop)}: a stop string must not be empty.")
    return tuple(checked_text(name, text) for text in texts)


def biases(given: Any, ids: Numbers) -> tuple[tuple[int, float], ...]:
    """Pairs of a token id and a bias, also from a mapping as in OpenAI's API, whose ids may be text."""
    name = "SamplingParams.logit_bias"
    pairs = list(given.items()) if isinstance(given, Mapping) else items_of(name, given)
    if any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        raise TypeError(f"{name}={shown(given)}: it must hold pairs of a token id and a number.")
    return tuple((ids.checked(name, whole(token)), BIAS.checked(name, bias)) for token, bias in pairs)


def whole(token: Any) -> Any:
    is_digits = isinstance(token, str) and token.isascii() and token.isdigit() and len(token) <= 9
    return int(token) if is_digits else token


def items_of(name: str, value: Any) -> list[Any]:
    """A list of what can be iterated, but for text, bytes and mappings, whose items are not what was meant."""
    if isinstance(value, str | bytes | bytearray | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={shown(value)}: it must be a list or a tuple.")
    return list(value)


def checked_text(name: str, text: Any) -> str:
    """Raises TypeError for what is no str, and ValueError for one that is not Unicode text."""
    if not isinstance(text, str):
        raise TypeError(f"{name}={shown(text)}: it must be a text.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name}: character {error.start} is half of a surrogate pair, which is no text.") from None
    return text


def checked_list(name: str, one: str, given: Any) -> list[Any]:
    """The list of prompts or conversations, also from a generator. `one`: what to write for a single one."""
    if isinstance(given, str | bytes | bytearray | Mapping) or not isinstance(given, Iterable):
        raise TypeError(f"`{name}` is a list: write [{one}].")
    return list(given)


def checked_prompt(place: int, prompt: Any) -> str | tuple[int, ...]:
    """A text, or token ids; the engine checks that they are of the vocabulary."""
    name = f"prompts[{place}]"
    if isinstance(prompt, str):
        return checked_text(name, prompt)
    if isinstance(prompt, bytes | bytearray | Mapping) or not isinstance(prompt, Iterable):
        raise TypeError(
            f"{name} is {shown(prompt)}: a prompt is a text or a list of token ids; a single one: [prompt]."
        )
    ids = token_list(prompt)
    if any(isinstance(token, bool) or not isinstance(token, Integral) for token in ids):
        raise TypeError(f"{name} is {shown(ids)}: token ids are whole numbers.")
    return tuple(int(token) for token in ids)


def token_list(prompt: Iterable[Any]) -> list[Any]:
    """Ids of a list, or of an array or tensor of them."""
    return list(prompt.tolist() if hasattr(prompt, "tolist") else prompt)


def checked_each(sampling: Any, num_prompts: int) -> list[Any]:
    """What each prompt's parameters are made from."""
    if sampling is None or isinstance(sampling, SamplingParams | Mapping):
        return [sampling] * num_prompts
    each = items_of("sampling", sampling)
    if len(each) != num_prompts:
        raise ValueError(
            f"`sampling` has {len(each)} entries for {num_prompts} prompts; give one for each, or one for all."
        )
    return each


def checked_messages(name: str, messages: Any) -> list[dict[str, Any]]:
    """A conversation. The library gives the model no images: parts that are not text would be lost without a word."""
    if isinstance(messages, str | bytes | bytearray | Mapping) or not isinstance(messages, Iterable):
        hint = "" if name == "messages" else "; a single one: [messages]"
        raise TypeError(f"{name} is {shown(messages)}: a conversation is a list of messages{hint}.")
    listed = list(messages)
    for message in listed:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise TypeError(f"{name} holds {shown(message)}: a message is a mapping with a role, such as 'user'.")
        for part in parts_of(message):
            if isinstance(part, Mapping) and any(kind in str(part.get("type")) for kind in NOT_TEXT):
                raise ValueError(f"{name} holds a part of type {part['type']!r}: the library's chat takes text alone.")
    return [dict(message) for message in listed]


def parts_of(message: Mapping[str, Any]) -> Seq[Any]:
    content = message.get("content")
    return content if isinstance(content, list | tuple) else ()
