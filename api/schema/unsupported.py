"""Fields of other servers' APIs that would change the answer and that this server cannot honour.

They are refused by name. Fields without effect on the answer are ignored and not listed here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a field is refused. `harmless`: values that change nothing, besides null, false and empty ones."""

    why: str
    harmless: tuple[Any, ...] = ()


NOT_HERE = Refusal("is not supported by this server")
NO_AUDIO = Refusal("is not supported: this server answers in text only")
DRAWING = Refusal("is not supported; temperature, top_p, top_k, min_p and the penalties are")

LEGACY_MESSAGE: Mapping[str, Refusal] = MappingProxyType(
    {
        "audio": NO_AUDIO,
    }
)

OLD_CALLS: Mapping[str, Refusal] = MappingProxyType(
    {
        "functions": Refusal("is OpenAI's old form; send 'tools'"),
        "function_call": Refusal("is OpenAI's old form; send 'tool_choice'", ("none", "auto")),
    }
)  # refused beside chat

CHAT: Mapping[str, Refusal] = MappingProxyType(
    {
        # OpenAI
        "audio": NO_AUDIO,
        "web_search_options": Refusal("is not supported: this server fetches nothing from the network"),
        "moderation": NOT_HERE,
        # vLLM and SGLang
        "use_beam_search": DRAWING,
        "best_of": Refusal("is not supported; use 'n'", (1,)),
        "length_penalty": Refusal("is not supported: there is no beam search", (1, 1.0)),
        "echo": Refusal("is not supported for chat; /v1/completions has it"),
        "prompt_logprobs": Refusal("is not supported for chat"),
        "add_special_tokens": Refusal("is not supported: the chat template writes all special tokens"),
        "documents": Refusal("is not supported; put the documents into a message"),
        "chat_template": Refusal("is not supported: the model's own template is used"),
        "mm_processor_kwargs": NOT_HERE,
        "truncate_prompt_tokens": Refusal("is not supported; shorten the messages"),
        "include_stop_str_in_output": Refusal("is not supported: a stop string is never shown"),
        "allowed_token_ids": Refusal("is not supported; use 'logit_bias' or a grammar"),
        "bad_words": Refusal("is not supported; use 'logit_bias'"),
        "guided_whitespace_pattern": NOT_HERE,
        "structural_tag": NOT_HERE,
        "logits_processors": NOT_HERE,
        "custom_logit_processor": NOT_HERE,
        "return_tokens_as_token_ids": NOT_HERE,
        "return_token_ids": NOT_HERE,
        "kv_transfer_params": NOT_HERE,
        "lora_path": NOT_HERE,
        "min_new_tokens": Refusal("is not supported; use 'min_tokens'"),
        "stop_regex": Refusal("is not supported; use 'stop' or 'regex'"),
        # llama.cpp
        "n_predict": Refusal("is not supported; use 'max_tokens'"),
        "repeat_penalty": Refusal("is not supported; use 'repetition_penalty'", (1, 1.0)),
        "n_probs": Refusal("is not supported; use 'logprobs' and 'top_logprobs'"),
        "typical_p": Refusal(DRAWING.why, (1, 1.0)),
        "tfs_z": Refusal(DRAWING.why, (1, 1.0)),
        "mirostat": DRAWING,
        "dynatemp_range": DRAWING,
        "xtc_probability": DRAWING,
        "dry_multiplier": DRAWING,
        "top_n_sigma": Refusal(DRAWING.why, (-1, -1.0)),
        "samplers": DRAWING,
        "lora": NOT_HERE,
        "input_prefix": NOT_HERE,
        "input_suffix": NOT_HERE,
    }
)
