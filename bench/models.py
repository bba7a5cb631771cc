"""Llama-shaped models of random weights for benchmarks: `python -m bench.models FOLDER [--shape tiny llama-150m]`.

What a model says costs as much as what a good one says, so nothing need be downloaded. The rows of the end tokens are
zero, so that a greedy answer never ends early; 95 words of bench.load are about 260 tokens of this tokenizer.
"""

import argparse
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 8192
CONTEXT = 40_960  # a prompt of 32,768 tokens and an answer
SPECIAL = ["<|endoftext|>", "<|start|>", "<|end|>", "<|pad|>"]
ENDS = [0, 2]
PAD = 3
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for part in message.content or [] %}{{ part.text }}{% endfor %}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
# width, of the MLP, layers, heads, heads of keys and values, width of a head
SHAPES: Mapping[str, tuple[int, int, int, int, int, int]] = MappingProxyType(
    {
        "tiny": (192, 512, 6, 6, 2, 32),
        "llama-150m": (896, 3072, 13, 14, 2, 64),
        "llama-05b": (896, 4864, 24, 14, 2, 64),
    }
)


def texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        yield path.read_text(errors="ignore")


def train_tokenizer() -> Tokenizer:
    """Byte-level BPE on the source text of Python's standard library: always at hand."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def config_of(name: str) -> LlamaConfig:
    return config_with(*SHAPES[name])


def config_with(width: int, mlp: int, layers: int, heads: int, kv_heads: int, head_dim: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=width,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        initializer_range=0.05,
        bos_token_id=None,
        eos_token_id=ENDS,
        pad_token_id=PAD,
    )


def save(name: str, tokenizer: Tokenizer, folder: Path) -> int:
    """Write one model; returns its number of parameters. bf16, but float32 for the smallest."""
    return save_as(folder / name, config_of(name), tokenizer, torch.float32 if name == "tiny" else torch.bfloat16)


def save_as(
    folder: Path, config: LlamaConfig, tokenizer: Tokenizer, dtype: torch.dtype, seed: int = 0, sharpness: float = 1.0
) -> int:
    """`sharpness` scales the logits: where all tokens are about as likely, rounding decides which one is drawn."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).to(dtype)
    with torch.no_grad():
        model.lm_head.weight *= sharpness
        model.lm_head.weight[ENDS] = 0
    model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=PAD, do_sample=False)
    model.save_pretrained(folder)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[3], model_max_length=CONTEXT
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def ensure(folder: Path, names: list[str]) -> None:
    """Write those of the named models that are not there yet."""
    missing = [name for name in names if not (folder / name / "config.json").exists()]
    tokenizer = train_tokenizer() if missing else None
    for name in missing:
        assert tokenizer is not None
        print(f"{name}: {save(name, tokenizer, folder) / 1e6:.0f} million parameters", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    args = parser.parse_args()
    ensure(args.folder, args.shape)


if __name__ == "__main__":
    main()
