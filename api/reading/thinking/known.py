"""The forms of reasoning that this server reads."""

from collections.abc import Callable

from api.reading.thinking.form import ReasoningForm
from common.grammar.thinking import THINK_END, THINK_MARKS, ThoughtMarks


def names(*texts: str) -> Callable[[str, str], bool]:
    """True for templates that have all of the texts."""
    return lambda template, architecture: all(text in template for text in texts)


def has_response_tags(template: str, architecture: str) -> bool:
    """Granite 3.3 and ERNIE 4.5. Elsewhere such tags stand around a tool's result."""
    return "<response></response>" in template or ("<response>" in template and architecture.startswith("ernie"))


def closes_only(template: str, architecture: str) -> bool:
    """The first templates of DeepSeek-R1's distillates and of QwQ: they cut reasoning out, but never open it."""
    begins_reasoning = "<｜Assistant｜>" in template or architecture == "qwen2"
    return begins_reasoning and THINK_END in template and THINK_MARKS.opening not in template


HARMONY = ReasoningForm(  # gpt-oss; channels.py reads it
    "harmony",
    ThoughtMarks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant", "<|channel|>final<|message|>"),
    detect=names("<|channel|>analysis<|message|>"),
    end_tokens=("<|return|>", "<|call|>"),
    has_channels=True,
    shares_closing=True,
)
MUSE = ReasoningForm(
    "muse",
    ThoughtMarks("to=self<|message|>", "<|eom|><|start|>assistant", "to=user<|message|>"),
    detect=names("to=self<|message|>"),
)
KIMI_K3 = ReasoningForm(
    "kimi_k3",
    ThoughtMarks(
        "<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|open|>response<|sep|>", "<|close|>response<|sep|>"
    ),
    detect=names("<|open|>", "<|sep|>", "'response'"),
    other_answer_closings=("<|close|>message<|sep|>",),
    answers_always=True,
)
GEMMA4 = ReasoningForm(
    "gemma4", ThoughtMarks("<|channel>thought", "<channel|>"), detect=names("<|channel>thought", "<channel|>")
)
BRACKETS = ReasoningForm("brackets", ThoughtMarks("[THINK]", "[/THINK]"), detect=names("[THINK]"))
SEED = ReasoningForm("seed", ThoughtMarks("<seed:think>", "</seed:think>"), detect=names("<seed:think>"))
MINIMAX_M3 = ReasoningForm(
    "minimax_m3", ThoughtMarks("<mm:think>", "</mm:think>", closes_alone=True), detect=names("<mm:think>")
)
HY3 = ReasoningForm(
    "hy3", ThoughtMarks("<think:opensource>", "</think:opensource>"), detect=names("<think{}>", ":opensource")
)
COHERE = ReasoningForm(
    "cohere",
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    detect=names("<|START_THINKING|>", "<|START_RESPONSE|>"),
)
COHERE_TEXT = ReasoningForm(
    "cohere_text",
    ThoughtMarks("<|START_THINKING|>", "<|END_THINKING|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    detect=names("<|START_THINKING|>"),
)
SOLAR = ReasoningForm(
    "solar",
    ThoughtMarks("<|think|>", "<|end|><|begin|>assistant", "<|content|>"),
    detect=names("<|begin|>assistant", "<|think|>"),
    shares_closing=True,
)
APERTUS = ReasoningForm(
    "apertus",
    ThoughtMarks("<|inner_prefix|>", "<|inner_suffix|>"),
    detect=names("<|inner_prefix|>"),
    ends_before=("<|tools_prefix|>",),
)
GRANITE = ReasoningForm(
    "granite",
    ThoughtMarks("Here is my thought process:", "Here is my response:"),
    detect=names("Here is my thought process:"),
    other_openings=("Here's my thought process:",),
    other_closings=("Here's my response:",),
)
APRIEL = ReasoningForm(
    "apriel",
    ThoughtMarks("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    detect=names("[BEGIN FINAL RESPONSE]"),
    other_answer_closings=("[END FINAL RESPONSE]",),
    has_plain_marks=True,
    ends_before=("<tool_calls>[",),
)
THINK_RESPONSE = ReasoningForm(
    "think_response",
    ThoughtMarks("<think>", "</think>", "<response>", "</response>"),
    detect=has_response_tags,
    has_plain_marks=True,
)
HUNYUAN = ReasoningForm(
    "hunyuan",
    ThoughtMarks("<think>", "</think>", "<answer>", "</answer>"),
    detect=names("<think>", "<answer>"),
    has_plain_marks=True,
)
EXAONE = ReasoningForm("exaone", ThoughtMarks("<thought>", "</thought>"), detect=names("<thought>", "</thought>"))
KIMI_K2 = ReasoningForm(
    "kimi_k2",
    THINK_MARKS,
    detect=names("<think>", "<|tool_calls_section_begin|>"),
    ends_before=("<|tool_calls_section_begin|>",),
)
GIGACHAT = ReasoningForm(
    "gigachat",
    THINK_MARKS,
    detect=names("<|role_sep|>", "<|message_sep|>"),
    other_answer_closings=("<|message_sep|>",),
)
IMPLIED_THINK = ReasoningForm("implied_think", THINK_MARKS, detect=closes_only, is_implied=True)
# Every other model: many think although their templates do not mention it.
THINK = ReasoningForm("think", THINK_MARKS, detect=lambda template, architecture: True)

FORMS = (  # the first that detects a template is chosen
    HARMONY,
    MUSE,
    KIMI_K3,
    GEMMA4,
    BRACKETS,
    SEED,
    MINIMAX_M3,
    HY3,
    COHERE,
    COHERE_TEXT,
    SOLAR,
    APERTUS,
    GRANITE,
    APRIEL,
    THINK_RESPONSE,
    HUNYUAN,
    EXAONE,
    KIMI_K2,
    GIGACHAT,
    IMPLIED_THINK,
    THINK,
)


def form_named(name: str) -> ReasoningForm:
    """The form with this name. Raises LookupError."""
    for form in FORMS:
        if form.name == name:
            return form
    raise LookupError(f"no form of reasoning is named {name!r}")


def form_for(chat_template: str | None, architecture: str) -> ReasoningForm:
    """The form of a model, read off its chat template and architecture."""
    return next(form for form in FORMS if form.detect(chat_template or "", architecture))
