"""The models that can be asked for: id -> card and encoder, as the workers wrote them to Redis."""

from api.prompt import PromptEncoder
from common.errors import ModelNotFound, ModelNotReady
from common.store import Store
from common.wire import ModelCard


class Models:
    """Holds one encoder per queue, made anew when the worker's model has changed."""

    def __init__(self, store: Store, expected: tuple[str, ...]) -> None:
        self.store = store
        self.expected = expected  # ids that our own settings promise, known before any worker has loaded
        self._encoders: dict[str, PromptEncoder] = {}

    def encoder(self, model: str) -> PromptEncoder:
        """Raises ModelNotFound for an id that nobody serves, ModelNotReady while its worker still loads."""
        queue, revision = self.store.queue_of(model)
        if queue is None:
            if model in self.expected:
                raise ModelNotReady("Model not ready", retry_after_s=2)
            names = ", ".join(self.names())
            raise ModelNotFound(f"The model {model[:100]!r} does not exist; this server has {names}.", param="model")
        encoder = self._encoders.get(queue)
        if encoder is None or encoder.card.revision != revision:
            card = self.store.card(queue)
            if card is None:
                raise ModelNotReady("Model not ready", retry_after_s=2)
            encoder = self._encoders[queue] = PromptEncoder(card)
        return encoder

    def names(self) -> list[str]:
        return list(dict.fromkeys([*self.store.models(), *self.expected]))

    def described(self) -> list[dict[str, object]]:
        """GET /v1/models: each served id, and in `root` the weights that really run."""
        cards: dict[str, ModelCard | None] = {}
        out = []
        for name, queue in self.store.models().items():
            card = cards[queue] = cards[queue] if queue in cards else self.store.card(queue)
            if card is not None:
                out.append(describe(name, card))
        return out


def describe(name: str, card: ModelCard) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "protocol-omni",
        "root": card.root,
        "parent": None,
        "max_model_len": card.max_model_len,
    }
