"""PromptEncoder: messages -> token ids, by the served model's own template and tokenizer. No torch."""

import os

os.environ.setdefault("USE_TORCH", "0")

from collections.abc import Mapping, Sequence
from typing import Any

import gevent
from jinja2 import TemplateError
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from api.schema import Message, Tool
from common.errors import ContextLengthExceeded, InvalidRequest
from common.wire import ModelCard

# Each special token that stands in a user's own text becomes one of these while the template is rendered.
SENTINEL = "\ue000{}\ue001"
BIG_TEXT = 20_000  # characters; from here on a thread tokenizes, so that other requests go on
TEMPLATE_KWARGS: dict[str, type] = {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str}


class PromptEncoder:
    """Encodes for one model card. Stateless apart from the tokenizer that it holds."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._tokenizer = Tokenizer.from_str(card.tokenizer)
        self._plain = Tokenizer.from_str(card.tokenizer)
        self._plain.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = sorted((token.content for token in added if token.special), key=len, reverse=True)

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        continue_final: bool = False,
    ) -> tuple[int, ...]:
        """Token ids of the conversation, ready for the answer. Raises InvalidRequest or ContextLengthExceeded."""
        if self.card.chat_template is None:
            raise InvalidRequest("This model has no chat template; use /v1/completions.", param="messages")
        found: list[str] = []
        chat = [self._message(message, number, found) for number, message in enumerate(messages)]
        try:
            rendered, _ = render_jinja_template(
                conversations=[chat],
                chat_template=self.card.chat_template,
                tools=[tool.model_dump(exclude_none=True) for tool in tools] if tools else None,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
                **self.card.special_tokens,
                **checked_kwargs(template_kwargs or {}),
            )
        except (TemplateError, ValueError, TypeError, KeyError, IndexError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from None
        return self.encode_text(rendered[0], found, param="messages")

    def encode_text(self, text: str, guarded: Sequence[str] = (), *, param: str = "prompt") -> tuple[int, ...]:
        """Token ids of a rendered text; `guarded` are the user's own special tokens behind their sentinels."""
        if len(text) > self.card.max_model_len * 64:
            raise self._too_long(len(text), param, "characters")
        work = (self._encode, (text, guarded))
        ids = gevent.get_hub().threadpool.apply(*work) if len(text) > BIG_TEXT else self._encode(text, guarded)
        return self.fitting(ids, param=param)

    def _encode(self, text: str, guarded: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for number, token in enumerate(guarded):
            before, text = text.split(SENTINEL.format(number), 1)
            ids += self._tokenizer.encode(before, add_special_tokens=False).ids
            ids += self._plain.encode(token, add_special_tokens=False).ids
        return ids + self._tokenizer.encode(text, add_special_tokens=False).ids

    def tokenize(self, text: str, *, add_special_tokens: bool = True, is_plain: bool = False) -> list[int]:
        """Ids of a raw text, whose special tokens count as such unless `is_plain`. Any length."""
        tokenizer = self._plain if is_plain else self._tokenizer

        def work() -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

        return gevent.get_hub().threadpool.apply(work) if len(text) > BIG_TEXT else work()

    def fitting(self, ids: Sequence[int], *, param: str = "prompt") -> tuple[int, ...]:
        """The ids, if the model can take them. Raises InvalidRequest or ContextLengthExceeded."""
        if len(ids) >= self.card.max_model_len:
            raise self._too_long(len(ids), param, "tokens")
        if not ids:
            raise InvalidRequest("The prompt is empty.", param=param)
        return tuple(ids)

    def token_id(self, token: str) -> int | None:
        """The id of a token by its own name."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token_name(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an id that it does not have."""
        found: str | None = self._tokenizer.id_to_token(token_id)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]:
        """A token as logprobs show it: its text and its UTF-8 bytes."""
        text = self.decode([token_id])
        return text, list(text.encode())

    def _message(self, message: Message, number: int, found: list[str]) -> dict[str, Any]:
        fields = message.model_dump(exclude_none=True)
        fields["role"] = "system" if message.role == "developer" else message.role
        fields["content"] = self._guard(text_of(message, number, self.card.accepts_images), found)
        if message.reasoning is not None:
            fields.setdefault("reasoning_content", message.reasoning)
        return fields

    def _guard(self, text: str, found: list[str]) -> str:
        """Puts sentinels in the place of special tokens, left to right, so that text never becomes control."""
        text = text.replace("\ue000", "\ufffd").replace("\ue001", "\ufffd")
        if not any(token in text for token in self._special):
            return text
        out = ""
        while text:
            at, token = min(((text.find(t), t) for t in self._special if t in text), default=(-1, ""))
            if at < 0:
                break
            out += text[:at] + SENTINEL.format(len(found))
            found.append(token)
            text = text[at + len(token) :]
        return out + text

    def _too_long(self, length: int, param: str, unit: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's maximum context length is {self.card.max_model_len} tokens, but the prompt has {length} "
            f"{unit}. Shorten the {param}.",
            param=param,
        )


def text_of(message: Message, number: int, accepts_images: bool) -> str:
    """The content as one text. Raises InvalidRequest for a part that this model cannot take."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    texts = []
    for index, part in enumerate(message.content):
        param = f"messages[{number}].content[{index}]"
        if part.type in ("text", "input_text", "output_text") and part.text is not None:
            texts.append(part.text)
        elif part.type == "refusal":
            texts.append(part.refusal or "")
        else:
            raise InvalidRequest(
                f"'{param}': this model takes text only, not parts of type {part.type!r}.", param=param
            )
    return "".join(texts)


def checked_kwargs(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Only what a template may be told. Raises InvalidRequest for any other name or type."""
    for name, value in kwargs.items():
        if name not in TEMPLATE_KWARGS or not isinstance(value, TEMPLATE_KWARGS[name]):
            allowed = ", ".join(f"{known} ({kind.__name__})" for known, kind in TEMPLATE_KWARGS.items())
            raise InvalidRequest(f"'chat_template_kwargs' allows {allowed}.", param="chat_template_kwargs")
    return dict(kwargs)
