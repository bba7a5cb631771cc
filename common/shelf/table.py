"""The table of models, OMNI_MODELS: a TOML file with a [[model]] for each. docs/many-models.md lists its keys."""

import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeVar

from common.setting_types import DEMO_MODEL, MAX_ADAPTER_NAME, WEBHOOK_QUEUE, is_adapter_name
from common.shelf.keep_alive import parse_keep_alive

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("", "int8", "int4", "fp8")
MIN_LENGTH = 16  # tokens, as of OMNI_MAX_MODEL_LEN
PATH_STARTS = ("/", "./", "../", "~")
MODEL_HINT = "name a folder, a .gguf file, a Hugging Face id such as owner/name, or demo"


class TableFault(ValueError):
    """One sentence that names the file, the model, the key, what is allowed and what to do."""


class CopiedSettings(Protocol):
    """What TableModel asks of ModelSettings, which it cannot import: the settings hold the table."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self: ...


S = TypeVar("S", bound=CopiedSettings)


@dataclass(frozen=True)
class TableModel:
    """A [[model]] of the table. None stands for the settings, which hold for every model."""

    ids: tuple[str, ...]  # what clients write; the first is the queue's name
    source: str  # a folder, a file or a hub id
    dtype: str | None = None
    quantize: str = ""
    max_model_len: int | None = None
    adapters: tuple[tuple[str, str], ...] = ()  # name and folder of each
    is_pinned: bool = False  # never leaves the device
    keep_alive_s: float | None = None  # idle seconds, then it leaves; below 0: never; None: when its place is needed
    draft: str = ""  # a folder or hub id

    @property
    def queue(self) -> str:
        return self.ids[0]

    def settings_over(self, base: S) -> S:
        """The ModelSettings of this model: what its [[model]] says, else what holds for every model."""
        given: dict[str, Any] = {
            "source": self.source,
            "given_names": self.ids,
            "quantize": self.quantize,
            "adapters": self.adapters,
            "draft_model": self.draft,
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
        }
        return base.model_copy(update={name: value for name, value in given.items() if value is not None})


def read_table(path: Path) -> tuple[TableModel, ...]:
    """The models in the file's order. Their folders are not looked into: table_fault() does. Raises TableFault."""
    path = file_at(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TableFault(f"OMNI_MODELS={path}: there is no such file; make it with omni models add.") from None
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise TableFault(f"OMNI_MODELS={path} cannot be read ({reason}); name a TOML file.") from None
    return parse_table(text, path)


def file_at(path: Path) -> Path:
    """The place of OMNI_MODELS. Raises TableFault."""
    try:
        return path_from(Path(), str(path))
    except ValueError as error:
        raise TableFault(f"OMNI_MODELS={path}: {error}.") from None


def path_from(folder: Path, text: str) -> Path:
    """A path as it is written in this folder, its ~ replaced. Raises ValueError for a user who is not there."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        user = text.partition("/")[0][1:]
        raise ValueError(f"this machine has no home folder of a user {user!r}; write the whole path") from None


def parse_table(text: str, path: Path) -> tuple[TableModel, ...]:
    """As read_table(), of a text that this file holds or is to hold. Raises TableFault."""
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise TableFault(f"{path} is not TOML: {error}; correct that line.") from None
    if others := sorted(content.keys() - {"model"}):
        raise TableFault(f"{path}: {others[0]} stands outside the models; write all keys below a [[model]].")
    tables = content.get("model", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise TableFault(f"{path}: model is one table; write [[model]], with two pairs of brackets, above each model.")
    if not tables:
        raise TableFault(f"{path} has no [[model]]; add one with omni models add.")
    models = tuple(model_of(table, number, path) for number, table in enumerate(tables, 1))
    check_names(models, path)
    return models


def model_of(table: Mapping[str, Any], number: int, path: Path) -> TableModel:
    place = f"{path}, [[model]] {name_in(table) or number}"
    if unknown := [key for key in table if key not in PARSERS]:
        near = get_close_matches(unknown[0], PARSERS, 1, cutoff=0.7)
        todo = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(PARSERS)}."
        raise TableFault(f"{place}: {unknown[0]} is not a key; {todo}")
    if "id" in table and "ids" in table:
        raise TableFault(f"{place}: id and ids are both there; keep one of them.")
    if not table.keys() & {"id", "ids"}:
        raise TableFault(f'{place}: there is no id; add the name that clients write, such as id = "qwen3-8b".')
    if "model" not in table:
        raise TableFault(f"{place}: there is no model; {MODEL_HINT}.")
    values = {}
    for key, value in table.items():
        try:
            values[key] = PARSERS[key](value, path.parent)
        except ValueError as error:
            raise TableFault(f"{place}: {key}={shown(value)} is refused: {error}.") from None
    names = {"id": "ids", "model": "source", "pin": "is_pinned", "keep_alive": "keep_alive_s"}
    return TableModel(**{names.get(key, key): value for key, value in values.items()})


def no_such_model(name: str, ids: Sequence[str]) -> str:
    """The sentence, with the id that was probably meant, else with all."""
    near = get_close_matches(name, ids, 1)
    return f"There is no model {name!r}; " + (f"did you mean {near[0]}?" if near else f"there are {', '.join(ids)}.")


def no_model_of(path: Path, name: str, models: Sequence[TableModel]) -> TableFault:
    sentence = no_such_model(name, [one for model in models for one in model.ids])
    return TableFault(f"{path}: {sentence[0].lower()}{sentence[1:]}")


def name_in(table: Mapping[str, Any]) -> str:
    """The id as far as it can be read."""
    ids = table.get("ids")
    name = table.get("id") or (ids[0] if isinstance(ids, list) and ids else "")
    return name if isinstance(name, str) else ""


def shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_names(models: Sequence[TableModel], path: Path) -> None:
    """Raises TableFault for a name that stands for two things."""
    taken: dict[str, str] = {}
    named = [(name, f"the id of [[model]] {model.queue}") for model in models for name in model.ids]
    named += [(name, f"the adapter of [[model]] {model.queue}") for model in models for name, _ in model.adapters]
    for name, what in named:
        if name == WEBHOOK_QUEUE:
            raise TableFault(f"{path}: a model cannot be called {name!r}, the dispatcher's own queue; choose another.")
        if name in taken:
            whose = "twice" if taken[name] == what else f"and {taken[name]}"
            raise TableFault(f"{path}: {name!r} is {what} {whose}; give each another name.")
        taken[name] = what


def parse_id(value: object, _: Path) -> tuple[str, ...]:
    if not isinstance(value, str) or not is_adapter_name(value):
        raise ValueError(f"it must be a text of up to {MAX_ADAPTER_NAME} characters without spaces, commas and = signs")
    return (value,)


def parse_ids(value: object, folder: Path) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError('it must be a list of names, such as ["qwen3-8b", "default"]')
    return tuple(name for item in value for name in parse_id(item, folder))


def parse_source(value: object, folder: Path) -> str:
    """A path from the table's folder where there is something, else a hub id."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError(MODEL_HINT)
    if value == "demo":
        return str(DEMO_MODEL)
    path = path_from(folder, value)
    is_path = value.startswith(PATH_STARTS) or value.endswith(".gguf") or os.path.exists(path)
    return str(path.absolute()) if is_path else value


def parse_draft(value: object, folder: Path) -> str:
    return "" if value == "" else parse_source(value, folder)


def parse_choice(choices: Sequence[str], value: object, _: Path) -> str:
    if value not in choices:
        names = [choice or "empty" for choice in choices]
        raise ValueError(f"it must be {', '.join(names[:-1])} or {names[-1]}")
    return str(value)


def parse_length(value: object, _: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < MIN_LENGTH:
        raise ValueError(f"it must be a whole number of at least {MIN_LENGTH} tokens")
    return value


def parse_adapters(value: object, folder: Path) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, dict) or not all(isinstance(path, str) and path for path in value.values()):
        raise ValueError('it must be a table of names and folders, such as { sql = "/models/sql" }')
    if wrong := [name for name in value if not is_adapter_name(name)]:
        raise ValueError(f"{wrong[0]!r} is no name; write one without spaces, commas and = signs")
    return tuple((name, str(path_from(folder, path).absolute())) for name, path in value.items())


def parse_pin(value: object, _: Path) -> bool:
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


PARSERS: Mapping[str, Callable[[Any, Path], Any]] = MappingProxyType(
    {
        "id": parse_id,
        "ids": parse_ids,
        "model": parse_source,
        "dtype": partial(parse_choice, DTYPES),
        "quantize": partial(parse_choice, QUANTIZATIONS),
        "max_model_len": parse_length,
        "adapters": parse_adapters,
        "pin": parse_pin,
        "keep_alive": lambda value, _: parse_keep_alive(value),
        "draft": parse_draft,
    }
)  # of each key's value, from the table's folder
