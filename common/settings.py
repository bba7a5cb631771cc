"""What an operator may turn: read once at process start from the environment and `.env`, frozen, refused when wrong."""

import os
import re
import sys
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn

from pydantic import AliasChoices, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent
DEMO_MODEL = ROOT / "demo" / "model"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SOCKET = "valkey.sock"
MAX_SOCKET_PATH = 100  # the kernel takes 107 bytes
LEAST_MEMORY = 16 * 2**20  # the largest body and what is made of it
UNITS = MappingProxyType({"": 1, "b": 1, "kb": 2**10, "mb": 2**20, "gb": 2**30, "tb": 2**40})
BYTES = re.compile(r"(\d{1,15}) ?(b|kb|mb|gb|tb|)")


class SettingsError(Exception):
    """One sentence that names the setting, what is allowed and what to do."""


class Settings(BaseSettings):
    """Every setting, with its default. `OMNI_MAX_QUEUE=64` sets `max_queue`."""

    model_config = SettingsConfigDict(env_prefix="OMNI_", env_file=".env", frozen=True, extra="ignore")

    # where it listens and who may call
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65535)
    api_keys: str = "sk-local"
    admin_keys: str = ""
    cors_origins: str = "http://localhost,http://127.0.0.1"
    allowed_hosts: str = ""
    api_processes: int = Field(1, ge=1, le=64)
    max_connections_per_address: int = Field(1000, ge=0, le=1_000_000)
    # the model
    model: str = str(DEMO_MODEL)
    model_name: str = ""
    engine: str = Field("", pattern=r"^(vllm\+https?://[^/@\s]+(/\S*)?)?$")
    engine_key: str = ""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal["", "int8", "int4", "fp8"] = ""
    speculate: int = Field(0, ge=0, le=16)
    overlap: bool | None = None
    tensor_parallel: int = Field(1, ge=1, le=64)
    threads: int | None = Field(None, ge=1, le=1024)
    max_num_seqs: int | None = Field(None, ge=1, le=4096)
    max_model_len: int | None = Field(None, ge=16)
    max_step_tokens: int | None = Field(None, ge=16)
    # an encoder beside it, for /v1/embeddings
    embedding_model: str = ""
    embedding_model_name: str = ""
    embedding_device: str = "cpu"
    # the line, and how long things are kept
    max_queue: int = Field(1000, ge=1, le=1_000_000)
    result_ttl: int = Field(3600, ge=1)
    failure_ttl: int = Field(3600, ge=1)
    step_timeout: float = Field(60.0, gt=0)
    # Redis, files, logs, dashboard
    log_format: Literal["plain", "json"] = "plain"
    otlp_endpoint: str = ""
    data_dir: Path = Path(".data")
    max_memory: int | None = None
    redis_url: str = Field("", validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    dashboard_port: int = Field(9181, ge=1, le=65535)
    dashboard_password: str = ""
    dashboard_writable: bool = False

    @field_validator("overlap", "threads", "max_num_seqs", "max_model_len", "max_step_tokens", mode="before")
    @classmethod
    def empty_means_default(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("max_memory", mode="before")
    @classmethod
    def with_unit(cls, value: Any) -> Any:
        """'512mb' is 512 * 2**20, as Valkey has it."""
        if value in ("", None):
            return None
        found = BYTES.fullmatch(str(value).strip().lower())
        number = int(found[1]) * UNITS[found[2]] if found else 0
        if number < LEAST_MEMORY:
            raise ValueError("it is a number of bytes, such as 512mb or 2gb, and 16mb at least")
        return number

    @model_validator(mode="after")
    def check(self) -> "Settings":
        if not self.keys:
            raise ValueError("OMNI_API_KEYS must hold at least one key; set it to a comma separated list.")
        if shared := set(self.served_names) & set(self.embedding_names):
            raise ValueError(f"OMNI_EMBEDDING_MODEL_NAME and OMNI_MODEL_NAME both name {shared.pop()!r}.")
        if self.tensor_parallel > 1 and (self.engine or self.quantize or self.device != "auto"):
            raise ValueError("OMNI_TENSOR_PARALLEL goes with OMNI_DEVICE=auto, no OMNI_ENGINE and no OMNI_QUANTIZE.")
        if len(str(self.socket_path)) > MAX_SOCKET_PATH and not self.redis_url:
            raise ValueError("OMNI_DATA_DIR is too long for a unix socket (100 characters); choose a shorter folder.")
        if self.max_memory is not None and self.redis_url:
            raise ValueError("OMNI_MAX_MEMORY is for the embedded Valkey; with REDIS_URL set maxmemory in that server.")
        if self.redis_url:
            from common.redis.connection import connect  # it imports us, and most starts need none of it

            connect(self.redis_url)  # which connects with the first command only
        if self.engine and (self.quantize or self.speculate or self.overlap):
            raise ValueError(
                "OMNI_QUANTIZE, OMNI_SPECULATE and OMNI_OVERLAP are for our own engine; "
                "set them where OMNI_ENGINE runs."
            )
        return self

    @property
    def engine_url(self) -> str:
        """Where the engine is that generates for us; empty: it is our own."""
        return self.engine.removeprefix("vllm+")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return split(self.api_keys)

    @cached_property
    def admins(self) -> tuple[str, ...]:
        """Keys that may see every job. On loopback the ordinary keys are the operator's own."""
        return split(self.admin_keys) or (self.keys if self.is_loopback else ())

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK

    @property
    def is_demo(self) -> bool:
        return Path(self.model) == DEMO_MODEL

    @cached_property
    def served_names(self) -> tuple[str, ...]:
        """The ids that clients may use; the first names the queue."""
        default = "deepseek-v3.2,omni-demo" if self.is_demo else last_part(self.model)
        return split(self.model_name) or split(default)

    @cached_property
    def embedding_names(self) -> tuple[str, ...]:
        """The ids that clients use for embeddings; none without an encoder."""
        return (split(self.embedding_model_name) or (last_part(self.embedding_model),)) if self.embedding_model else ()

    @property
    def queue(self) -> str:
        return self.served_names[0]

    @property
    def socket_path(self) -> Path:
        return self.data_dir.resolve() / SOCKET

    @property
    def redis(self) -> str:
        """Where Redis is: `REDIS_URL`, or the embedded server's unix socket."""
        return self.redis_url or f"unix://{self.socket_path}"


def torchrun_place() -> tuple[int, int] | None:
    """Rank and number of ranks, if torchrun started this process."""
    rank, size = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    return (int(rank), int(size)) if rank and size and "MASTER_ADDR" in os.environ else None


def started_by_honcho() -> bool:
    """It runs our Procfile, and a child of it stands between it and us."""
    return "HONCHO_PROCESS_NAME" in os.environ


def split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def last_part(model: str) -> str:
    return model.rstrip("/").rsplit("/", 1)[-1]


def load_settings() -> Settings:
    """Raises SettingsError with one sentence for an unknown name or a bad value."""
    known = {f"OMNI_{name.upper()}" for name in Settings.model_fields}
    if unknown := sorted(name for name in os.environ if name.startswith("OMNI_") and name not in known):
        raise SettingsError(f"{unknown[0]} is not a setting; .env.example lists them all.")
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        name = {"redis_url": "REDIS_URL"}.get(field, f"OMNI_{field.upper()}")
        reason = str(first["msg"]).removeprefix("Value error, ")
        if not field:
            raise SettingsError(reason) from None
        raise SettingsError(f"{name}={first['input']!r} is refused: {reason}. See .env.example.") from None


def settings_or_exit() -> Settings:
    """For a process's first line: the settings, or one sentence on stderr and exit status 2."""
    try:
        return load_settings()
    except SettingsError as error:
        refuse(str(error))


def refuse(sentence: str) -> NoReturn:
    """End the process: starting it again would not help, and its parent knows that by the status."""
    print(f"configuration: {sentence}", file=sys.stderr, flush=True)
    sys.exit(2)
