"""A checkpoint with packed weights, and its twin with the same numbers unpacked."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.models import save_model
from tests.worker.conftest import Bench, prompt_of
from tests.worker.models.damaged import set_config

Packed = tuple[dict[str, torch.Tensor], torch.Tensor]  # the tensors of one weight in the file, and its numbers
Pack = Callable[[str, torch.Tensor], Packed | None]  # of a name and a matrix; None leaves it as it is
PROMPTS = (7, 15, 24)  # tokens
MAX_TOKENS = 24
WIDE: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 2}


def save_twins(folder: Path, family: str, pack: Pack, packing: Mapping[str, Any], **changes: Any) -> tuple[Path, Path]:
    """The folders of the packed model and of its twin."""
    return packed_beside(save_model(folder / "twin", family, **(WIDE | changes)), pack, packing)


def packed_beside(twin: Path, pack: Pack, packing: Mapping[str, Any]) -> tuple[Path, Path]:
    """Packs the model in `twin` into a folder beside it, and gives it the numbers that its packed weights stand for."""
    packed = twin.parent / "packed"
    shutil.copytree(twin, packed)
    plain, tensors = load_file(twin / "model.safetensors"), {}
    for name, tensor in list(plain.items()):
        found = pack(name, tensor) if tensor.dim() >= 2 and "embed" not in name and "lm_head" not in name else None
        if found is None:
            tensors[name] = tensor
        else:
            parts, plain[name] = found
            tensors |= parts
    save_file(plain, twin / "model.safetensors", {"format": "pt"})
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, packed / "model.safetensors")
    set_config(packed, quantization_config=dict(packing))
    return packed, twin


def check_twins(packed: Path, twin: Path) -> Bench:
    """Greedy tokens in float32, alone and together, and the runner are the twin's. Returns the packed one's engine."""
    answers, runners = {}, set()
    for folder in (packed, twin):
        bench = Bench(folder)
        for number, length in enumerate(PROMPTS):
            bench.add(f"alone {number}", prompt_of(length), max_tokens=MAX_TOKENS, ignore_eos=True)
            bench.finish()
        for number, length in enumerate(PROMPTS):
            bench.add(f"mixed {number}", prompt_of(length), max_tokens=MAX_TOKENS, ignore_eos=True)
        bench.finish()
        runners.add(type(bench.engine.runner))
        kinds = ("alone", "mixed")
        answers[folder] = [bench.token_ids(f"{kind} {number}") for kind in kinds for number in range(len(PROMPTS))]
        if folder == packed:
            found = bench
    assert answers[packed] == answers[twin]
    assert len(runners) == 1
    assert all(len(answer) == MAX_TOKENS for answer in answers[packed])
    return found


def file_bytes(folder: Path) -> int:
    """Of the weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
