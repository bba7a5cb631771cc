"""The served models: id -> encoder, from the cards that workers write to Redis."""

from datetime import UTC, datetime

from api.prompt.encoder import PromptEncoder
from common.errors import ModelNotFound, ModelNotReady
from common.redis.store import Store
from common.wire import ModelCard, Task

LATEST = ":latest"


class Models:
    """Caches one encoder per queue; replaced when the worker's model has another revision."""

    def __init__(self, store: Store, expected: tuple[str, ...], embedding_names: tuple[str, ...] = ()) -> None:
        self.store = store
        self.expected = expected + embedding_names  # from the settings: known before any worker has loaded
        self.embedding_names = embedding_names
        self._encoders: dict[str, PromptEncoder] = {}
        self._cards: dict[str, ModelCard] = {}

    def encoder(self, model: str, task: Task | None = "generate") -> PromptEncoder:
        """Raises ModelNotFound for an id that is not served for this task, ModelNotReady while its worker loads."""
        queue, revision = self._queue_of(model)
        if queue is None:
            if model in self.expected or other_name(model) in self.expected:
                raise self._not_ready(model)
            if task == "embed":
                raise self._wrong_task(model, task)
            names = ", ".join(self.names())
            raise ModelNotFound(f"The model {model[:100]!r} does not exist; this server has {names}.", param="model")
        encoder = self._encoders.get(queue)
        if encoder is None or encoder.card.revision != revision:
            card = self._card(queue, revision)
            if card is None:
                raise self._not_ready(model)
            encoder = self._encoders[queue] = PromptEncoder(card)
        if task is not None and encoder.card.task != task:
            raise self._wrong_task(model, task)
        return encoder

    def _queue_of(self, model: str) -> tuple[str | None, str]:
        queue, revision = self.store.directory.queue_of(model)
        return (queue, revision) if queue is not None else self.store.directory.queue_of(other_name(model))

    def _not_ready(self, model: str) -> ModelNotReady:
        """The documented message, with the progress of loading if it is known."""
        embeds = model in self.embedding_names
        progress = self.store.directory.loading((self.embedding_names if embeds else self.expected)[0])
        far = f": {progress['what']} ({float(progress['share']):.0%})" if "share" in progress else ""
        return ModelNotReady(f"Model not ready{far}", retry_after_s=2)

    def _wrong_task(self, model: str, task: Task) -> ModelNotFound:
        if task == "generate":
            fault = "makes embeddings only; for text this server has " + ", ".join(self.generating())
        elif self.embedding_names:
            fault = "makes no embeddings; this server has " + ", ".join(self.embedding_names)
        else:
            fault = (
                "makes no embeddings: this server runs a text generation model only. Set OMNI_EMBEDDING_MODEL to an "
                "encoder, or point the client's embeddings base URL at an embedding server"
            )
        return ModelNotFound(f"The model {model[:100]!r} {fault}.", param="model")

    def generating(self) -> list[str]:
        return [name for name in self.names() if name not in self.embedding_names]

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.store.directory.models(), *self.expected]))

    def cards(self) -> list[tuple[str, ModelCard]]:
        """Each served id, with the model it stands for."""
        found = []
        for name in self.store.directory.models():
            queue, revision = self.store.directory.queue_of(name)
            card = None if queue is None else self._card(queue, revision)
            if card is not None:
                found.append((name, card))
        return found

    def described(self) -> list[dict[str, object]]:
        """The items of GET /v1/models: each served id, and in `root` the weights it stands for."""
        return [describe(name, card) for name, card in self.cards()]

    def _card(self, queue: str, revision: str) -> ModelCard | None:
        """Cached while its model is served: a card holds a whole tokenizer, which may be tens of megabytes."""
        card = self._cards.get(queue)
        if card is None or card.revision != revision:
            card = self.store.directory.card(queue)
            if card is not None:
                self._cards[queue] = card
        return card


def other_name(model: str) -> str:
    """Ollama's clients leave `:latest` out or add it: both are one model."""
    return model.removesuffix(LATEST) if model.endswith(LATEST) else model + LATEST


def describe(name: str, card: ModelCard) -> dict[str, object]:
    """The model object of OpenAI and of Anthropic in one."""
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "protocol-omni",
        "root": card.root,
        "parent": None,
        "max_model_len": card.max_model_len,
        "type": "model",  # this and the next two are Anthropic's
        "display_name": name,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat(),
    }
