"""Grammars: the tokens allowed next. A state can be rebuilt from token ids alone, so that jobs resume exactly."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any

import torch
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from common.errors import GrammarFailed, InvalidRequest
from common.grammar.answer import is_bracketed
from common.grammar.check import parser_limits
from worker.sampling.bitmask import bitmask_words

UNSEEN = "\ufdd0"  # a code point that is no character
REST = re.compile("<non-verbose/>|<backtrace>")  # what follows is for llguidance's authors
KEPT_GRAMMARS = 64  # compiled grammars; each state copies one and grows its own lexer tables
KEPT_CHARACTERS = 2**19  # of grammar text; a compiled grammar takes up to 130 times its text


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The end-of-sequence tokens and the mask size of a tokenizer."""

    num_words: int  # int32 words of a mask
    eos_token_ids: frozenset[int]
    textual_eos_ids: frozenset[int]  # those that the tokenizer treats as text, which a grammar might allow as text


class GrammarState:
    """The position of one sequence in its grammar."""

    def __init__(
        self, matcher: Any, vocabulary: Vocabulary, forget: Callable[[], object], *, has_ended: bool = False
    ) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._forget = forget  # takes the grammar out of the compiler's cache
        self._has_ended = has_ended  # an end token was accepted

    @property
    def is_finished(self) -> bool:
        """Only an end-of-sequence token may follow."""
        return self._has_ended or bool(self._matcher.is_stopped())

    def accept(self, token_ids: Sequence[int]) -> None:
        """Advance by these tokens. Raises GrammarFailed if the grammar does not allow them."""
        if len(token_ids) == 1 and token_ids[0] not in self._vocabulary.eos_token_ids and not self._has_ended:
            if not self._matcher.consume_token(token_ids[0]):
                raise self._failed("The grammar did not allow a token.")
            return
        body = list(takewhile(lambda token_id: token_id not in self._vocabulary.eos_token_ids, token_ids))
        if body and (self._has_ended or not self._matcher.consume_tokens(body)):
            raise self._failed("The grammar did not allow a token.")
        if len(body) < len(token_ids):
            self._end(token_ids[len(body) :])

    def fill_mask(self, bitmask_row: torch.Tensor) -> None:
        """Set the bits of the allowed tokens (int32 [ceil(vocab_size / 32)], CPU); end tokens only at an end."""
        if not self._has_ended and bitmask_row.is_contiguous() and bitmask_row.numel() == self._vocabulary.num_words:
            self._matcher.unsafe_compute_mask_ptr(bitmask_row.data_ptr(), bitmask_row.numel() * 4)
        elif not self._has_ended:  # the tokenizer has more tokens than the model has logits
            mask = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.int32)
            bitmask_row.copy_(mask[: bitmask_row.numel()])
        self._correct(bitmask_row)

    @classmethod
    def fill_masks(cls, states: Sequence["GrammarState"], bitmask: torch.Tensor, executor: Any = None) -> None:
        """fill_mask for all rows of a contiguous bitmask. An executor fills them in one call without the GIL."""
        row_bytes, address = bitmask.shape[1] * 4, bitmask.data_ptr()
        if bitmask.shape[1] != states[0]._vocabulary.num_words:
            for state, row in zip(states, bitmask, strict=True):
                state.fill_mask(row)
            return
        going = [(state._matcher, at) for at, state in enumerate(states) if not state._has_ended]
        if executor is not None and going:
            executor.unsafe_compute_mask_ptr(going, address, row_bytes, len(states))
        else:
            for matcher, at in going:
                matcher.unsafe_compute_mask_ptr(address + at * row_bytes, row_bytes)
        for at, state in enumerate(states):
            if state._has_ended or state._vocabulary.textual_eos_ids or state._matcher.is_error():
                state._correct(bitmask[at])

    def _correct(self, bitmask_row: torch.Tensor) -> None:
        """Mend what llguidance does not know: the sequence has ended, or an end token is text to the tokenizer."""
        if self._has_ended:
            bitmask_row.zero_()
            self._set_ends(bitmask_row, self._vocabulary.eos_token_ids, allowed=True)
            return
        if self._vocabulary.textual_eos_ids and not self._matcher.is_accepting():
            self._set_ends(bitmask_row, self._vocabulary.textual_eos_ids, allowed=False)
        if self._matcher.is_error():
            raise self._failed("The grammar became too complex.")

    def copy(self) -> "GrammarState":
        """An independent state at the same position."""
        return GrammarState(self._matcher.deep_copy(), self._vocabulary, self._forget, has_ended=self._has_ended)

    def _failed(self, fault: str) -> GrammarFailed:
        """The copies of a matcher share tables, which a panic makes useless, so the next request compiles anew."""
        self._forget()
        return GrammarFailed(f"{fault} {_reason(self._matcher)}")

    def _end(self, token_ids: Sequence[int]) -> None:
        may_end = self.is_finished or self._matcher.is_accepting()
        if not may_end or not self._vocabulary.eos_token_ids.issuperset(token_ids):
            raise GrammarFailed("The grammar did not allow the end here.")
        self._has_ended = True

    def _set_ends(self, bitmask_row: torch.Tensor, token_ids: frozenset[int], *, allowed: bool) -> None:
        for token_id in token_ids:
            word = int(bitmask_row[token_id // 32])
            bitmask_row[token_id // 32] = word | _bit(token_id) if allowed else word & ~_bit(token_id)


class GrammarCompiler:
    """Compiles grammars for one tokenizer and caches the latest. `compile` may be called from any thread."""

    def __init__(self, tokenizer: Tokenizer, eos_token_ids: Sequence[int], vocab_size: int) -> None:
        num_tokens = max(vocab_size, tokenizer.get_vocab_size(with_added_tokens=True))
        self._tokenizer = LLTokenizer(_for_grammars(tokenizer), n_vocab=num_tokens, eos_token=list(eos_token_ids))
        textual = frozenset(token_id for token_id in eos_token_ids if not self._tokenizer.is_special_token(token_id))
        self._vocabulary = Vocabulary(bitmask_words(num_tokens), frozenset(eos_token_ids), textual)
        self._compiled: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, grammar: str) -> GrammarState:
        """A state at the grammar's start. Takes milliseconds, without the GIL. Raises InvalidRequest."""
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is not None:
                self._compiled.move_to_end(grammar)
        if matcher is None:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=parser_limits())
            if matcher.is_error():
                raise InvalidRequest(f"The grammar cannot be used: {_reason(matcher)}", param="grammar")
            self._keep(grammar, matcher)
        return GrammarState(matcher.deep_copy(), self._vocabulary, partial(self._drop, grammar))

    def _drop(self, grammar: str) -> None:
        with self._lock:
            self._compiled.pop(grammar, None)

    def _keep(self, grammar: str, matcher: Any) -> None:
        with self._lock:
            self._compiled[grammar] = matcher
            while len(self._compiled) > KEPT_GRAMMARS or sum(map(len, self._compiled)) > KEPT_CHARACTERS:
                self._compiled.popitem(last=False)


def _bit(token_id: int) -> int:
    """The token's bit in its word, as a signed 32-bit number."""
    bit = token_id % 32
    return 1 << bit if bit < 31 else -(1 << 31)


def _for_grammars(tokenizer: Tokenizer) -> str:
    """The tokenizer's JSON, without padding, truncation and text that stands for a control token.

    llguidance spells a text that must come as the tokenizer does. If a schema demands the text `<|im_end|>`, its
    letters must come and never the token, so control tokens get names that no text has. Grammars use their ids.
    """
    fields = json.loads(tokenizer.to_str()) | {"padding": None, "truncation": None, "post_processor": None}
    renamed: dict[str, str] = {}
    for token in fields["added_tokens"]:
        if token["special"] or is_bracketed(token["content"]):
            renamed[token["content"]] = token["content"] = f"{UNSEEN}{token['content']}"
            token["special"] = True
    model = fields["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {renamed.get(piece, piece): token_id for piece, token_id in model["vocab"].items()}
    else:
        model["vocab"] = [[renamed.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    return json.dumps(fields, ensure_ascii=False)


def _reason(matcher: Any) -> str:
    return " ".join(REST.split(str(matcher.get_error()))[0].split())[:300]
