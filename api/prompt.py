"""PromptEncoder: messages -> token ids, by the served model's own template and tokenizer. No torch."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import gevent
from tokenizers import Tokenizer

from api.conversation import Conversation, render, thinking_of
from api.parsers.tool_calls import choose_format
from api.special_tokens import Guard
from common.errors import ContextLengthExceeded, InvalidRequest
from common.grammars import MarkedText, Thinking, marked_text
from common.spelling import Spelling, shown
from common.tool_grammars import ToolCallFormat
from common.wire import ModelCard

TURN_MARK = re.compile("[|｜]")  # as in <|user|>; some tokenizers do not call such tokens special
BIG_TEXT = 20_000  # characters; from here on a thread tokenizes, so that other requests go on


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation in token ids, and whether its answer begins with thinking."""

    ids: tuple[int, ...]
    thinking: Thinking


class PromptEncoder:
    """Encodes for one model card. Stateless apart from the tokenizer that it holds."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._tokenizer = Tokenizer.from_str(card.tokenizer)
        self._plain = Tokenizer.from_str(card.tokenizer)
        self._plain.encode_special_tokens = True
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]
        self._turn_marks = [token.content for token in added if TURN_MARK.search(token.content)]
        self._hidden = [*self._special, *self._turn_marks, *([card.image_token] if card.image_token else [])]
        self._spelling = Spelling(self._tokenizer)
        self.marked: MarkedText = marked_text(card.tokenizer)
        self.tool_format: ToolCallFormat | None = choose_format(card.chat_template, card.architecture)

    def encode_chat(self, conversation: Conversation) -> ChatPrompt:
        """Ready for the answer. Raises InvalidRequest or ContextLengthExceeded."""
        guard = Guard(self._hidden)
        rendered = render(conversation, self.card, guard)
        ids = self._encode_text(rendered, guard)
        return ChatPrompt(self.fitting(ids, param="messages"), thinking_of(rendered, conversation, self.card))

    def leaves_out(self, mark: str) -> bool:
        """Whether part of this text is a special token, which an answer's text goes without."""
        return any(token in mark for token in self._special)

    def _encode_text(self, text: str, guard: Guard) -> list[int]:
        if len(text) > self.card.max_model_len * 64:
            raise self._too_long(len(text), "messages", "characters")
        if len(text) <= BIG_TEXT:
            return self._encode(text, guard)
        ids: list[int] = gevent.get_hub().threadpool.apply(self._encode, (text, guard))
        return ids

    def _encode(self, text: str, guard: Guard) -> list[int]:
        ids: list[int] = []
        for rendered, token in guard.parts(text):
            ids += self._tokenizer.encode(rendered, add_special_tokens=False).ids
            ids += self._as_text(token) if token else []
        return ids

    def _as_text(self, token: str) -> list[int]:
        """A token's name spelt out, without the token."""
        ids: list[int] = self._plain.encode(token, add_special_tokens=False).ids
        if self._tokenizer.token_to_id(token) not in ids:
            return ids
        return [
            part for text in (token[:1], token[1:]) for part in self._plain.encode(text, add_special_tokens=False).ids
        ]

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
        return self._spelling.name(token_id)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]:
        """A token as logprobs show it: its text and its bytes."""
        raw = self._spelling.token_bytes(token_id)
        return shown(raw), list(raw)

    def _too_long(self, length: int, param: str, unit: str) -> ContextLengthExceeded:
        return ContextLengthExceeded(
            f"This model's maximum context length is {self.card.max_model_len} tokens, but the prompt has {length} "
            f"{unit}. Shorten the {param}.",
            param=param,
        )
