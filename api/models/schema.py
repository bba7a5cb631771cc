"""The bodies of orders to the shelf, and the shapes of its models."""

from typing import Annotated, Literal

from pydantic import Field

from api.schema.answers import Shape
from api.schema.base import Base, ForModel, KeepAlive
from common.redis.served.shelf import ModelStatus
from common.wire import Task

MAX_WAIT_S = 600.0


class ModelOrder(Base):
    """POST /v1/models/{id}/load, /unload, /pin and /unpin; the body may be left out."""

    keep_alive: KeepAlive = None
    wait: bool | Annotated[float, Field(ge=0, le=MAX_WAIT_S)] = False  # answer when it is done, after so long at most

    @property
    def wait_s(self) -> float:
        return MAX_WAIT_S * self.wait if isinstance(self.wait, bool) else self.wait


class NamedModelOrder(ModelOrder, ForModel):
    """POST /models/load and /models/unload, as llama.cpp's router has them."""


class ModelPlace(Shape):
    """`value`: llama.cpp's word; `state`: ours."""

    value: Literal["loaded", "loading", "unloaded"]
    state: ModelStatus


class Modalities(Shape):
    """What a model reads and makes, in OpenRouter's words."""

    input_modalities: list[Literal["text", "image"]]
    output_modalities: list[Literal["text", "embeddings", "scores"]]


class Model(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    parent: str | None
    max_model_len: int | None
    architecture: Modalities | None  # not known of a model whose files cannot be read
    task: Task | None
    size: int
    memory: int
    status: ModelPlace
    pinned: bool
    keep_alive: float | None
    expires_at: float | None
    eta_s: float | None
    waiting: int


class ModelList(Shape):
    object: Literal["list"]
    data: list[Model]


class Ordered(Shape):
    """llama.cpp's answer."""

    success: bool
