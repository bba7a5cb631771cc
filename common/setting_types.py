"""Types of settings, which turn a setting's text into a value or refuse it, and the sentences that refuse."""

import io
import re
from collections.abc import Collection, Mapping
from decimal import Decimal
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any
from urllib.parse import urlsplit

from dotenv import dotenv_values
from dotenv.parser import parse_stream
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

DEMO_MODEL = Path(__file__).resolve().parent.parent / "demo" / "model"
WEBHOOK_QUEUE = "omni-webhooks"  # RQ's queue of the dispatcher: no model may have this name
MAX_ADAPTER_NAME = 128  # characters
MIN_MEMORY = 16 * 2**20  # the largest request body and what is made of it
UNITS = MappingProxyType({"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40})
BYTES = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?(b|kb|mb|gb|tb|)")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([^\s/?#@:\[\]]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?", re.IGNORECASE)
ENGINE = re.compile(r"vllm\+https?://([^/@\s]*@)?[^/@\s]+(/[^@\s]*)?")
GGUF_ENDING = re.compile(r"(-\d{5}-of-\d{5})?\.gguf$")
HOST = re.compile(r"(?=.*[A-Za-z])(\*\.)?[\w-]+(\.[\w-]+)*", re.ASCII)
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,3})?")
NO_REDIS_ADDRESS = (
    "REDIS_URL is not a Redis address; write redis://user:password@host:6379/0, rediss://..., unix:///path or "
    "redis+sentinel://:password@host:26379/service, with %2F for a / in a password."
)

REMOVED = MappingProxyType(
    {
        "OMNI_OVERLAP": "steps overlap on a GPU and take turns on a CPU; remove it.",
        "OMNI_MAX_STEP_TOKENS": "it follows from the model and the device; remove it.",
        "OMNI_FAILURE_TTL": "failures are kept as long as answers; set OMNI_RESULT_TTL.",
        "OMNI_ENGINE_KEY": "write the key into the address: OMNI_ENGINE=vllm+http://:KEY@host:port.",
        "OMNI_EMBEDDING_MODEL_NAME": (
            "the id is the last part of OMNI_EMBEDDING_MODEL; to change it, point that at a symbolic link with the "
            "name you want."
        ),
        "OMNI_EMBEDDING_DEVICE": (
            "the encoder runs on the CPU; for a GPU start `worker.main --embeddings --device cuda:1`."
        ),
        "OMNI_ALLOWED_HOSTS": "add https://NAME to OMNI_CORS_ORIGINS, whose hosts are answered on loopback.",
        "OMNI_DASHBOARD_PASSWORD": "set OMNI_ADMIN_KEYS; the dashboard then asks for user `omni` and one of them.",
        "OMNI_DASHBOARD_WRITABLE": "the dashboard is read-only; cancel jobs with `omni cancel` or on the board.",
        "OMNI_LOG_FORMAT": "logs are plain text on a terminal and JSON elsewhere; remove it.",
        "OMNI_OTLP_ENDPOINT": "set OTEL_EXPORTER_OTLP_ENDPOINT, OpenTelemetry's own name for it.",
    }
)  # what to do instead


def setting(name: str, default: Any, **limits: Any) -> Any:
    """A field with its environment name and its default."""
    return Field(default, validation_alias=name, **limits)


class SettingsGroup(BaseModel):
    model_config = ConfigDict(frozen=True)


def read_file(path: Path) -> dict[str, str]:
    """The values of a `.env` file; none without one. Raises ValueError for a line that python-dotenv would skip."""
    try:
        text = path.read_text(encoding="utf-8-sig") if path.is_file() or path.is_fifo() else ""
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error}.") from None
    for line in parse_stream(io.StringIO(text)):
        if line.error or (line.key and line.value is None):
            raise ValueError(
                f"{path}, line {line.original.line} is not NAME=value, or its quote is not closed; correct it."
            )
    return {name: value or "" for name, value in dotenv_values(stream=io.StringIO(text)).items()}


