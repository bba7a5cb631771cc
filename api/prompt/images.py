"""The images in a conversation's content parts: checked, and put where a chat template takes them."""

from collections.abc import Sequence

from api.schema.chat import Message, Part
from common.errors import InvalidRequest
from common.images import MAX_IMAGES, opened
from common.wire import ModelCard

IMAGE_TYPES = ("image_url", "input_image")


def is_image(part: Part) -> bool:
    return part.type in IMAGE_TYPES


def images_of(messages: Sequence[Message], card: ModelCard) -> tuple[str, ...]:
    """Data URLs of placed messages, in the order of the conversation."""
    if not card.accepts_images:
        return ()
    return tuple(part.image_url.url for message in messages for part in _images(message) if part.image_url)


def placed_images(messages: Sequence[Message], card: ModelCard) -> list[Message]:
    """The messages with no image in a tool's result, for which templates have no place.

    An agent that reads a picture by a tool sends it again with each later request, so a refusal would end its session.
    A vision model gets such images in a user's message after the results. A line of text stands for those that cannot
    be taken, and for all of them on a text model. Raises InvalidRequest for an image in another message, by name.
    """
    num_own = _num_checked(messages) if card.accepts_images else 0
    num_of_tools = sum(len(_images(message)) for message in messages if message.role == "tool")
    num_left_out = max(0, num_of_tools + num_own - MAX_IMAGES)  # the first ones
    placed: list[Message] = []
    shown: list[Part] = []  # images of the results so far, for the next user's message
    for message in messages:
        if message.role == "tool" and _images(message):
            num_here = len(_images(message))
            message, images = _without_images(message, card, num_left_out)
            num_left_out, shown = num_left_out - num_here, shown + images
        elif shown and message.role != "tool":
            before, shown = Message(role="user", content=shown), []
            if message.role == "user":
                message = message.model_copy(update={"content": [*_parts(before), *_parts(message)]})
            else:
                placed.append(before)
        placed.append(message)
    return [*placed, Message(role="user", content=shown)] if shown else placed


def _without_images(message: Message, card: ModelCard, num_left_out: int) -> tuple[Message, list[Part]]:
    """A tool's result with a line of text for each image, and the images that the model gets."""
    parts: list[Part] = []
    shown: list[Part] = []
    for part in _parts(message):
        fault = _fault(part, card, is_too_many=num_left_out > 0) if is_image(part) else ""
        num_left_out -= is_image(part)
        parts.append(Part(type="text", text=fault or "[image: below]") if is_image(part) else part)
        shown += [part] if is_image(part) and not fault else []
    return message.model_copy(update={"content": parts}), shown


def _parts(message: Message) -> list[Part]:
    return message.content if isinstance(message.content, list) else [Part(type="text", text=message.content or "")]


def _images(message: Message) -> list[Part]:
    return [part for part in message.content if is_image(part)] if isinstance(message.content, list) else []


def _num_checked(messages: Sequence[Message]) -> int:
    """The number of images outside tools' results. Raises InvalidRequest for one that cannot be taken."""
    num_images = 0
    for number, message in enumerate(messages):
        if message.role == "tool" or not isinstance(message.content, list):
            continue
        for index, part in enumerate(message.content):
            if is_image(part):
                num_images += 1
                check_image(part, f"messages[{number}].content[{index}]")
    if num_images > MAX_IMAGES:
        raise InvalidRequest(f"A request may have {MAX_IMAGES} images; this one has {num_images}.", param="messages")
    return num_images


def check_image(part: Part, param: str) -> None:
    """Raises InvalidRequest that names the part."""
    if part.image_url is None:
        raise InvalidRequest(f"'{param}': an image needs 'image_url'.", param=param)
    opened(part.image_url.url, param)


def _fault(part: Part, card: ModelCard, *, is_too_many: bool) -> str:
    """What stands for an image that the model does not get; '' for one that it gets."""
    if not card.accepts_images:
        return "[image left out: this model reads text only]"
    if is_too_many:
        return f"[image left out: a request may have {MAX_IMAGES}, and later ones come first]"
    try:
        check_image(part, "image")
    except InvalidRequest as error:
        return f"[image left out: {error}]"
    return ""
