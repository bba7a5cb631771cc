"""The answers that /openapi.json describes are those that are sent."""

import pytest
from pydantic import ValidationError

from api.schema.answers import AnswerMessage, CallPiece


@pytest.mark.parametrize(
    "kind", [{"function": {"name": "f", "arguments": "{}"}}, {"custom": {"name": "f", "input": "x"}}]
)
def test_calls_of_functions_and_of_custom_tools_are_described(kind):
    [name] = kind
    call = {"id": "c", "type": name} | kind
    message = AnswerMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.model_dump(exclude_none=True)["tool_calls"] == [call]
    piece = CallPiece.model_validate({"index": 0, **call}).model_dump(exclude_none=True)
    assert piece == {"index": 0, **call}
    with pytest.raises(ValidationError):
        AnswerMessage.model_validate({"role": "assistant", "content": None, "tool_calls": [call | {"type": "other"}]})
