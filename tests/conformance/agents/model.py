"""A copy of the demo model for agents: their prompts have 10,000 to 30,000 tokens, and it forgets after 2,048.

The weights are the same ones under another name. As a Mistral, each layer looks back over a window of tokens, so no
distance occurs that the model has not seen in its training, however long the prompt is. It then answers the last turn.
A larger factor in front of the logits makes it almost greedy, whatever temperature an agent asks for.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.service import ROOT

DEMO = ROOT / "demo" / "model"
CONTEXT = 131_072
WINDOW = 1024
SHARPNESS = 8.0


def make(folder: Path) -> Path:
    """Writes the model's files to the folder, which need not exist."""
    shutil.copytree(DEMO, folder, dirs_exist_ok=True)
    change(folder / "tokenizer_config.json", model_max_length=CONTEXT)
    change(
        folder / "config.json",
        architectures=["MistralForCausalLM"],
        model_type="mistral",
        max_position_embeddings=CONTEXT,
        sliding_window=WINDOW,
    )
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= SHARPNESS
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values, indent=2))
