"""Heads for tests: folders with the tensor names of real ones, and what they compute written out in float64."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from tests.models import VOCAB_SIZE, save_model

WIDTH, HEADS, KV_HEADS, DIM = 32, 4, 2, 8
EAGLE3 = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCAB_SIZE,
    "draft_vocab_size": 200,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 0, 1]},  # outputs
}
FEATURE_LAYERS = (1, 1, 2)
Tensors = dict[str, torch.Tensor]


def eagle3_tensors(seed: int = 5) -> Tensors:
    """Random, with a vocabulary of some of the model's tokens."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.3

    mlp_width, num_draft = 48, 200
    tensors = {
        "fc.weight": random(WIDTH, 3 * WIDTH),
        "midlayer.self_attn.q_proj.weight": random(HEADS * DIM, 2 * WIDTH),
        "midlayer.self_attn.k_proj.weight": random(KV_HEADS * DIM, 2 * WIDTH),
        "midlayer.self_attn.v_proj.weight": random(KV_HEADS * DIM, 2 * WIDTH),
        "midlayer.self_attn.o_proj.weight": random(WIDTH, HEADS * DIM),
        "midlayer.mlp.gate_proj.weight": random(mlp_width, WIDTH),
        "midlayer.mlp.up_proj.weight": random(mlp_width, WIDTH),
        "midlayer.mlp.down_proj.weight": random(WIDTH, mlp_width),
        "lm_head.weight": random(num_draft, WIDTH),
    }
    for name in ("hidden_norm", "input_layernorm", "post_attention_layernorm"):
        tensors[f"midlayer.{name}.weight"] = 1 + random(WIDTH)
    tensors["norm.weight"] = 1 + random(WIDTH)
    model_ids = torch.randperm(VOCAB_SIZE, generator=generator)[:num_draft].sort().values
    tensors["d2t"] = model_ids - torch.arange(num_draft)
    tensors["t2d"] = torch.isin(torch.arange(VOCAB_SIZE), model_ids)
    return tensors


KNOWING = {
    "hidden_size": VOCAB_SIZE,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": VOCAB_SIZE // 4,
    "target_hidden_size": WIDTH,
}


def knowing_tensors(following: list[int]) -> Tensors:
    """A head that guesses `following[token]` after each token, and nothing else.

    Its width is the vocabulary's. Attention looks at the last position only: equal queries and keys fit best there. Its
    values are the embedding, one number of which is not zero, and the state before, which is taken back.
    """
    width, eye = VOCAB_SIZE, torch.eye(VOCAB_SIZE)
    known = sorted(set(following))
    constant = torch.full((2 * width, 2 * width), 0.1)
    constant[:, width:] = 0
    size = width**0.5  # of the number that the norm leaves
    tensors = {
        "fc.weight": torch.zeros(width, 3 * WIDTH),
        "embed_tokens.weight": eye,
        "midlayer.self_attn.q_proj.weight": 10 * constant,
        "midlayer.self_attn.k_proj.weight": 10 * constant,
        "midlayer.self_attn.v_proj.weight": torch.eye(2 * width),
        "midlayer.self_attn.o_proj.weight": torch.cat([eye[following].T, -eye], dim=1) / size,
        "midlayer.mlp.gate_proj.weight": torch.zeros(48, width),
        "midlayer.mlp.up_proj.weight": torch.zeros(48, width),
        "midlayer.mlp.down_proj.weight": torch.zeros(width, 48),
        "lm_head.weight": eye[known],
        "d2t": torch.tensor(known) - torch.arange(len(known)),
    }
    norms = ("norm", "midlayer.hidden_norm", "midlayer.input_layernorm", "midlayer.post_attention_layernorm")
    return tensors | {f"{name}.weight": torch.ones(width) for name in norms}


def save_eagle3(folder: Path, tensors: Tensors, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(EAGLE3 | changes))
    save_file(tensors, folder / "model.safetensors")
    return folder


@dataclass(frozen=True)
class Reference:
    """A head in float64, dense, over a whole sequence at once."""

    features: Callable[[list[int]], torch.Tensor]  # of the model, of each token [T, width * layers]
    combine: Callable[[torch.Tensor], torch.Tensor]
    states: Callable[[torch.Tensor, list[int]], torch.Tensor]  # from [T, width] and the T following tokens
    logits: Callable[[torch.Tensor], torch.Tensor]

    def of_guesses(self, token_ids: list[int], guesses: list[int]) -> list[torch.Tensor]:
        """The head's logits after a sequence, and after each guess that follows it."""
        before = self.combine(self.features(token_ids)[:-1])
        following = token_ids[1:]
        found = []
        for guess in [*guesses, 0]:
            states = self.states(before, following)
            found.append(self.logits(states[-1]))
            before, following = torch.cat([before, states[-1:]]), [*following, guess]
        return found


