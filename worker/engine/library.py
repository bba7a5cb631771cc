"""The engine as a library: one model in this process, without a server and a queue. docs/library.md has examples."""

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from common.errors import JobFailed
from common.model.folder import fault_of
from common.wire import Delta, Event, Failed, Finished, FinishReason, GenerationRequest, SamplingParams, TokenLogprob
from worker.drafting.choose import DraftFault
from worker.engine.argument_checks import (
    checked_each,
    checked_list,
    checked_messages,
    checked_prompt,
    checked_sampling,
    checked_text,
)
from worker.engine.engine import Engine
from worker.models.config_checks import checked_config, with_fields
from worker.models.gguf.model import gguf_model
from worker.models.load_fault import reason
from worker.models.loader import EngineConfig, LoadedModel, load
from worker.models.read.tokenizer import read_tokenizer
from worker.progress import OnProgress
from worker.state.sequence import Grammars

Prompt = str | Seq[int]  # a text, or its token ids
Params = SamplingParams | Mapping[str, Any] | None  # a mapping holds fields; those without a default get usual ones
Sampling = Params | Seq[Params]  # of all prompts, or one for each


@dataclass(frozen=True, slots=True)
class GeneratedChoice:
    """One of a prompt's `n` answers. `finish_reason` is None where the request failed before its end."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Generated:
    """A prompt, what was generated for it, and how that ended."""

    prompt_ids: tuple[int, ...]
    choices: tuple[GeneratedChoice, ...]
    end: Finished | Failed

    @property
    def text(self) -> str:
        """The first choice's text. Raises JobFailed where the request failed."""
        if isinstance(self.end, Failed):
            raise JobFailed(self.end.message, code=self.end.code)
        return self.choices[0].text


