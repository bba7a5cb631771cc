"""Tokens per second with adapters beside those of the base alone: python -m bench.adapters MODEL [--adapters 8]

Random adapters of all linear layers, their requests mixed so that every stream has another one in turn. The base and
the adapters take turns in one process, so that what else the machine does hits both.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.engine import loaded_again, measure
from worker.engine.engine import Engine
from worker.kernels.quantized import quantization_named
from worker.models.adapters.folder import linear_shapes
from worker.models.loader import EngineConfig, LoadedModel

SIZE = 0.01  # of the random numbers


def save_random(folder: Path, loaded: LoadedModel, rank: int, seed: int) -> Path:
    """An adapter of all linear layers but the head, as PEFT saves it."""
    folder.mkdir()
    shapes = linear_shapes(loaded.model, loaded.model)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (num_out, num_in) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, num_in, generator=generator) * SIZE
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.randn(num_out, rank, generator=generator) * SIZE
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--concurrency", default="1,16")
    parser.add_argument("--prompt", type=int, default=165, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default="")
    args = parser.parse_args()
    quantization = quantization_named(args.quantize)
    config = EngineConfig(dtype=args.dtype, quantization=quantization, max_num_seqs=64)
    loaded = loaded_again(args.model, config)
    with tempfile.TemporaryDirectory() as root:
        folders = [save_random(Path(root) / str(at), loaded, args.rank, at) for at in range(args.adapters)]
        engine = Engine(loaded, config)
        measure(engine, 4, 8, args.prompt, 8)
        names = [f"adapter-{at}" for at in range(args.adapters)]
        before: dict[int, list[float]] = {
            int(text): [] for text in args.concurrency.split(",")
        }  # without any adapter loaded
        for concurrency, found in before.items():
            found += [speed(engine, concurrency, ("",), args) for _ in range(args.turns)]
        for name, folder in zip(names, folders, strict=True):
            engine.adapters.load(name, str(folder))
    measure(engine, 4, 8, args.prompt, 8, None, names)
    print(f"{type(engine.runner).__name__}, {loaded.dtype}, {args.adapters} adapters of rank {args.rank}")
    print("| streams | base, none loaded | base | one adapter | all, mixed | mixed / base |\n|---|---|---|---|---|---|")
    for concurrency, found in before.items():
        ways = (("",), names[:1], names)
        turns = [[speed(engine, concurrency, way, args) for way in ways] for _ in range(args.turns)]
        base, one, mixed = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(turn[2] / turn[0] for turn in turns)
        figures = " | ".join(f"{number:.1f}" for number in (statistics.median(found), base, one, mixed))
        print(f"| {concurrency} | {figures} | {ratio:.3f} |", flush=True)


def speed(engine: Engine, concurrency: int, adapters: tuple[str, ...] | list[str], args: argparse.Namespace) -> float:
    row = measure(engine, concurrency, concurrency, args.prompt, args.output, None, adapters)
    return row["tokens/s"]


if __name__ == "__main__":
    main()
