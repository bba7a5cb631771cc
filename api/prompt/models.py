"""The served models: id -> encoder, from the cards that workers write to Redis."""

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from api.prompt.encoder import PromptEncoder
from api.prompt.shelf import ShelfReader, all_entries
from common.errors import ModelLoadFailed, ModelNotFound, ModelNotReady
from common.redis.served.adapters import AdapterRecord, AdapterStore, full_revision
from common.redis.served.shelf import ShelfEntry
from common.redis.store import Store
from common.wire import ModelCard, Task

LATEST = ":latest"


class Models:
    """Caches one encoder per queue: replaced when its model has another card, dropped when that model is gone and
    another one is read."""

    def __init__(
        self,
        store: Store,
        expected: Mapping[str, str],
        embedding_names: tuple[str, ...] = (),
        *,
        is_table: bool = False,
    ) -> None:
        """`expected`: id -> queue, from the settings: known before a worker has written any card. `is_table`: what the
        table had before is served no more, though its card is still there."""
        self.store = store
        self.is_table = is_table
        self.expected = {**expected, **dict.fromkeys(embedding_names, *embedding_names[:1])}
        self.embedding_names = embedding_names
        self.adapters = AdapterStore(store.redis)
        self.shelf = ShelfReader(store.redis)
        self._encoders: dict[str, PromptEncoder] = {}
        self._cards: dict[str, tuple[str, ModelCard]] = {}  # with their versions

    def encoder(self, model: str, task: Task | None = "generate") -> PromptEncoder:
        """Raises ModelNotFound for an id that is not served for this task, ModelNotReady before its card is there, and
        ModelLoadFailed for a model that cannot be loaded. A task of None is no work for the model."""
        queue, version = self._queue_of(model)
        if queue is None and (record := self._adapter(model)) is not None:
            return self._adapted(record, task)
        if queue is None:
            if (expected := self.expected.get(model) or self.expected.get(other_name(model))) is not None:
                raise self._not_ready(model, expected)
            if task in ("embed", "score"):
                raise self._wrong_task(model, "generate", task)
            names = ", ".join(self.names())
            raise ModelNotFound(f"The model {model[:100]!r} does not exist; this server has {names}.", param="model")
        encoder = self._encoder_of(queue, version)
        if encoder is None:
            raise self._not_ready(model, queue)
        if task is not None and not serves(encoder.card, task):
            raise self._wrong_task(model, encoder.card.task, task)
        if task is not None:
            self._check_loads(model, queue)
        return encoder

    def encoder_of_answers(self, queue: str) -> PromptEncoder:
        """The encoder whose tokens a job of this queue has, also of a model that has left the table: its card is still
        there. Raises ModelNotFound or ModelNotReady."""
        own, version = self.store.directory.queue_of(queue)
        encoder = self._encoder_of(own, version) if own is not None else None
        return encoder if encoder is not None else self.encoder(queue, task=None)

    def _encoder_of(self, queue: str, version: str) -> PromptEncoder | None:
        """None before the queue's card is there."""
        card, encoder = self._card(queue, version), self._encoders.get(queue)
        if card is not None and (encoder is None or encoder.card is not card):
            encoder = self._encoders[queue] = PromptEncoder(card)
            self._drop_gone(queue)
        return encoder

    def _drop_gone(self, queue: str) -> None:
        """Encoders of models that neither the settings name nor a worker has, and cards of those that are not served:
        answers of an earlier time needed them. Not the one of `queue`, which is needed now."""
        named = {queue, *self.expected.values()}
        live = {worker["queue"] for worker in self.store.directory.workers() if "queue" in worker}
        for gone in self._encoders.keys() - named - live:
            self._encoders.pop(gone, None)
        for gone in self._cards.keys() - named - live - {*self._served().values()}:
            self._cards.pop(gone, None)

    def _queue_of(self, model: str) -> tuple[str | None, str]:
        for name in (model, other_name(model)):
            queue, version = self.store.directory.queue_of(name)
            if queue is not None and self._is_served(name, queue):
                return queue, version
        return None, ""

    def _is_served(self, name: str, queue: str) -> bool:
        """Beside a table there may be other workers, whose models it does not name."""
        if not self.is_table or name in self.expected:
            return True
        is_own = queue in self.expected.values()
        return not is_own and any(worker.get("queue") == queue for worker in self.store.directory.workers())

    def _served(self) -> dict[str, str]:
        """Id -> queue: first what the settings name, as callers take the first; others may be of an earlier start."""
        found = {name: queue for name, queue in self.store.directory.models().items() if self._is_served(name, queue)}
        return {name: found[name] for name in self.expected if name in found} | found

    def _adapter(self, model: str) -> AdapterRecord | None:
        """The adapter of this name, once it can be used."""
        found = self.adapters.get(model) or self.adapters.get(other_name(model))
        return found if found is not None and found.is_ready else None

    def _adapted(self, record: AdapterRecord, task: Task | None) -> PromptEncoder:
        """The base's encoder, with a card that names the adapter."""
        encoder = self.encoder(record.queue, task)
        return encoder.for_card(card_of(record, encoder.card))

    def _check_loads(self, model: str, queue: str) -> None:
        """Raises ModelLoadFailed for a model whose loading has failed for good."""
        entry = self.shelf.entries().get(queue)
        if entry is not None and not entry.is_served:
            raise ModelLoadFailed(f"The model {model[:100]!r} cannot be loaded: {entry.fault}")

    def _not_ready(self, model: str, queue: str) -> ModelNotReady:
        """The documented message, with the progress of loading if it is known. Raises ModelLoadFailed."""
        self._check_loads(model, queue)
        progress = self.store.directory.loading(queue)
        far = f": {progress['what']} ({float(progress['share']):.0%})" if "share" in progress else ""
        return ModelNotReady(f"Model not ready{far}", retry_after_s=2)

    def _wrong_task(self, model: str, own: Task, asked: Task) -> ModelNotFound:
        """`own`: what the model is for."""
        cards = dict(self.cards())
        loading = [name for name in self.embedding_names if name not in cards and asked != "generate"]
        others = sorted([name for name, card in cards.items() if serves(card, asked)] + loading)
        fault = {
            "generate": "makes no embeddings" if asked == "embed" else "scores no texts",
            "embed": "makes embeddings only",
            "score": "is a cross-encoder: it scores pairs of texts, at /v1/rerank and /v1/score, and does nothing else",
        }[own]
        if others:
            fault += f"; {'for text ' if asked == 'generate' else ''}this server has {', '.join(others)}"
        elif own == "generate":
            fault += (
                ": this server runs a text generation model only. Set OMNI_EMBEDDING_MODEL to an encoder, or point the "
                "client's base URL for such requests at an embedding server"
            )
        elif own == "score":
            fault += ". Set OMNI_EMBEDDING_MODEL to an embedder for vectors"
        return ModelNotFound(f"The model {model[:100]!r} {fault}.", param="model")

    def places(self, queues: Collection[str]) -> dict[str, ShelfEntry]:
        """Where the model of each queue is, read now."""
        table = {*self.expected.values()} - {*self.embedding_names} if self.is_table else ()
        return all_entries(self.shelf, self.store.directory, queues, table)

    def offered(self) -> list[AdapterRecord]:
        """The adapters that can be used, sorted by name. A model of the same name goes first."""
        models = self._served()
        found = [
            record for name, record in sorted(self.adapters.all().items()) if record.is_ready and name not in models
        ]
        faults = self._adapters_with_faults() if found else set()
        return [record for record in found if (record.queue, record.name) not in faults]

    def _adapters_with_faults(self) -> set[tuple[str, str]]:
        """Queues and names of those that a live worker could not load, as after another model is served there."""
        workers = self.store.directory.workers()
        reports = [(worker.get("queue", ""), json.loads(worker.get("adapters") or "{}")) for worker in workers]
        return {(queue, name) for queue, report in reports for name in report.get("faults", ())}

    def names(self) -> list[str]:
        adapters = (record.name for record in self.offered())
        return list(dict.fromkeys([*self._served(), *self.expected, *adapters]))

    def cards(self) -> list[tuple[str, ModelCard]]:
        """Each served id, with the model it stands for; adapters come last."""
        found: list[tuple[str, ModelCard]] = []
        for name, queue in self._served().items():
            _, version = self.store.directory.queue_of(name)
            card = self._card(queue, version)
            if card is not None:
                found.append((name, card))
        bases = {card.queue: card for _, card in found}
        adapters = [record for record in self.offered() if record.queue in bases]
        return found + [(record.name, card_of(record, bases[record.queue])) for record in adapters]

    def described(self) -> list[dict[str, object]]:
        """The items of GET /v1/models: each served id, and in `root` the weights it stands for."""
        return [describe(name, card) for name, card in self.cards()]

    def _card(self, queue: str, version: str) -> ModelCard | None:
        """Cached while the model is served: a card holds a whole tokenizer, which may be tens of megabytes."""
        known, card = self._cards.get(queue, ("", None))
        if card is None or known != version:
            card = self.store.directory.card(queue)
            if card is not None:
                self._cards[queue] = version, card
        return card


