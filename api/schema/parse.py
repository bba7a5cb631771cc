"""JSON object -> typed request, or a refusal that names the field. Later code does not check shapes again."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.process.offload import offload
from api.schema.unsupported import Refusal
from common.errors import InvalidRequest

MAX_NAME = 64  # characters of a field's name that a refusal quotes
UNION_MEMBERS = frozenset(
    {"str", "NamedTool", "AllowedToolsChoice"}
)  # names of union members, which pydantic puts into its paths

T = TypeVar("T", bound=BaseModel)


def parse(model: type[T], body: dict[str, Any]) -> T:
    """The typed request. Raises InvalidRequest that names the field and says what is allowed."""
    parsed: T = offload(_parsed, model, body)
    return parsed


def _parsed(model: type[T], body: dict[str, Any]) -> T:
    refuse_unsupported(model, body)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise refusal(error) from None


def refusal(error: ValidationError) -> InvalidRequest:
    """The fault, in one sentence that names the field."""
    found = _deepest(error)
    param = _path(found["loc"])
    message = str(found["msg"]).removeprefix("Value error, ")
    return InvalidRequest(f"'{param}': {message[:1].lower()}{message[1:]}.", param=param)


def known_only(value: Any, raw: Any) -> Any:
    """`raw` without the fields that the schema does not know; `value` is its parsed form."""
    if isinstance(value, BaseModel) and isinstance(raw, dict):
        names = {name: field.alias or name for name, field in type(value).model_fields.items()}
        return {
            sent: known_only(getattr(value, name), raw[sent])
            for name, sent in names.items()
            if raw.get(sent) is not None
        }
    if isinstance(value, list) and isinstance(raw, list):
        return [known_only(part, sent) for part, sent in zip(value, raw, strict=True)]
    return raw


def refuse_unsupported(model: type[BaseModel], body: Mapping[str, Any]) -> None:
    """Raises InvalidRequest for a field of `model.refused`, unless its value asks for nothing."""
    refused: Mapping[str, Refusal] = getattr(model, "refused", {})
    for name in body.keys() & refused.keys():
        if body[name] and body[name] not in refused[name].harmless:
            raise InvalidRequest(f"'{name}' {refused[name].why}.", param=name)


def _deepest(error: ValidationError) -> ErrorDetails:
    """The first fault. In a union, the fault of the member that matched furthest, if possible in its type too."""
    faults = error.errors(include_url=False)
    first = faults[0]["loc"]
    place = next((first[:at] for at, part in enumerate(first) if _is_member(part)), first[:-1])
    return max(
        (fault for fault in faults if fault["loc"][: len(place)] == place),
        key=lambda fault: (len(fault["loc"]), not fault["type"].endswith("_type")),
    )


def _is_member(part: str | int) -> bool:
    """True for the name of a union's member, which pydantic puts into a path."""
    return isinstance(part, str) and (part in UNION_MEMBERS or not part.isidentifier())


def _path(location: tuple[str | int, ...]) -> str:
    """('messages', 0, 'role') -> 'messages[0].role'; pydantic's names of union members are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not _is_member(part):
            path += f".{part[:MAX_NAME]}" if path else part
    return path
