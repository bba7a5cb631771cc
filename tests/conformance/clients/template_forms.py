"""What is expected of each real template: the dialect of its calls, its reasoning, and what it cannot write."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from template_turns import TURNS

SEVERAL = [name for name, turn in TURNS.items() if len(turn.calls) > 1]


@dataclass(frozen=True, slots=True)
class Form:
    dialect: str  # a ToolDialect's name; Hermes' where a template has no form of its own
    reasoning: str | None = None  # the mark that opens it; None: the template leaves reasoning out of a history
    cannot: Mapping[str, str] = field(default_factory=dict)  # {a turn of template_turns.py, or *: why not}


NO_TEXT = {"text before a call": "it leaves out text beside calls"}
FIRST_CALL = dict.fromkeys(SEVERAL, "it writes the first call of a turn only")
ONE_CALL = dict.fromkeys(SEVERAL, "it refuses several calls in one turn")

FORMS: dict[str, Form] = {
    "Apertus-8B-Instruct": Form("apertus"),
    "Apriel-1.6-15b-Thinker-fixed": Form(
        "tool_calls",
        reasoning="Here are my reasoning steps:",
        cannot={"reasoning": "in a history it leaves out the mark that opens it"},
    ),
    "Bielik-11B-v3.0-Instruct": Form("hermes", "<think>"),
    "ByteDance-Seed-OSS": Form("seed_oss", reasoning="<seed:think>"),
    "Cohere2MoE": Form("cohere", reasoning="<|START_THINKING|>", cannot=NO_TEXT),
    "CohereForAI-c4ai-command-r-plus-tool_use": Form(
        "command_r", cannot={"*": "it writes its instructions after the turn"}
    ),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": Form("cohere", reasoning="<|START_THINKING|>", cannot=NO_TEXT),
    "GLM-4.6": Form("glm", reasoning="<think>"),
    "GLM-4.7-Flash": Form("glm47", reasoning="<think>"),
    "GigaChat3-10B-A1.8B": Form("gigachat3", cannot=FIRST_CALL),
    "GigaChat3.1-10B-A1.8B": Form("gigachat31", cannot=FIRST_CALL),
    "HuggingFaceTB-SmolLM3-3B": Form("hermes"),
    "Kimi-K2-Instruct": Form("kimi_k2"),
    "Kimi-K2-Thinking": Form("kimi_k2"),
    "Kimi-K3": Form("kimi_k3", reasoning="<|open|>think"),
    "LFM2-8B-A1B": Form("lfm2"),
    "LFM2.5-8B-A1B": Form("lfm2", reasoning="<think>"),
    "LFM2.5-Instruct": Form("lfm2"),
    "MiMo-VL": Form("hermes"),
    "MiniMax-M1": Form("minimax_m1", cannot=NO_TEXT),
    "MiniMax-M2": Form("minimax_m2", reasoning="<think>"),
    "MiniMax-M3": Form(
        "minimax_m3",
        reasoning="<mm:think>",
        cannot=dict.fromkeys(("values", "a value of any kind"), "it leaves out nulls, and writes {} as an empty text"),
    ),
    "Mistral-Small-3.2-24B-Instruct-2506": Form("mistral_ids", cannot=NO_TEXT),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": Form("qwen3_xml", reasoning="<think>"),
    "NVIDIA-Nemotron-Nano-v2": Form(
        "nemotron_v2", cannot={"text before a call": "it writes text and calls as two turns"}
    ),
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": Form("hermes", cannot=NO_TEXT),
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": Form("hermes", cannot=NO_TEXT),
    "Qwen-QwQ-32B": Form("hermes"),
    "Qwen-Qwen2.5-7B-Instruct": Form("hermes"),
    "Qwen-Qwen3-0.6B": Form("hermes", "<think>"),
    "Qwen3-Coder": Form("qwen3_xml"),
    "Qwen3.5-4B": Form("qwen3_xml", reasoning="<think>"),
    "Reka-Edge": Form("hermes", "<think>"),
    "Spark2.5": Form("glm47", reasoning="<think>"),
    "StepFun3.5-Flash": Form("qwen3_xml", reasoning="<think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": Form("deepseek_v3"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": Form("deepseek_v3", cannot=NO_TEXT),
    "deepseek-ai-DeepSeek-V3.1": Form("deepseek_v31"),
    "deepseek-ai-DeepSeek-V3.2": Form("deepseek_v32", reasoning="<think>"),
    "deepseek-ai-DeepSeek-V4-Flash-0731": Form("deepseek_v4", reasoning="<think>"),
    "deepseek-ai-DeepSeek-V4": Form("deepseek_v4", reasoning="<think>"),
    "fireworks-ai-llama-3-firefunction-v2": Form("functools"),
    "google-gemma-2-2b-it": Form("hermes"),
    "google-gemma-4-31B-it-interleaved": Form("gemma4", reasoning="<|channel>thought"),
    "google-gemma-4-31B-it": Form(
        "gemma4", reasoning="<|channel>thought", cannot={"text before a call": "it writes text behind a call's result"}
    ),
    "ibm-granite-granite-3.3-2B-Instruct": Form("granite3"),
    "ibm-granite-granite-4.0": Form("hermes"),
    "ibm-granite-granite-4.1": Form("hermes"),
    "inclusionai-ling-3.0-flash": Form("glm", reasoning="<think>"),
    "llama-cpp-deepseek-r1": Form("deepseek_v3", cannot={"text before a call": "it leaves out calls beside text"}),
    "llama-cpp-rwkv-world": Form("hermes"),
    "meetkai-functionary-medium-v3.1": Form("functionary_v31"),
    "meetkai-functionary-medium-v3.2": Form("hermes", cannot={"*": "it writes a form that is not read"}),
    "meta-llama-Llama-3.1-8B-Instruct": Form("llama3_json", cannot=ONE_CALL | NO_TEXT),
    "meta-llama-Llama-3.2-3B-Instruct": Form("llama3_json", cannot=ONE_CALL | NO_TEXT),
    "meta-llama-Llama-3.3-70B-Instruct": Form("llama3_json", cannot=ONE_CALL | NO_TEXT),
    "microsoft-Phi-3.5-mini-instruct": Form("hermes"),
    "mistralai-Ministral-3-14B-Reasoning-2512": Form("mistral_args", reasoning="[THINK]"),
    "mistralai-Mistral-Nemo-Instruct-2407": Form("mistral", cannot=NO_TEXT),
    "moonshotai-Kimi-K2": Form("kimi_k2"),
    "muse-glimmer": Form(
        "muse", reasoning="to=self", cannot={"*": "the header that names a call's receiver is not read"}
    ),
    "openai-gpt-oss-120b": Form(
        "harmony",
        reasoning="<|channel|>analysis",
        cannot={"text before a call": "it writes text beside a call as analysis"},
    ),
    "openbmb-MiniCPM5-1B": Form("minicpm5", reasoning="<think>"),
    "poolside-Laguna-S-2.1": Form("glm47", reasoning="<think>"),
    "poolside-Laguna-XS-2.1": Form("glm", reasoning="<think>"),
    "poolside-Laguna-XS.2": Form("glm", reasoning="<think>"),
    "tencent-Hy3": Form("hunyuan3", reasoning="<think:opensource>"),
    "unsloth-Apriel-1.5": Form("tool_calls"),
    "unsloth-mistral-Devstral-Small-2507": Form("mistral_args"),
    "upstage-Solar-Open-100B": Form("solar", reasoning="<|think|>", cannot=NO_TEXT),
}
