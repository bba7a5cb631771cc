"""A request and its logged answer so far, to sequences that are ready to continue."""

import hashlib
from collections.abc import Mapping

from tokenizers import Tokenizer

from common.errors import AdapterUnloaded, ContextLengthExceeded, InvalidRequest, OmniError, ResumeMismatch
from common.model.spelling import REPLACEMENT, Spelling
from common.wire import Failed, Finished, GenerationRequest, LoggedChoice, ModelCard
from worker.engine.adapters import NONE, EngineAdapters, LoadedAdapter
from worker.models.vision import ImageProcessor
from worker.state.detokenizer import Detokenizer
from worker.state.sequence import GrammarCursor, Grammars, RequestState, Sequence
from worker.state.stopping import VisibleText

NUM_CONTEXT_TOKENS = 6  # of the prompt, so that the first word of a completion keeps its leading space


class Admission:
    """Builds RequestStates. Every fault that lies in a request itself is found here."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        card: ModelCard,
        compiler: Grammars | None,
        images: ImageProcessor | None = None,
        adapters: EngineAdapters | None = None,
    ) -> None:
        self._spelling = Spelling(tokenizer)
        self._card = card
        self._compiler = compiler
        self._images = images
        self._adapters = adapters

    def open(self, request: GenerationRequest, logged: Mapping[int, LoggedChoice]) -> RequestState | Finished | Failed:
        """A request to compute, or its end if it is invalid or its log is complete."""
        try:
            state = self._opened(request, logged)
        except OmniError as error:
            return Failed(error.code, error.message)
        return state.finished() if state.is_finished else state

    def _opened(self, request: GenerationRequest, logged: Mapping[int, LoggedChoice]) -> RequestState:
        """Raises InvalidRequest, ContextLengthExceeded, AdapterUnloaded or ResumeMismatch."""
        if self._images is not None:
            request = self._images.expanded(request)
        self._check(request)
        grammar = self._compile(request.sampling.grammar)
        sequences = [self._sequence(request, index, grammar) for index in range(request.sampling.n)]
        for sequence in sequences:
            if (choice := logged.get(sequence.index)) is not None:
                self._replay(sequence, choice)
        return RequestState(request, sequences)

    def _check(self, request: GenerationRequest) -> None:
        if not request.prompt_ids:
            raise InvalidRequest("The prompt is empty.")
        if not all(0 <= token_id < self._card.vocab_size for token_id in request.prompt_ids):
            raise InvalidRequest("The prompt holds a token id outside the vocabulary.")
        if len(request.prompt_ids) >= self._card.max_model_len:
            raise ContextLengthExceeded(
                f"The prompt has {len(request.prompt_ids)} tokens; the context holds {self._card.max_model_len}."
            )
        if request.images and not self._card.accepts_images:
            raise InvalidRequest("This model does not take images.")

    def _compile(self, grammar: str | None) -> GrammarCursor | None:
        if grammar is None:
            return None
        if self._compiler is None:
            raise InvalidRequest("Grammars are not available here.")
        return self._compiler.compile(grammar)

    def _sequence(self, request: GenerationRequest, index: int, grammar: GrammarCursor | None) -> Sequence:
        sampling, adapter = request.sampling, self._adapter_of(request)
        eos = () if sampling.ignore_eos else self._card.eos_token_ids
        detokenizer = Detokenizer(
            self._spelling,
            request.prompt_ids[-NUM_CONTEXT_TOKENS:],
            skip_special_tokens=sampling.skip_special_tokens,
        )
        return Sequence(
            request_id=request.id,
            index=index,
            sampling=sampling,
            token_ids=list(request.prompt_ids),
            num_prompt_tokens=len(request.prompt_ids),
            text=VisibleText(detokenizer, sampling.stop, sampling.min_tokens),
            stop_token_ids=frozenset(eos) | frozenset(sampling.stop_token_ids),
            cache_salt=salt_of(request, adapter.revision),
            is_flex=request.is_flex,
            adapter=adapter.slot,
            images=request.images,
            images_end=self._images.end_of(request.prompt_ids) if self._images is not None and request.images else 0,
            grammar=grammar.copy() if grammar is not None else None,
        )

    def _adapter_of(self, request: GenerationRequest) -> LoadedAdapter:
        """Raises AdapterUnloaded."""
        if not request.adapter:
            return NONE
        if self._adapters is None:
            raise AdapterUnloaded("This engine computes without adapters.")
        return self._adapters.of_request(request.adapter)

    def _replay(self, sequence: Sequence, choice: LoggedChoice) -> None:
        """Replay logged tokens through detokenizer, stop strings and grammar. Raises ResumeMismatch."""
        text = "".join(sequence.accept(token_id, self._card.max_model_len) for token_id in choice.token_ids)
        if sequence.finish_reason != choice.finish_reason or not agrees(text, choice.text):
            raise ResumeMismatch("The logged tokens do not give the logged text with this model.")


def agrees(text: str, logged: str) -> bool:
    """True if the replayed text matches the log, in which older versions put more of U+FFFD, or none at the end."""
    certain, replaced, _ = logged.partition(REPLACEMENT)
    return logged in (text, text.removesuffix(REPLACEMENT)) or (bool(replaced) and text.startswith(certain))


def salt_of(request: GenerationRequest, adapter_revision: str) -> str:
    """The prefix-cache salt. Keys and values depend on the adapter too, and on images, which have the same tokens."""
    salt = request.cache_salt
    if request.images:
        salt += "\0" + hashlib.sha256("\0".join(request.images).encode()).hexdigest()
    return f"{salt}\0adapter {adapter_revision}" if adapter_revision else salt
