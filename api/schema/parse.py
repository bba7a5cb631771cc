"""JSON object -> typed request, or a refusal that names the field. Later code does not check shapes again."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from api.process.offload import offload
from api.schema.unsupported import Refusal
from common.errors import InvalidRequest

MAX_NAME = 64  # characters of a field's name that a refusal quotes

INPUT_SHOULD = "Input should "  # how pydantic begins
JSON_TYPES: Mapping[str, str] = MappingProxyType(
    {
        "string_type": "a string",
        "list_type": "a list",
        "bool_type": "true or false",
        "float_type": "a number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "dict_type": "an object",
        "model_type": "an object",
        "model_attributes_type": "an object",
    }
)

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
        raise refusal(error, body) from None


def refusal(error: ValidationError, body: Mapping[str, Any]) -> InvalidRequest:
    """The fault, in one sentence that names the field of the body."""
    found = _deepest(error, body)
    place = _sent(found, body)
    kinds = [fault["type"] for fault in error.errors(include_url=False) if _sent(fault, body) == place]
    wanted = dict.fromkeys(JSON_TYPES[kind] for kind in kinds if kind in JSON_TYPES)  # of each member of a union
    says = f" must be {' or '.join(wanted)}" if found["type"] in JSON_TYPES else _says(found)
    return InvalidRequest(f"'{(param := _path(place))}'{says}.", param=param)


def _says(fault: ErrorDetails) -> str:
    """What follows the field's name: our words where pydantic's are of Python."""
    bounds = fault.get("ctx", {})
    match fault["type"]:
        case "missing":
            return " is required"
        case "too_short":
            return f" must have {bounds['min_length']} or more items"
        case "too_long":
            return f" must have {bounds['max_length']} items at most, not {bounds['actual_length']}"
        case "string_too_short":
            return f" must have {bounds['min_length']} or more characters"
        case "string_too_long":
            return f" must have {bounds['max_length']} characters at most"
    message = str(fault["msg"]).removeprefix("Value error, ")
    if message.startswith(INPUT_SHOULD):
        return f" must {message.removeprefix(INPUT_SHOULD)}"
    return f" {message}" if message.startswith("must ") else f": {message[:1].lower()}{message[1:]}"


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


def _deepest(error: ValidationError, body: Mapping[str, Any]) -> ErrorDetails:
    """The first fault. In a union, the fault of the member that matched furthest, if possible in its type too."""
    faults = error.errors(include_url=False)
    first, sent = faults[0]["loc"], _sent(faults[0], body)
    at = next((at for at, part in enumerate(sent) if part is not first[at]), len(sent))
    place = first[: at if at < len(first) and len(sent) < len(first) else -1]
    return max(
        (fault for fault in faults if fault["loc"][: len(place)] == place),
        key=lambda fault: (len(fault["loc"]), not fault["type"].endswith("_type")),
    )


def _sent(fault: ErrorDetails, body: Any) -> list[str | int]:
    """The path of a fault in the body as sent: without the names of union members that pydantic puts into it."""
    *parts, last = fault["loc"]
    path: list[str | int] = []
    value: Any = body
    for part in parts:
        if isinstance(part, int):
            path.append(part)
            value = value[part] if isinstance(value, list) and part < len(value) else None
        elif isinstance(value, dict) and part in value:
            path.append(part)
            value = value[part]
    is_field = isinstance(last, int) or fault["type"] == "missing" or (isinstance(value, dict) and last in value)
    return [*path, last] if is_field else path


def _path(location: Sequence[str | int]) -> str:
    """['messages', 0, 'role'] -> 'messages[0].role'."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part[:MAX_NAME]}" if path else part
    return path
