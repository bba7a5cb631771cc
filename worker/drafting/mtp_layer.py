"""The layer after a model's last one (MTP), read from the model's files as a model of one layer of its family.

So a runner of the family's computes it, from weights of the checkpoint's own form.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from worker.kernels.experts.layer import has_experts
from worker.models.dtypes import cast
from worker.models.experts.place import move_rest
from worker.models.formats.known import format_of
from worker.models.formats.packing import packing_of
from worker.models.formats.reader import dtype_of, load_tensors, named_tensors, opened, unpacked_config
from worker.models.loader import LoadedModel, device_map
from worker.models.loading_reports import logs_at_debug
from worker.models.read.config import read_config

NUM_TOKENS = 64  # of the one-layer model, which is compared with transformers' by its logits and never asked for others
OWN = "model.layers.0."
JOINING, TOKEN_NORM, STATE_NORM = f"{OWN}eh_proj.weight", f"{OWN}enorm.weight", f"{OWN}hnorm.weight"
FINAL_NORM = f"{OWN}shared_head.norm.weight"
UNUSED = (f"{OWN}embed_tokens.weight", f"{OWN}shared_head.head.weight")  # the model's own numbers once more
EMBEDDING, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


@dataclass(frozen=True, slots=True)
class MtpLayer:
    """What the checkpoint has after its last layer."""

    model: Any  # the decoder layer and the norm after it, between an embedding and a head that mean nothing
    joining: nn.Linear  # [2 * width] -> [width]
    token_norm: nn.Module  # of the first half of `joining`'s input, a token's embedding
    state_norm: nn.Module  # of the second half, the hidden state before


@logs_at_debug()
def load_mtp_layer(loaded: LoadedModel) -> MtpLayer:
    """The layer on the model's device and in its dtype. Raises OSError, or ValueError if a part is missing."""
    path = loaded.model.config.name_or_path
    stored_config = read_config(path)
    form, dtype = format_of(packing_of(path, stored_config)), dtype_of(stored_config)
    config = one_layer_config(unpacked_config(stored_config))
    prefix = f"model.layers.{stored_config.get_text_config().num_hidden_layers}."
    with ExitStack() as files:
        found = {OWN + key.removeprefix(prefix): tensor for key, tensor in opened(path, files) if prefix in key}
        tensors = named_tensors(found, form, dtype) if form is not None else found
        own = {name: tensors.pop(name)[...] for name in (JOINING, TOKEN_NORM, STATE_NORM) if name in tensors}
        tensors[NORM] = tensors.pop(FINAL_NORM, None)
        refuse_missing([*({JOINING, TOKEN_NORM, STATE_NORM} - own.keys()), *([FINAL_NORM] * (tensors[NORM] is None))])
        generator, shape = torch.Generator().manual_seed(0), (NUM_TOKENS, config.hidden_size)
        tensors |= {name: torch.randn(shape, generator=generator).to(dtype) for name in (EMBEDDING, HEAD)}
        used = {name: tensor for name, tensor in tensors.items() if name not in UNUSED}
        home = home_of_experts(loaded)
        model, info = load_tensors(AutoModelForCausalLM, config, used, dtype, device_map=device_map(home))
    refuse_missing(info["missing_keys"])
    model = move_rest(cast(model, loaded.dtype).eval().requires_grad_(False), home, loaded.device)
    return MtpLayer(
        model,
        linear_of(own[JOINING], loaded),
        norm_like(model.model.norm, own[TOKEN_NORM]),
        norm_like(model.model.norm, own[STATE_NORM]),
    )


def one_layer_config(config: Any) -> Any:
    """The configuration of the model's last layer alone, with few tokens."""
    fields: Mapping[str, Any] = config.to_dict()
    num_layers = config.num_hidden_layers
    changes: dict[str, Any] = {
        name: value[-1:] for name, value in fields.items() if isinstance(value, list) and len(value) == num_layers
    }
    changes |= {"num_hidden_layers": 1, "num_nextn_predict_layers": 0, "vocab_size": NUM_TOKENS}
    changes |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    if "first_k_dense_replace" in fields:
        changes["first_k_dense_replace"] = 0
    if "indexer_types" in fields:
        changes["indexer_types"] = ["full"]  # it chooses keys by itself, whatever the last layer does
    return type(config).from_dict({**fields, **changes})


def home_of_experts(loaded: LoadedModel) -> torch.device:
    """The device of the model's routed experts: the CPU where they stand in host memory, or in files."""
    matrices = [getattr(module, "down_proj", None) for module in loaded.model.modules() if has_experts(module)]
    is_elsewhere = any(matrix is None or matrix.device.type != loaded.device.type for matrix in matrices)
    return torch.device("cpu") if is_elsewhere else loaded.device


def refuse_missing(names: Iterable[str]) -> None:
    """Raises ValueError if there are any."""
    if missing := sorted(names):
        raise ValueError(f"it lacks {missing[0].removeprefix(OWN)}.")


def linear_of(weight: torch.Tensor, loaded: LoadedModel) -> nn.Linear:
    """A layer with this weight [out, in], which may be packed, on the model's device."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.to(loaded.device), requires_grad=False)
    return linear if weight.dtype == loaded.dtype else linear.to(loaded.dtype)


def norm_like(norm: nn.Module, weight: torch.Tensor) -> nn.Module:
    """The same kind of norm with another weight [width]."""
    own = deepcopy(norm)
    own.weight = nn.Parameter(weight.to(norm.weight), requires_grad=False)  # type: ignore[arg-type]
    return own
