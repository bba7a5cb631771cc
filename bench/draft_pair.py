"""A model and a draft model that agree as much as asked: `python -m bench.draft_pair FOLDER [--scale 0.1]`.

Random weights do not agree on anything. So the model is the draft model with more layers on top, whose contributions
to the residual stream are scaled down: by 0 both say the same, by 1 they have little in common. Each costs as much as
a model of its shape.
"""

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from bench.models import SHAPES, ensure

DRAFT_LAYERS = 3


def save_pair(folder: Path, shape: str, scale: float, num_layers: int = DRAFT_LAYERS) -> tuple[Path, Path]:
    """Write both; returns the folders of the model and of its draft model, which has the first `num_layers`."""
    ensure(folder, [shape])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / shape)
    model = LlamaForCausalLM.from_pretrained(folder / shape, dtype="auto")
    with torch.no_grad():
        for layer in model.model.layers[num_layers:]:
            layer.self_attn.o_proj.weight.mul_(scale)
            layer.mlp.down_proj.weight.mul_(scale)
    config = deepcopy(model.config)
    config.num_hidden_layers = num_layers
    draft = LlamaForCausalLM(config).to(model.dtype)
    draft.load_state_dict(model.state_dict(), strict=False)
    draft.generation_config = model.generation_config
    paths = folder / f"{shape}-{scale:g}", folder / f"{shape}-{num_layers}-layers"
    for each, path in zip((model, draft), paths, strict=True):
        each.save_pretrained(path)
        tokenizer.save_pretrained(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=list(SHAPES), default="llama-05b")
    parser.add_argument("--scale", type=float, default=0.1, help="of the upper layers' contributions")
    parser.add_argument("--layers", type=int, default=DRAFT_LAYERS, help="of the draft model")
    args = parser.parse_args()
    print(*save_pair(args.folder, args.shape, args.scale, args.layers))


if __name__ == "__main__":
    main()