def serves(card: ModelCard, task: Task) -> bool:
    """Whether the model is for this task; an embedder scores, too."""
    return card.task == task or (card.task == "embed" and task == "score")


def other_name(model: str) -> str:
    """Ollama's clients leave `:latest` out or add it: both are one model."""
    return model.removesuffix(LATEST) if model.endswith(LATEST) else model + LATEST


def card_of(record: AdapterRecord, base: ModelCard) -> ModelCard:
    """The card of an adapter: its base's, whose tokenizer and template it uses."""
    return replace(
        base,
        root="/".join(Path(record.path).parts[-2:]),
        revision=full_revision(base.revision, record.revision),
        created=record.created,
        adapter=record.name,
    )


OUTPUTS: Mapping[Task, str] = MappingProxyType({"generate": "text", "embed": "embeddings", "score": "scores"})


def modalities(card: ModelCard) -> dict[str, list[str]]:
    """What the model reads and what it makes, in OpenRouter's words."""
    inputs = ["text", "image"] if card.accepts_images else ["text"]
    return {"input_modalities": inputs, "output_modalities": [OUTPUTS[card.task]]}


def describe(name: str, card: ModelCard) -> dict[str, object]:
    """The model object of OpenAI and of Anthropic in one."""
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "protocol-omni",
        "root": card.root,
        "parent": card.queue if card.adapter else None,
        "max_model_len": card.max_model_len,
        "architecture": modalities(card),
        "type": "model",  # this and the next two are Anthropic's
        "display_name": name,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat(),
    }