class LLM:
    """A model that generates for many prompts at once. Threads that share it take turns, a step each.

    All calls raise TypeError or ValueError, before anything is queued, for arguments that cannot be meant.
    """

    def __init__(
        self,
        source: str | Path,
        config: EngineConfig | None = None,
        on_progress: OnProgress = lambda what, share: None,
    ) -> None:
        """Load a folder or hub id and warm up.

        Raises TypeError or ValueError for a bad configuration; and OSError, ImportError, MemoryError or ValueError with
        one sentence for a model that cannot be loaded.
        """
        config = checked_config(config)
        self.engine, self.tokenizer = opened(source, config, on_progress)
        self._numbers = count()
        self._unread: list[tuple[str, Event]] = []  # events of other streams
        self._closed: list[Mapping[str, int]] = []  # requests of closed streams, still to be cancelled
        self._turn = RLock()  # of a thread, to call the engine or the tokenizer; a dropped stream is closed in any
        self._is_busy = False  # a thread calls the engine

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling = None) -> list[Generated]:
        """Answers in the order of the prompts. One that fails does not end the others; its `end` is Failed."""
        requests = self._requests(prompts, sampling)
        events: list[list[Event]] = [[] for _ in requests]
        for place, event in self._events(requests):
            events[place].append(event)
        return [gathered(request.prompt_ids, own) for request, own in zip(requests, events, strict=True)]

    def chat(
        self, conversations: Iterable[Seq[Mapping[str, Any]]], sampling: Sampling = None, **template: Any
    ) -> list[Generated]:
        """generate() for conversations: lists of messages such as {"role": "user", "content": "Hello!"}."""
        listed = [
            checked_messages(f"conversations[{place}]", messages)
            for place, messages in enumerate(checked_list("conversations", "messages", conversations))
        ]
        return self.generate([self._rendered(messages, template) for messages in listed], sampling)

    def stream(self, prompts: Iterable[Prompt], sampling: Sampling = None) -> Iterator[tuple[int, Event]]:
        """(place of the prompt, event) as tokens come: for each prompt any number of Delta, then Finished or Failed.

        Several streams may be read in turn; each step computes for all of them. close() cancels a stream's requests.
        """
        return self._events(self._requests(prompts, sampling))

    def render(self, messages: Seq[Mapping[str, Any]], **template: Any) -> list[int]:
        """Token ids of a conversation in the model's chat template; `template`: for example tools=[...].

        Raises ValueError for a model without a template.
        """
        return self._rendered(checked_messages("messages", messages), template)

    def _rendered(self, checked: list[dict[str, Any]], template: Mapping[str, Any]) -> list[int]:
        if self.tokenizer.chat_template is None and "chat_template" not in template:
            raise ValueError("The model has no chat template: give generate() a text, or chat_template= a template.")
        with self._turn:
            text = self.tokenizer.apply_chat_template(
                checked, **({"add_generation_prompt": True} | dict(template)), tokenize=False
            )
            ids: list[int] = self.tokenizer(checked_text("messages", text), add_special_tokens=False).input_ids
        return ids

    def _requests(self, prompts: Iterable[Prompt], sampling: Sampling) -> list[GenerationRequest]:
        listed = [
            checked_prompt(place, prompt) for place, prompt in enumerate(checked_list("prompts", "prompt", prompts))
        ]
        card = self.engine.card
        each = [checked_sampling(params, card.vocab_size) for params in checked_each(sampling, len(listed))]
        return [
            GenerationRequest(f"library-{next(self._numbers)}", card.names[0], self._ids_of(prompt), params)
            for prompt, params in zip(listed, each, strict=True)
        ]

    def _ids_of(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        if not isinstance(prompt, str):
            return prompt
        with self._turn:
            return tuple(self.tokenizer(prompt).input_ids)

    def _events(self, requests: Seq[GenerationRequest]) -> Iterator[tuple[int, Event]]:
        """Add the requests and step until all of them have ended."""
        places = {request.id: place for place, request in enumerate(requests)}
        running = set(places)
        try:
            with self._at_engine():
                for request in requests:
                    self.engine.add(request)
            while running:
                for request_id, event in self._next_events(places):
                    if not isinstance(event, Delta):
                        running.discard(request_id)
                    yield places[request_id], event
        finally:
            self._close(places)

    def _next_events(self, places: Mapping[str, int]) -> list[tuple[str, Event]]:
        """The unread events of these requests; those of one more step where there are none."""
        with self._at_engine():
            if not any(request_id in places for request_id, _ in self._unread):
                self._unread += self.engine.step()
                self.engine.take_gpu_us()  # nobody is charged here
            return self._take(places)

    @contextmanager
    def _at_engine(self) -> Iterator[None]:
        """A thread's turn. Requests that were closed meanwhile are cancelled at its end."""
        with self._turn:
            self._is_busy = True
            try:
                yield
            finally:
                while self._closed:
                    places = self._closed.pop()
                    for request_id in places:
                        self.engine.cancel(request_id)
                    self._take(places)
                self._is_busy = False

    def _close(self, places: Mapping[str, int]) -> None:
        """Cancel what is left of these requests; after the step, if the collector of garbage closes a stream in one."""
        self._closed.append(places)
        with self._turn:
            if not self._is_busy:
                with self._at_engine():
                    pass

    def _take(self, places: Mapping[str, int]) -> list[tuple[str, Event]]:
        """The unread events of these requests."""
        taken = [item for item in self._unread if item[0] in places]
        self._unread = [item for item in self._unread if item[0] not in places]
        return taken


def opened(source: str | Path, config: EngineConfig, on_progress: OnProgress) -> tuple[Engine, Any]:
    """The engine, warm, and the tokenizer. Raises what LLM() raises."""
    if not isinstance(source, str | Path):
        raise TypeError(f"source={source!r}: it must be a folder, a hub id or a .gguf file.")
    model = str(source)
    if fault := fault_of(model):
        raise ValueError(f"{model} cannot be loaded: {fault}.")
    draft = f"EngineConfig.draft_model={config.draft_model} cannot be loaded"
    if config.draft_model and (fault := fault_of(config.draft_model, needs_weights=False, needs_tokenizer=False)):
        raise ValueError(f"{draft}: {fault}.")
    try:
        loaded = load(model, (Path(model).absolute().name,), config, on_progress)
        engine = Engine(loaded, config, grammars_of(loaded))
        engine.warm_up(on_progress)
        gguf = gguf_model(model)
        return engine, gguf.tokenizer() if gguf else read_tokenizer(model, loaded.model.config)
    except DraftFault as error:
        raise kind_of(error.error)(with_fields(f"{draft}: {reason(error.error)}")) from error.error
    except Exception as error:  # a model's own code may raise anything
        raise kind_of(error)(with_fields(f"{model} cannot be loaded: {reason(error)}")) from error


def kind_of(error: Exception) -> type[Exception]:
    """The kind of error that tells of this one."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return MemoryError
    return next((kind for kind in (OSError, ImportError) if isinstance(error, kind)), ValueError)


def gathered(prompt_ids: tuple[int, ...], events: Seq[Event]) -> Generated:
    """A request's events as one value."""
    *_, end = events
    assert not isinstance(end, Delta)
    deltas: dict[int, list[Delta]] = {}
    for event in events:
        if isinstance(event, Delta):
            deltas.setdefault(event.index, []).append(event)
    return Generated(prompt_ids, tuple(choice_of(deltas[index]) for index in sorted(deltas)), end)


def choice_of(deltas: Seq[Delta]) -> GeneratedChoice:
    return GeneratedChoice(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(token_id for delta in deltas for token_id in delta.token_ids),
        logprobs=tuple(logprob for delta in deltas for logprob in delta.logprobs),
        finish_reason=deltas[-1].finish_reason,
    )


def grammars_of(loaded: LoadedModel) -> Grammars | None:
    """The model's grammar compiler; None where llguidance is not installed, and requests with a grammar fail."""
    if find_spec("llguidance") is None:
        return None
    from worker.sampling.grammar import GrammarCompiler

    return GrammarCompiler(loaded.tokenizer, loaded.card.eos_token_ids, loaded.card.vocab_size)
