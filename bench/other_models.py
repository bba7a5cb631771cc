"""Models that are no Llamas, of random weights: `python -m bench.other_models FOLDER`.

llava-150m is llama-150m with six vision layers before it; hybrid-100m is a Qwen3.5 of twelve layers, nine of which keep
states instead of keys and values; gemma-120m is a Gemma3, which runs on transformers' own code.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3TextConfig,
    GenerationConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
)

from bench.models import CONTEXT, ENDS, PAD, SPECIAL, TEMPLATE, VOCAB_SIZE, config_of, train_tokenizer

IMAGE = "<image>"
SIDE, PATCH = 336, 14  # pixels: 576 tokens an image


def words() -> PreTrainedTokenizerFast:
    backend = train_tokenizer()
    backend.add_special_tokens([IMAGE])
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=SPECIAL[2], pad_token=SPECIAL[3])
    fast.chat_template = TEMPLATE.replace(
        "{{ part.text }}", "{{ '" + IMAGE + "' if part.type == 'image' else part.text }}"
    )
    return fast


def llava(fast: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """The model, and its processor."""
    text = config_of("llama-150m")
    text.vocab_size = VOCAB_SIZE + 8
    vision = CLIPVisionConfig(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=fast.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
    )
    reader = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    processor = LlavaProcessor(
        reader, fast, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    processor.chat_template = fast.chat_template
    return AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16), processor


def hybrid(fast: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """The model, and its tokenizer."""
    config = Qwen3_5TextConfig(
        vocab_size=VOCAB_SIZE + 8,
        hidden_size=768,
        intermediate_size=2560,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=2,
        head_dim=64,
        linear_num_value_heads=12,
        linear_num_key_heads=6,
        linear_key_head_dim=64,
        linear_value_head_dim=64,
        layer_types=(["linear_attention"] * 3 + ["full_attention"]) * 3,
        max_position_embeddings=CONTEXT,
        eos_token_id=ENDS,
        bos_token_id=None,
        pad_token_id=PAD,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), fast


def gemma(fast: PreTrainedTokenizerFast) -> tuple[Any, Any]:
    """The model, and its tokenizer."""
    config = Gemma3TextConfig(
        vocab_size=32_000,
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        sliding_window=512,
        max_position_embeddings=4096,
        eos_token_id=ENDS,
        bos_token_id=None,
        pad_token_id=PAD,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), fast


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for name, make in {"llava-150m": llava, "hybrid-100m": hybrid, "gemma-120m": gemma}.items():
        torch.manual_seed(0)
        model, reader = make(words())
        model.generation_config = GenerationConfig(eos_token_id=ENDS, pad_token_id=PAD, do_sample=False)
        model.save_pretrained(args.folder / name)
        reader.save_pretrained(args.folder / name)
        print(
            f"{name}: {sum(weight.numel() for weight in model.parameters()) / 1e6:.0f} million parameters", flush=True
        )


if __name__ == "__main__":
    main()
