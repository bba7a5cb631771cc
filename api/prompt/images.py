"""The images in a conversation's content parts, checked, for the worker to read."""

from collections.abc import Sequence

from api.schema.chat import Message, Part
from common.errors import InvalidRequest
from common.images import MAX_IMAGES, opened
from common.wire import ModelCard

IMAGE_TYPES = ("image_url", "input_image")


def is_image(part: Part) -> bool:
    return part.type in IMAGE_TYPES


def images_of(messages: Sequence[Message], card: ModelCard) -> tuple[str, ...]:
    """Data URLs in the order of the conversation. Raises InvalidRequest that names the part."""
    if not card.accepts_images:
        return ()
    found = [
        (part, f"messages[{number}].content[{index}]")
        for number, message in enumerate(messages)
        for index, part in enumerate(message.content if isinstance(message.content, list) else ())
        if is_image(part)
    ]
    if len(found) > MAX_IMAGES:
        raise InvalidRequest(f"A request may have {MAX_IMAGES} images; this one has {len(found)}.", param="messages")
    return tuple(checked(part, param) for part, param in found)


def checked(part: Part, param: str) -> str:
    if part.image_url is None:
        raise InvalidRequest(f"'{param}': an image needs 'image_url'.", param=param)
    opened(part.image_url.url, param)
    return part.image_url.url