def model_features(folder: Path, layers: tuple[int, ...]) -> Callable[[list[int]], torch.Tensor]:
    """Hidden states of transformers' own forward pass in float64. Those of layer n + 1 follow the final norm."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    )
    before_norm: list[torch.Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, args: before_norm.append(args[0]))
    num_layers = model.config.num_hidden_layers

    @torch.inference_mode()
    def features(token_ids: list[int]) -> torch.Tensor:
        before_norm.clear()
        states = model(input_ids=torch.tensor([token_ids]), output_hidden_states=True).hidden_states
        by_layer = {**dict(enumerate(states[:-1])), num_layers: before_norm[0], num_layers + 1: states[-1]}
        return torch.cat([by_layer[layer][0] for layer in layers], dim=-1)

    return features


def embedding_of(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"].double()


def eagle3_reference(folder: Path, tensors: Tensors, *, norms_residual: bool = False) -> Reference:
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    embedding = weights.get("embed_tokens.weight", embedding_of(folder))

    def layer(name: str) -> torch.Tensor:
        return weights[f"midlayer.{name}.weight"]

    def states(before: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
        normed = rms_norm(before, layer("hidden_norm"))
        both = torch.cat([rms_norm(embedding[token_ids], layer("input_layernorm")), normed], dim=-1)
        query, key, value = (both @ layer(f"self_attn.{name}_proj").T for name in "qkv")
        attended = attention(rotated(query), rotated(key), value)
        hidden = (normed if norms_residual else before) + attended @ layer("self_attn.o_proj").T
        inner = rms_norm(hidden, layer("post_attention_layernorm"))
        gated = F.silu(inner @ layer("mlp.gate_proj").T) * (inner @ layer("mlp.up_proj").T)
        return hidden + gated @ layer("mlp.down_proj").T

    return Reference(
        features=model_features(folder, FEATURE_LAYERS),
        combine=lambda features: features @ weights["fc.weight"].T,
        states=states,
        logits=lambda state: rms_norm(state, weights["norm.weight"]) @ weights["lm_head.weight"].T,
    )


def rms_norm(inputs: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return inputs * (inputs.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def rotated(heads: torch.Tensor, theta: float = 10_000.0) -> torch.Tensor:
    """[T, heads * DIM] at positions 0 to T - 1."""
    split = heads.view(len(heads), -1, DIM)
    angles = torch.arange(len(heads)).double()[:, None] * theta ** (-torch.arange(0, DIM, 2).double() / DIM)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    left, right = split.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal, [T, heads, DIM] over keys [T, KV_HEADS, DIM] and values [T, KV_HEADS * DIM] -> [T, heads * DIM]."""
    num_shared = query.shape[1] // key.shape[1]
    keys = key.repeat_interleave(num_shared, dim=1)
    values = value.view(len(value), -1, DIM).repeat_interleave(num_shared, dim=1)
    scores = torch.einsum("qhd,khd->hqk", query, keys) * DIM**-0.5
    hidden = torch.ones(len(query), len(query), dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, values).flatten(1)


def save_mtp(folder: Path, family: str, **changes: Any) -> Path:
    """A model of two layers whose file also holds a third one, with the names that checkpoints have for an MTP head."""
    save_model(folder, family, num_nextn_predict_layers=1, **changes)
    kinds = {"mlp_layer_types": ["dense", "sparse", "sparse"]} if family == "glm4_moe_lite" else {}
    deeper = save_model(folder / "deeper", family, num_hidden_layers=3, seed=7, **changes, **kinds)
    tensors = load_file(folder / "model.safetensors")
    more = load_file(deeper / "model.safetensors")
    layer = {name: tensor for name, tensor in more.items() if name.startswith("model.layers.2.")}
    generator = torch.Generator().manual_seed(11)
    own = {
        "enorm.weight": 1 + torch.randn(WIDTH, generator=generator) * 0.3,
        "hnorm.weight": 1 + torch.randn(WIDTH, generator=generator) * 0.3,
        "eh_proj.weight": torch.randn(WIDTH, 2 * WIDTH, generator=generator) * 0.3,
        "shared_head.norm.weight": 1 + torch.randn(WIDTH, generator=generator) * 0.3,
        "shared_head.head.weight": tensors["lm_head.weight"].clone(),
        "embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
    }
    layer |= {f"model.layers.2.{name}": tensor for name, tensor in own.items()}
    save_file(tensors | layer, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def mtp_reference(folder: Path) -> Reference:
    """Of save_mtp()'s head: the block is the third layer of the deeper model."""
    return layer_reference(folder, folder / "deeper", load_file(folder / "model.safetensors"), "model.layers.2.")


def layer_reference(folder: Path, deeper_folder: Path, stored: Tensors, prefix: str) -> Reference:
    """The block is the last layer of the deeper model, as transformers runs it, with its own causal mask.

    `folder`: of the model. `stored`: the weights of its checkpoint; the head's names begin with `prefix`.
    """
    own = {name.removeprefix(prefix): tensor.double() for name, tensor in stored.items() if name.startswith(prefix)}
    deeper = AutoModelForCausalLM.from_pretrained(
        deeper_folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
    )
    eps = deeper.config.rms_norm_eps

    @torch.inference_mode()
    def states(before: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
        embedded = rms_norm(own["embed_tokens.weight"][token_ids], own["enorm.weight"], eps)
        joined = torch.cat([embedded, rms_norm(before, own["hnorm.weight"], eps)], dim=-1)
        hidden = (joined @ own["eh_proj.weight"].T)[None]
        positions = torch.arange(len(token_ids))[None]
        mask = torch.full((len(token_ids), len(token_ids)), float("-inf"), dtype=torch.float64).triu(1)
        out = deeper.model.layers[-1](
            hidden,
            attention_mask=mask[None, None],
            position_ids=positions,
            position_embeddings=deeper.model.rotary_emb(hidden, positions),
        )
        states = out[0] if isinstance(out, tuple) else out  # beside the keys that it chose
        return rms_norm(states[0], own["shared_head.norm.weight"], eps)

    return Reference(
        features=model_features(folder, (deeper.config.num_hidden_layers,)),
        combine=lambda features: features,
        states=states,
        logits=lambda state: state @ own["shared_head.head.weight"].T,
    )
