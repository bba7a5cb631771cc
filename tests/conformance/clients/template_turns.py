"""Conversations whose last turn has calls, and that turn's own text as a model's chat template writes it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.schema.chat import Message, Tool
from common.wire import ModelCard

# what a generation prompt may begin to think with, and a history leaves out
THOUGHT = re.compile(
    r"\s*(<think>|</think>|<seed:think>|<mm:think>|\[THINK\]|<\|open\|>think|<\|START_THINKING\|>|<\|channel>thought"
    r"|<think:opensource>|Here are my reasoning steps:).*",
    re.DOTALL,
)
# tokens that end a turn: a model's answer does not have them
ENDS = re.compile(
    r"(?:(?:<\|(?:im_end|eot_id|eom_id|eot|END_OF_TURN_TOKEN|call|calls|return|end|end_of_msg|end_of_text|message_sep|"
    r"role_end|endoftext|assistant_end|flush)\|>|<｜(?:end▁of▁sentence|hy_eos:opensource)｜>|<SPECIAL_12>|<turn\|>|"
    r"<\|tool_response>|</s>|<\[end_of_turn\]>|<seed:eos>|<end_of_turn>|<sep>|</assistant>|\[e~\[|<end_of_sentence>|<｜Assistant｜>|"
    r"<\|START_OF_TURN_TOKEN\|><\|CHATBOT_TOKEN\|>(?:<\|START_THINKING\|><\|END_THINKING\|>)?|"
    r"<\|start_header_id\|>assistant<\|end_header_id\|>)\s*)+\Z"
)


def tool(name: str, **parameters: Any) -> Tool:
    described = {key: {"description": f"the {key}", **schema} for key, schema in parameters.items()}
    schema = {"type": "object", "properties": described, "required": list(parameters), "additionalProperties": False}
    return Tool.model_validate(
        {"type": "function", "function": {"name": name, "description": f"It does {name}.", "parameters": schema}}
    )


TOOLS = [
    tool("get_weather", city={"type": "string"}, days={"type": "integer"}),
    tool(
        "run",
        code={"type": "string"},
        options={"type": "object"},
        items={"type": "array", "items": {"type": "string"}},
        any={},
        flag={"type": "boolean"},
        ratio={"type": "number"},
    ),
    tool("now"),
]

Call = tuple[str, dict[str, Any]]
PARIS: Call = ("get_weather", {"city": "Paris", "days": 3})
ODD = 'if a < 3 and b > 2:\n\tprint("é 憂鬱 🇫🇷", \'x\', "\\n\\u0041")  # {{x}} {"a": [1]} ] ) } </b> a=1, b=2'


@dataclass(frozen=True, slots=True)
class Turn:
    """What an assistant says at the end of a conversation."""

    calls: tuple[Call, ...]
    text: str = ""
    reasoning: str = ""

    def message(self, short_ids: bool) -> Message:
        ids = [f"abcdef{number:03}" if short_ids else f"call_{number:024x}" for number in range(len(self.calls))]
        calls = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
            for call_id, (name, arguments) in zip(ids, self.calls, strict=True)
        ]
        fields: dict[str, Any] = {"role": "assistant", "content": self.text or None, "tool_calls": calls}
        return Message.model_validate(fields | ({"reasoning": self.reasoning} if self.reasoning else {}))


TURNS = {
    "one call": Turn((PARIS,)),
    "several calls": Turn((PARIS, ("now", {}), ("get_weather", {"city": "東京, Ōta", "days": -1}))),
    "text before a call": Turn((PARIS,), text="I look it up: one moment."),
    "no arguments": Turn((("now", {}),)),
    "reasoning": Turn((PARIS,), reasoning="They want the weather.\nI call."),
    "odd strings": Turn((("run", {"code": ODD, "items": ["", "a\nb", '"', "\\", "]", "</x>"]}),)),
    "values": Turn(
        (("run", {"options": {"a": {"b c": [1, None, True, -2500.5]}}, "any": [{}], "flag": False, "ratio": 0.25}),)
    ),
    "strings like values": Turn(
        tuple(("run", {"code": text}) for text in ("123", "true", "null", '{"a": 1}', "[1, 2]", '"quoted"', "x y"))
    ),
    "an empty string": Turn((("run", {"code": "", "flag": True}),)),
    "white space around": Turn((("run", {"code": "  a\n  b\n\n"}),)),
    "a value of any kind": Turn((("run", {"any": "a < b"}), ("run", {"any": 5}), ("run", {"any": {"a": None}}))),
}


class CannotCut(Exception):
    """The turn's text does not stand between what comes before and after a turn."""


def spoken(card: ModelCard, turn: Turn, *, short_ids: bool) -> tuple[str, str]:
    """The prompt before the turn, and the text of the turn as the model would have written it."""
    asked = Message(role="user", content="Please.")
    thinks = {"enable_thinking": True, "thinking": True} if turn.reasoning else {}

    def rendered(*more: Message, prompts: bool = False) -> str:
        conversation = Conversation([asked, *more], TOOLS, template_kwargs=thinks, add_generation_prompt=prompts)
        return render(conversation, card, Guard(()))

    prompt, whole = rendered(prompts=True), rendered(turn.message(short_ids))
    before = prompt if whole.startswith(prompt) else _without_thought(prompt, rendered())
    if not whole.startswith(before):
        raise CannotCut(f"{whole[-300:]!r} does not go on from {before[-100:]!r}")
    return before, ENDS.sub("", whole.removeprefix(before))


def _without_thought(prompt: str, base: str) -> str:
    """The generation prompt without the thought that it begins."""
    header = prompt.removeprefix(base)
    return prompt.removesuffix(header) + THOUGHT.sub("", header)