def split(text: str) -> tuple[str, ...]:
    """The parts of a comma separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def last_part(model: str) -> str:
    """The name of a model's folder, repository or GGUF file, without the latter's ending."""
    return GGUF_ENDING.sub("", model.rstrip("/").rsplit("/", 1)[-1])


def parse_adapters(text: str) -> tuple[tuple[str, str], ...]:
    """'sql=/models/sql,de=/models/de' as pairs of name and folder."""
    pairs = [(name.strip(), path.strip()) for name, _, path in (part.partition("=") for part in split(text))]
    if len(dict(pairs)) < len(pairs) or not all(is_adapter_name(name) and path for name, path in pairs):
        raise ValueError("write NAME=FOLDER,NAME=FOLDER, with another name for each, without spaces")
    return tuple(pairs)


def is_adapter_name(name: str) -> bool:
    """A model id that can be written in the setting, and in a URL: clients take out "..", servers "//"."""
    is_short = 0 < len(name) <= MAX_ADAPTER_NAME
    return is_short and name.isprintable() and not set(name) & set(" ,=") and not {*name.split("/")} & {"", ".", ".."}


def parse_bytes(text: str) -> int | None:
    """'512mb' is 512 * 2**20, with the units of Valkey's own settings; '0.5gb' is the same, '' is None."""
    if not text.strip():
        return None
    found = BYTES.fullmatch(text.strip().lower())
    number = int(Decimal(found[1]) * UNITS[found[2]]) if found else 0
    if number < MIN_MEMORY:
        raise ValueError("it must be a number of bytes, such as 512mb or 1.5gb, and 16mb at least")
    return number


def parse_warm(text: str) -> int | None:
    """As parse_bytes(), but 0 is allowed: nothing is kept."""
    return 0 if text.strip() == "0" else parse_bytes(text)


def is_origin(text: str) -> bool:
    """True for scheme://host[:port], as browsers send it; a slash at the end is allowed."""
    return ORIGIN.fullmatch(text) is not None


def none_if_empty(text: Any) -> Any:
    return None if text == "" else text


def check_not_empty(text: Any) -> Any:
    if not str(text).strip():
        raise ValueError("it must not be empty")
    return text


def check_device(text: str) -> str:
    if not DEVICE.fullmatch(text):
        raise ValueError("it must be auto, cpu, cuda or cuda:N")
    return text


def check_engine(text: str) -> str:
    if text and not (ENGINE.fullmatch(text) and is_url(text)):
        raise ValueError("it must be empty or vllm+http://host:port, with a key vllm+http://:KEY@host:port")
    return text


def check_store(text: str) -> str:
    if text and not (re.fullmatch(r"postgres(ql)?://\S+|sqlite:///\S+", text) and has_port(text)):
        raise ValueError("it must be empty, postgresql://user:password@host/database or sqlite:////path/to/file")
    return text


def check_api(text: str) -> str:
    if text and not (re.fullmatch(r"https?://[^/?#@\s]+/?", text) and is_url(text)):
        raise ValueError("it must be empty or http://host:port of the API")
    return text


def check_hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        try:
            ip_network(name.strip("[]"), strict=False)
        except ValueError:
            if not HOST.fullmatch(name):
                raise ValueError(
                    "it must be empty, or hosts without a port (name, *.name), addresses and networks (10.1.0.0/16)"
                ) from None
    return names


def is_url(text: str) -> bool:
    """Whether it has a host, and no port that is not a number."""
    try:
        parts = urlsplit(text)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def has_port(text: str) -> bool:
    """Whether its port, if it has one, is a number. A host may be missing: PostgreSQL on this machine's socket."""
    try:
        return urlsplit(text).port != 0
    except ValueError:
        return False


