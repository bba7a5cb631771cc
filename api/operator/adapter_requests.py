"""The requests of POST /v1/load_lora_adapter and /v1/unload_lora_adapter, in vLLM's words."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from api.schema.base import Base
from api.schema.unsupported import Refusal
from common.setting_types import MAX_ADAPTER_NAME, is_adapter_name


def check_name(name: str) -> str:
    if not is_adapter_name(name):
        raise ValueError(
            f"it must have 1 to {MAX_ADAPTER_NAME} printable characters without space, comma and =, and no part "
            "between slashes that is empty, . or .."
        )
    return name


AdapterName = Annotated[str, AfterValidator(check_name)]


class LoadAdapterRequest(Base):
    """POST /v1/load_lora_adapter."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {"load_inplace": Refusal("is not supported: unload the adapter first")}
    )
    lora_name: AdapterName
    lora_path: str = Field(min_length=1, max_length=4096)
    base_model: str | None = Field(None, min_length=1, max_length=256)  # ours: needed where there are several models


class UnloadAdapterRequest(Base):
    """POST /v1/unload_lora_adapter."""

    lora_name: AdapterName
