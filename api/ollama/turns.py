"""Ollama's messages -> chat messages."""

import json
from collections import OrderedDict, defaultdict
from collections.abc import Sequence

from api.schema.chat import FunctionCall, ImageUrl, Message, Part, ToolCall
from api.schema.ollama import OllamaGenerateRequest, OllamaMessage, OllamaToolCall

DATA = "data:"
ANY_IMAGE = "data:image/png;base64,"  # the reader looks at the bytes, not at the type


class CallIds:
    """Ids for calls that come without: Ollama's clients tell results by their order, or by the tool's name."""

    def __init__(self) -> None:
        self._num_calls = 0
        self._open: OrderedDict[str, str] = OrderedDict()  # id -> tool's name, of the calls without a result so far
        self._of_tool: defaultdict[str, OrderedDict[str, None]] = defaultdict(OrderedDict)  # their ids by name

    def of_call(self, call: OllamaToolCall) -> str:
        self._num_calls += 1
        call_id = call.id or f"call_{self._num_calls}"
        self._close(call_id)
        self._open[call_id] = call.function.name
        self._of_tool[call.function.name][call_id] = None
        return call_id

    def of_result(self, message: OllamaMessage) -> str:
        """The id that it names, else that of the first open call of its tool, else of the first open call."""
        candidates = self._of_tool.get(message.tool_name or "") or self._open
        call_id = message.tool_call_id or next(iter(candidates), "call_0")
        self._close(call_id)
        return call_id

    def _close(self, call_id: str) -> None:
        if (name := self._open.pop(call_id, None)) is not None:
            del self._of_tool[name][call_id]


def messages_of(sent: Sequence[OllamaMessage]) -> list[Message]:
    ids = CallIds()
    return [message_of(message, ids) for message in sent]


def message_of(sent: OllamaMessage, ids: CallIds) -> Message:
    calls = [
        ToolCall(id=ids.of_call(call), function=FunctionCall(name=call.function.name, arguments=arguments_of(call)))
        for call in sent.tool_calls or ()
    ]
    is_result = sent.role == "tool"
    return Message.model_construct(  # not validated again: with the text there may be a part more than may be sent
        role=sent.role,
        content=content_of(sent.content or "", sent.images or ()),
        reasoning_content=sent.thinking or None,
        tool_calls=calls or None,
        tool_call_id=ids.of_result(sent) if is_result else None,
        name=sent.tool_name if is_result else None,
    )


def arguments_of(call: OllamaToolCall) -> str:
    return json.dumps(call.function.arguments or {}, ensure_ascii=False)


def content_of(text: str, images: Sequence[str]) -> str | list[Part]:
    if not images:
        return text
    urls = [image if image.startswith(DATA) else ANY_IMAGE + image for image in images]
    pictures = [Part(type="image_url", image_url=ImageUrl(url=url)) for url in urls]
    return [*pictures, *([Part(type="text", text=text)] if text else [])]


def prompt_messages(body: OllamaGenerateRequest) -> list[Message]:
    """The conversation that a prompt stands for."""
    system = [Message(role="system", content=body.system)] if body.system else []
    content = content_of(body.prompt or "", body.images or ())
    return [*system, Message.model_construct(role="user", content=content)]
