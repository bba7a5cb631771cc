"""PromptEncoder: messages or texts -> token ids, by the served model's own template and tokenizer."""

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property

from api.process.offload import in_native_thread, in_python_thread, inline, offload
from api.prompt.conversation import Conversation, final_text, render, thinking_of
from api.prompt.encoding import LONG_TEXT, Encoded, TextEncoder
from api.prompt.special_tokens import Guard
from api.prompt.template_traits import chat_template_of
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.known import dialect_for
from api.reading.dialects.objects.hermes import HERMES
from api.reading.thinking.form import ReasoningForm
from api.reading.thinking.known import form_for
from common.errors import ContextLengthExceeded, InvalidRequest
from common.grammar.answer import MarkedText, marked_text
from common.grammar.thinking import Thinking
from common.model.frames import PairFrame, TextFrame, pair_frame, text_frame
from common.model.spelling import Spelling, shown
from common.wire import ModelCard

TURN_MARK = re.compile("[|｜]")  # as in <|user|>; some tokenizers do not mark such tokens as special
BRACKETED = re.compile(r"<.+>|\[.+\]", re.DOTALL)
MANY_PARTS = 1000  # of a prompt, separated by special tokens that the caller wrote
MAX_TOKENS = 400_000  # of one request's prompts together, or of /tokenize; more if the model's context is larger


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as token ids, and where in the reasoning or behind it the answer begins."""

    ids: tuple[int, ...]
    thinking: Thinking


class PromptEncoder:
    """Encodes for one model card. Holds its tokenizer and no other state."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self._texts = TextEncoder(card.tokenizer)
        self._tokenizer = self._texts.tokenizer
        added = self._tokenizer.get_added_tokens_decoder().values()
        self._special = [token.content for token in added if token.special]
        self._turn_marks = [token.content for token in added if TURN_MARK.search(token.content)]
        self._hidden = [*self._special, *self._turn_marks, *([card.image_token] if card.image_token else [])]
        self._bracketed = [token.content for token in added if BRACKETED.fullmatch(token.content)]
        self._spelling = Spelling(self._tokenizer)
        self.marked: MarkedText = marked_text(card.tokenizer)
        self.reasoning_form: ReasoningForm = form_for(card.chat_template, card.architecture)
        ends = map(self._tokenizer.token_to_id, self.reasoning_form.end_tokens)
        self.end_token_ids: tuple[int, ...] = tuple(token_id for token_id in ends if token_id is not None)

    def for_card(self, card: ModelCard) -> "PromptEncoder":
        """The same for a card with the same tokenizer and template."""
        other = copy(self)
        other.card = card
        return other

    @cached_property
    def tool_dialect(self) -> ToolDialect:
        """The form of calls that the model is asked for and whose answers are read; Hermes' where it has none known."""
        template = chat_template_of(self.card, has_tools=True)
        return template.dialect if template else dialect_for(None, self.card.architecture) or HERMES

    @cached_property
    def text_frame(self) -> TextFrame:
        """The tokens around one text."""
        return text_frame(self._tokenizer)

    @cached_property
    def pair_frame(self) -> PairFrame:
        """The tokens around and between the texts of a pair."""
        return pair_frame(self._tokenizer)

    @cached_property
    def _markup(self) -> list[str]:
        """Tokens in brackets that mark reasoning or calls and are not special: those that a template writes, and more.

        Others in brackets are text: Gemma has tokens for HTML.
        """
        templates = (self.card.chat_template or "") + (self.card.tool_chat_template or "")
        marks = {*self.reasoning_form.all_marks, *self.tool_dialect.openings, *self.tool_dialect.further_marks}
        return [token for token in self._bracketed if token in templates or token in marks]

    def encode_chat(self, conversation: Conversation) -> ChatPrompt:
        """Ids up to where the answer begins. Raises InvalidRequest or ContextLengthExceeded."""
        most = self.card.max_model_len
        rendered, continued, parts = offload(self._rendered, conversation)
        encoded = self._checked(self._texts.encode([text for text, _ in parts if text], most), most, "messages")
        ids = (in_python_thread if len(parts) > MANY_PARTS else inline)(self._joined, parts, encoded)
        thinking = thinking_of(rendered, continued, self.card, self.reasoning_form)
        return ChatPrompt(self.fitting(ids, param="messages"), thinking)

    def _rendered(self, conversation: Conversation) -> tuple[str, str | None, list[tuple[str, str]]]:
        """The prompt's text, that which the answer continues, and the prompt as pairs of (text, caller's token)."""
        guard = Guard(self._hidden, self._markup)
        rendered = render(conversation, self.card, guard)
        continued = final_text(conversation, guard)
        if continued and not conversation.messages[-1].content and not rendered.rstrip().endswith(continued.rstrip()):
            raise InvalidRequest(
                "An answer of which there is only reasoning cannot be continued: the model's template leaves it out.",
                param="messages",
            )
        return rendered, continued, list(guard.parts(rendered))

    def _joined(self, parts: Sequence[tuple[str, str]], encoded: Sequence[list[int]]) -> list[int]:
        ids: list[int] = []
        rest = iter(encoded)
        spelt = {token: self._as_text(token) for token in {token for _, token in parts if token}}
        for text, token in parts:
            ids += next(rest) if text else ()
            ids += spelt.get(token, ())
        return ids

    def leaves_out(self, mark: str) -> bool:
        """True if this text contains a special token, because these are not part of an answer's text."""
        return any(token in mark for token in self._special)

    def _as_text(self, token: str) -> list[int]:
        """Ids that spell a token's name without being that token."""
        [ids] = self._texts.encode([token], self.card.max_model_len, is_plain=True).ids
        if self._tokenizer.token_to_id(token) not in ids:
            return ids
        halves = self._texts.encode([token[:1], token[1:]], self.card.max_model_len, is_plain=True).ids
        return [part for half in halves for part in half]

    def tokenize(self, text: str, *, add_special_tokens: bool = True, is_plain: bool = False) -> list[int]:
        """Ids of a raw text. Names of special tokens in it are those tokens, unless `is_plain`."""
        [ids] = self.tokenize_all([text], self.card.max_model_len, add_special_tokens, is_plain=is_plain)
        return ids

    def tokenize_all(
        self,
        texts: Sequence[str],
        most: int,
        add_special_tokens: bool = True,
        *,
        is_plain: bool = False,
        param: str = "prompt",
    ) -> list[list[int]]:
        """Ids of each text, at most `most` of them together. Raises ContextLengthExceeded."""
        encoded = self._texts.encode(texts, most, add_special_tokens=add_special_tokens, is_plain=is_plain)
        return self._checked(encoded, most, param)

    def check_length(self, text: str, param: str) -> None:
        """Raises ContextLengthExceeded for a text that is too long whatever its tokens are; costs no encoding."""
        if (least := self._texts.least_tokens(len(text))) > self.card.max_model_len:
            raise self._too_long(least, param, self.card.max_model_len, is_least=True)

    def _checked(self, encoded: Encoded, most: int, param: str) -> list[list[int]]:
        if encoded.num_tokens > most:
            raise self._too_long(encoded.num_tokens, param, most, is_least=encoded.is_least)
        return encoded.ids

    @property
    def most_tokens(self) -> int:
        """Limit on the tokens of all prompts of one request together."""
        return max(MAX_TOKENS, self.card.max_model_len)

    def fitting(self, ids: Sequence[int], *, param: str = "prompt") -> tuple[int, ...]:
        """The ids, if they fit the context. Raises InvalidRequest for none, or ContextLengthExceeded."""
        if len(ids) >= self.card.max_model_len:
            raise self._too_long(len(ids), param, self.card.max_model_len)
        if not ids:
            raise InvalidRequest("The prompt is empty.", param=param)
        return tuple(ids)

    def token_id(self, token: str) -> int | None:
        """The id of a token, by its exact name."""
        found: int | None = self._tokenizer.token_to_id(token)
        return found

    def token_name(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it; None for an unknown id."""
        return self._spelling.name(token_id)

    def decode(self, ids: Sequence[int]) -> str:
        return in_native_thread(self._decoded, ids) if len(ids) > LONG_TEXT else self._decoded(ids)

    def _decoded(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode_batch([list(ids)], skip_special_tokens=False)[0])  # releases the GIL

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]:
        """A token's text and bytes, as logprobs show them."""
        raw = self._spelling.token_bytes(token_id)
        return shown(raw), list(raw)

    def _too_long(self, length: int, param: str, most: int, *, is_least: bool = False) -> ContextLengthExceeded:
        limit = "maximum context length is" if most == self.card.max_model_len else "limit for this request is"
        return ContextLengthExceeded(
            f"This model's {limit} {most} tokens, but the prompt has {'at least ' if is_least else ''}{length} tokens. "
            f"Shorten '{param}'.",
            param=param,
            num_tokens=length,
            most=most,
        )
