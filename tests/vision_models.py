"""Tiny models of images and text with random weights, each with its processor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3Processor,
    GenerationConfig,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLProcessor,
)
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.models import BASE, small_tokenizer

IMAGE, START, END = "<image>", "<image_start>", "<image_end>"
SPECIAL_TOKENS = [IMAGE, START, END, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}"
    "{{ 'PLACE' if part.type == 'image' else part.text }}{% endfor %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = BASE | {"vocab_size": 336}
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
Made = tuple[Any, Any, str]  # configuration, processor, what its template writes where an image stands


class ImagesOnlyProcessor(Qwen2_5_VLProcessor):  # type: ignore[misc]
    """Without a part for videos, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None) -> None:
        self.image_token, self.video_token = IMAGE, "<video>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([IMAGE, "<video>"])
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen2_5_VLConfig, ImagesOnlyProcessor, exist_ok=True)


def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    backend = small_tokenizer()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", pad_token="<|pad|>", extra_special_tokens=named
    )


def llava() -> Made:
    """An image's tokens are causal and contiguous."""
    words = tokenizer()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=28, patch_size=14, initializer_factor=20.0),
        text_config=LlamaConfig(**TEXT),
        image_token_index=words.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-1,
    )
    reader = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    select = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return config, LlavaProcessor(image_processor=reader, tokenizer=words, **select), IMAGE


def llava_wide() -> Made:
    """Llava with the widths that worker/kernels needs."""
    config, processor, place = llava()
    config.text_config = LlamaConfig(**TEXT | {"hidden_size": 64, "head_dim": 32})
    return config, processor, place


def idefics3() -> Made:
    """An image becomes several parts with text tokens between them."""
    words = tokenizer()
    config = Idefics3Config(
        vision_config=VISION | {"image_size": 28, "patch_size": 7, "initializer_range": 0.5},
        text_config=LlamaConfig(**TEXT),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        scale_factor=2,
    )
    reader = Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    return config, Idefics3Processor(image_processor=reader, tokenizer=words, image_seq_len=4), IMAGE


def gemma3() -> Made:
    """An image's tokens attend to each other, layers have windows, and the placeholder is not the image token."""
    words = tokenizer(image_token=IMAGE, boi_token=START, eoi_token=END)
    image_id, start_id, end_id = words.convert_tokens_to_ids([IMAGE, START, END])
    layers = {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    config = Gemma3Config(
        vision_config=VISION | {"image_size": 28, "patch_size": 7, "initializer_range": 0.5},
        text_config=TEXT | layers | {"query_pre_attn_scalar": 8, "initializer_range": 0.5},
        mm_tokens_per_image=4,
        image_token_index=image_id,
        boi_token_index=start_id,
        eoi_token_index=end_id,
        tie_word_embeddings=False,
    )
    reader = Gemma3ImageProcessorPil(size={"height": 28, "width": 28})
    return config, Gemma3Processor(reader, words, image_seq_length=4), START


def qwen2_5_vl() -> Made:
    """An image's tokens have positions in two dimensions, fewer than there are tokens."""
    words = tokenizer()
    image_id, start_id, end_id, video_id = words.convert_tokens_to_ids([IMAGE, START, END, "<video>"])
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    sizes = {"depth": 2, "hidden_size": 16, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    patches = {"patch_size": 14, "spatial_merge_size": 2, "fullatt_block_indexes": [1], "window_size": 56}
    config = Qwen2_5_VLConfig(
        vision_config=sizes | patches | {"initializer_range": 0.5},
        text_config=TEXT | {"rope_parameters": rope},
        image_token_id=image_id,
        video_token_id=video_id,
        vision_start_token_id=start_id,
        vision_end_token_id=end_id,
        tie_word_embeddings=False,
    )
    reader = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 112 * 112})
    return config, ImagesOnlyProcessor(reader, words), f"{START}{IMAGE}{END}"


VISION_FAMILIES: dict[str, Callable[[], Made]] = {
    "llava": llava,
    "llava_wide": llava_wide,
    "idefics3": idefics3,
    "gemma3": gemma3,
    "qwen2_5_vl": qwen2_5_vl,
}


def save_vision_model(folder: Path, family: str) -> Path:
    """Write a random model of this family, and its processor, into `folder`."""
    torch.manual_seed(0)
    config, processor, place = VISION_FAMILIES[family]()
    model = AutoModelForImageTextToText.from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1 and not weight.any():  # a projection that starts at nothing would hide the images
            torch.nn.init.normal_(weight)
    model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=3, do_sample=False)
    model.save_pretrained(folder)
    processor.chat_template = TEMPLATE.replace("PLACE", place)
    processor.save_pretrained(folder)
    return folder
