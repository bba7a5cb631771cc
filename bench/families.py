"""Each model type that transformers lists for text generation: its runner here, and if its tokens are the same.

    python -m bench.families [TYPE...]

A tiny model of random weights of each type answers four prompts at once; greedy tokens are set against generate() in
float32. Where they differ, the model's own pass over the whole text says who is right: some types' generate() is not.
"""

import argparse
import dataclasses
import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.models import CHAT_TEMPLATE, VOCAB_SIZE, small_tokenizer
from tests.worker.conftest import SMALL as SMALL_ENGINE
from tests.worker.conftest import Bench, prompt_of

LENGTHS = (3, 40, 17, 90)  # tokens of the prompts: beyond the windows too
NUM_TOKENS = 20
TIME_LIMIT_S = 180
LARGEST = 60_000_000  # parameters; some types cannot be made small by their configuration
NAMES = {  # fields of sizes, and their values where a configuration has them
    VOCAB_SIZE: ("vocab_size", "vocab_size_per_layer_input"),
    128: ("hidden_size", "d_model", "n_embd"),
    96: ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size", "intermediate_size_mlp"),
    4: (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_attention_heads", "n_head", "n_heads"),
        *("num_heads", "num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
        "linear_num_value_heads",
    ),
    2: ("num_key_value_heads", "num_kv_heads", "num_experts_per_tok", "moe_topk", "moe_k", "linear_num_key_heads"),
    32: ("head_dim", "global_head_dim", "moe_intermediate_size", "shared_expert_intermediate_size"),
    512: ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
    16: (
        "sliding_window",
        "window_size",
        "kv_lora_rank",
        "q_lora_rank",
        "index_head_dim",
        "hidden_size_per_layer_input",
    ),
    8: (
        *(
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
            "state_size",
            "mamba_d_state",
            "rotary_dim",
            "rope_dim",
        ),
        *("linear_key_head_dim", "linear_value_head_dim", "laurel_rank"),
    ),
    1: ("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"),
    0: ("eos_token_id", "num_kv_shared_layers"),
}
SMALL = {name: size for size, names in NAMES.items() for name in names} | {"pad_token_id": 3, "initializer_range": 0.2}
ALL_HEADS = {"num_key_value_heads": 4}  # attention from a latent vector has no groups
INDEX = {"index_topk": 24, "index_n_heads": 16}  # they choose among the keys
CONV = {"layer_types": ["conv", "full_attention"] * 2}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_expand": 2, "mamba_d_ssm": 256, "mamba_n_groups": 1}
OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1",
            "axk2",
            "bailing_hybrid",
            "deepseek_v2",
            "deepseek_v3",
            "glm4_moe_lite",
            "kimi_linear",
            "minicpm3",
            "youtu",
        ),
        ALL_HEADS,
    ),
    "deepseek_v32": ALL_HEADS | INDEX,
    "glm_moe_dsa": ALL_HEADS | INDEX | {"indexer_types": ["full", "shared"] * 2},
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral"), {"head_dim": 32}),
    **dict.fromkeys(("lfm2", "lfm2_moe"), CONV),
    **dict.fromkeys(("bamba", "falcon_h1"), MAMBA | {"attn_layer_indices": [1, 3]}),
    "granitemoehybrid": MAMBA | {"layer_types": ["mamba", "attention"] * 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
}
NO_DECODERS = {  # encoders, and halves of models that translate, listen or draw
    *("bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small", "camembert"),
    *(
        "data2vec-text",
        "electra",
        "ernie",
        "marian",
        "mbart",
        "megatron-bert",
        "mvp",
        "pegasus",
        "plbart",
        "prophetnet",
    ),
    *("reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "trocr", "xlm", "xlm-roberta"),
    *("xlm-roberta-xl", "xlnet", "xmod", "whisper", "musicgen", "musicgen_melody", "moshi", "git"),
}


def small_config(name: str) -> Any:
    """The type's configuration, as small as its names let it be."""
    config_class = CONFIG_MAPPING[name]
    usual = config_class()
    known = {
        *inspect.signature(config_class.__init__).parameters,
        *(own.name for own in dataclasses.fields(config_class)),
    }
    optional = {"head_dim", "sliding_window", "window_size"}  # that a type may do without
    given: dict[str, Any] = {
        key: size for key, size in SMALL.items() if key in known and not (key in optional and is_none(usual, key))
    }
    kinds = list(dict.fromkeys(getattr(usual, "layer_types", None) or []))
    if kinds and "layer_types" in known:
        given["layer_types"] = (kinds * 4)[:4]
    return config_class(**(given | OWN.get(name, {})))


def is_none(config: Any, name: str) -> bool:
    try:
        return getattr(config, name, None) is None
    except RuntimeError:  # its layers differ in it
        return False


def save(name: str, folder: Path) -> None:
    """Write a small model of the type. Raises any error of a type that cannot be made small."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(name), dtype=torch.float32)
    if sum(weight.numel() for weight in model.parameters()) > LARGEST:
        raise ValueError("stays too large")
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=3, do_sample=False)
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=small_tokenizer(), eos_token="<|end|>", pad_token="<|pad|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def try_one(name: str) -> dict[str, str]:
    """Its row: the way it runs, and the verdict."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            save(name, folder)
        except Exception as error:  # any type at all may come along here
            return {"way": "", "verdict": f"no tiny one: {type(error).__name__}: {' '.join(str(error).split())[:100]}"}
        bench = Bench(folder, SMALL_ENGINE)
        way = type(bench.engine.runner).__name__
        for length in LENGTHS:
            bench.add(f"r{length}", prompt_of(length), max_tokens=NUM_TOKENS)
            bench.step(3)
        bench.finish()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        verdicts = {verdict(model, bench, length) for length in LENGTHS}
        return {"way": way, "verdict": max(verdicts, key=len)}


@torch.inference_mode()
def verdict(model: Any, bench: Bench, length: int) -> str:
    """Equal, or the first token that differs, and if a pass over the whole text gives it."""
    prompt, ours = prompt_of(length), bench.token_ids(f"r{length}")
    try:
        theirs = bench.generate(prompt, NUM_TOKENS)
    except Exception as error:  # as above
        return f"generate() fails: {type(error).__name__}"
    if ours == theirs:
        return "same"
    at = next((at for at, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), len(ours))
    text = torch.tensor([prompt + ours[:at]])
    best = int(model(input_ids=text, use_cache=False).logits[0, -1].argmax())
    return "generate() differs from the whole text, we do not" if ours[at : at + 1] == [best] else "DIFFERS"


def rows(names: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Each type in a process of its own: some end it."""
    for name in names:
        command = [sys.executable, "-m", "bench.families", "--one", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
            lines = done.stdout.splitlines() or [json.dumps({"way": "", "verdict": "its process ended"})]
            yield name, json.loads(lines[-1])
        except (subprocess.TimeoutExpired, ValueError) as error:
            yield name, {"way": "", "verdict": type(error).__name__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(try_one(args.one)))
        return
    print("| type | way | greedy tokens |\n|---|---|---|")
    for name, row in rows(
        args.types or [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in NO_DECODERS]
    ):
        print(f"| {name} | {row['way']} | {row['verdict']} |", flush=True)


if __name__ == "__main__":
    main()