def is_redis_address(url: str) -> bool:
    """Checks the form only. redis+sentinel:// needs hosts and a service, unix:// a path."""
    try:
        parts = urlsplit(url)
        hosts = [urlsplit(f"//{host}") for host in parts.netloc.rpartition("@")[2].split(",")]
        has_ports = all(host.port is None or host.port for host in hosts)  # reading it raises ValueError
    except ValueError:
        return False
    path = [part for part in parts.path.split("/") if part]
    if parts.scheme == "redis+sentinel":
        return all(host.hostname for host in hosts) and len(path) in (1, 2) and "".join(path[1:] or "0").isdigit()
    has_database = re.search(r"(^|&)db=(?!\d+(&|$))", parts.query) is None
    is_known = parts.scheme in ("redis", "rediss") or (parts.scheme == "unix" and bool(path))
    return is_known and has_database and has_ports


def suggestion(name: str, known: Collection[str]) -> str:
    """What to do about an unknown name."""
    near = get_close_matches(name, known, 1, cutoff=0.8)
    return f"did you mean {near[0]}?" if near else ".env.example lists them all."


def merged(of_file: Mapping[str, str], environment: Mapping[str, str], known: Collection[str]) -> dict[str, str]:
    """The environment's values, and those of `.env` that it lacks.

    Raises ValueError for a name without OMNI_ that is nearly a setting's: it would be ignored.
    The environment is other programs' too: of its names only those with OMNI's letters in another order or case.
    """
    for name in sorted(environment):
        first, _, rest = name.upper().partition("_")
        is_jumbled = sorted(first) == sorted("OMNI") and not name.startswith("OMNI_")
        if is_jumbled and (near := get_close_matches(f"OMNI_{rest}", known, 1, cutoff=0.8)):
            raise ValueError(f"{name} is not a setting; did you mean {near[0]}?")
    for name in sorted(set(of_file) - set(known)):
        near = get_close_matches(name.upper(), known, 1, cutoff=0.85)
        if near and not name.startswith("OMNI_"):
            raise ValueError(f".env: {name} is not a setting; did you mean {near[0]}?")
    return {**of_file, **environment}


def refusal(fields: Mapping[str, FieldInfo], error: ErrorDetails) -> str:
    """One sentence for a refused value, or for values that do not go together. It leaves out what may hold a key."""
    if not error["loc"]:
        return text_of(error)
    name = str(error["loc"][0])
    value = "" if "@" in str(error["input"]) else f"={error['input']!r}"
    return f"{name}{value} is refused: {allowed(fields[name], error)}."


def text_of(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ")


def allowed(field: FieldInfo, error: ErrorDetails) -> str:
    """The values that a field takes: its range, its choices, or the text of its own check."""
    limits = {
        name: getattr(part, name) for part in field.metadata for name in ("gt", "ge", "le") if hasattr(part, name)
    }
    if limits:
        empty = "empty or " if field.default is None else ""
        kind = "a number" if field.annotation is float else "a whole number"
        return f"it must be {empty}{kind} {range_of(**limits)}"
    if error["type"] == "literal_error":
        return f"it must be {error['ctx']['expected']}".replace("''", "empty").replace("'", "")
    return text_of(error)


def range_of(gt: float | None = None, ge: int | None = None, le: int | None = None) -> str:
    if gt is not None:
        return f"above {gt:g}" + (f" and up to {le:g}" if le is not None else "")
    return f"from {ge} to {le}" if le is not None else f"of at least {ge}"


Names = Annotated[tuple[str, ...], BeforeValidator(split)]
Hosts = Annotated[Names, AfterValidator(check_hosts)]
Adapters = Annotated[tuple[tuple[str, str], ...], BeforeValidator(parse_adapters)]
AutoInt = Annotated[int | None, BeforeValidator(none_if_empty)]
Bytes = Annotated[int | None, BeforeValidator(parse_bytes)]
WarmBytes = Annotated[int | None, BeforeValidator(parse_warm)]
NonEmpty = Annotated[str, AfterValidator(check_not_empty)]
Folder = Annotated[Path, BeforeValidator(check_not_empty)]
Device = Annotated[str, AfterValidator(check_device)]
EngineAddress = Annotated[str, AfterValidator(check_engine)]
StoreAddress = Annotated[str, AfterValidator(check_store)]
ApiAddress = Annotated[str, AfterValidator(check_api)]
