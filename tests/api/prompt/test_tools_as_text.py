"""Models whose chat templates show no tools, or leave earlier calls and their results out."""

import json
import time

from api.prompt import template_traits
from api.prompt.bounds import TooSlow
from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.prompt.turns import _with_results_as_turns
from api.reading.choice import ChoiceParser
from api.reading.pieces import Content, ToolCallArguments
from api.schema.chat import ChatRequest, Tool
from api.schema.parse import parse
from common.wire import Delta
from tests.api.chat_requests import prepared
from tests.api.conftest import CHATML, card, chat_tokenizer

TURNS = "{%- for m in messages -%}[{{ m.role }}]{{ m.content }}{%- endfor -%}"
OWN_FORM = TURNS + """{%- for tool in tools or [] -%}<own>{{ tool.function.name }}</own>{%- endfor -%}"""
USERS_ONLY = """{%- for m in messages -%}{%- if m.role not in ['user', 'assistant'] -%}
{{- raise_exception('Only users and assistants!') -}}{%- endif -%}[{{ m.role }}]{{ m.content }}{%- endfor -%}"""
XML = TURNS + "{{ xml_tools | tojson if xml_tools }}"
JOINED = "{{ 'functions: ' + functions + ' on ' + datetime }}" + TURNS
IN_SYSTEM = TURNS.replace("{{ m.content }}", "{{ m.content }}{{ '<|tool|>' + m.tools if m.tools }}")
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds <b>", "parameters": {"type": "object"}}}
ASK = {"role": "user", "content": "1+1"}
CALLS = {
    "role": "assistant",
    "content": "I add.",
    "tool_calls": [
        {"id": f"c{number}", "type": "function", "function": {"name": "add", "arguments": json.dumps({"a": number})}}
        for number in (1, 2)
    ],
}
RESULTS = [{"role": "tool", "tool_call_id": f"c{number}", "content": f"r{number}"} for number in (1, 2)]
WRITTEN = """<tool_call>
{"name": "add", "arguments": {"a": 1}}
</tool_call>
<tool_call>
{"name": "add", "arguments": {"a": 2}}
</tool_call>"""


def rendered(template, messages, tools=(), **changes):
    body = parse(ChatRequest, {"model": "tiny", "messages": messages})
    conversation = Conversation(body.messages, [Tool.model_validate(tool) for tool in tools])
    return render(conversation, card(chat_tokenizer(), chat_template=template, **changes), Guard(()))


def test_tools_that_a_template_does_not_show_are_described_in_the_system_message():
    prompt = rendered(TURNS, [{"role": "system", "content": "Be kind."}, ASK], [TOOL])
    assert prompt.startswith("[system]Be kind.\n\n# Tools\n") and prompt.endswith("[user]1+1")
    assert json.dumps(TOOL) in prompt and prompt.count("<tool_call>") == 1
    assert rendered(TURNS, [ASK], [TOOL]).startswith("[system]# Tools\n")
    assert rendered(TURNS, [ASK]) == "[user]1+1"


def test_the_tools_text_says_where_results_stand_only_if_the_template_has_no_form_for_them():
    assert "<tool_response>" not in rendered(TURNS, [ASK], [TOOL])
    assert "come back in <tool_response></tool_response>." in rendered(USERS_ONLY, [ASK], [TOOL])


def test_tools_that_a_template_shows_are_not_shown_twice():
    assert rendered(OWN_FORM, [ASK], [TOOL]) == "[user]1+1<own>add</own>"
    assert "# Tools" not in rendered(CHATML, [ASK], [TOOL])


def test_tools_stand_where_a_template_reads_them():
    assert rendered(XML, [ASK], [TOOL]) == f"[user]1+1{json.dumps([TOOL])}"
    assert f"functions: {json.dumps([TOOL])} on 20" in rendered(JOINED, [ASK], [TOOL])
    assert "functions: [] on 20" in rendered(JOINED, [ASK])
    function = json.dumps([TOOL["function"]])
    assert rendered(IN_SYSTEM, [ASK], [TOOL]) == f"[system]<|tool|>{function}[user]1+1"
    assert rendered(IN_SYSTEM, [{"role": "system", "content": "A"}, ASK], [TOOL]).startswith("[system]A<|tool|>[")


def test_earlier_calls_that_a_template_leaves_out_are_written_in_the_turn():
    assert rendered(TURNS, [ASK, CALLS, *RESULTS], [TOOL]).endswith(
        f"[user]1+1[assistant]I add.\n{WRITTEN}[tool]r1[tool]r2"
    )


def test_results_become_a_user_s_turn_where_a_template_knows_no_tools():
    prompt = rendered(USERS_ONLY, [ASK, CALLS, *RESULTS, ASK], [TOOL])
    results = "\n".join(f"<tool_response>\n{text}\n</tool_response>" for text in ("r1", "r2"))
    assert prompt.startswith("[user]# Tools\n")
    assert prompt.endswith(f"[user]1+1[assistant]I add.\n{WRITTEN}[user]{results}[user]1+1")


def test_an_image_in_a_result_stays_in_the_turn_that_the_result_becomes():
    shown = USERS_ONLY.replace(
        "{{ m.content }}", "{%- for p in m.content -%}{{ '<image>' if p.type == 'image' else p.text }}{%- endfor -%}"
    )
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    result = RESULTS[0] | {"content": [{"type": "text", "text": "seen: "}, picture]}
    prompt = rendered(shown, [ASK, CALLS, result], [TOOL], accepts_images=True)
    assert prompt.endswith(f"I add.\n{WRITTEN}[user]<tool_response>\nseen: <image>\n</tool_response>")


def test_the_answers_of_a_model_without_a_form_of_its_own_are_read_as_hermes(encoder_of):
    plain = encoder_of(chat_template=TURNS)
    ready = prepared(plain, tools=[TOOL])
    assert "# Tools" in plain.decode(ready.prompt.ids)
    parser = ChoiceParser(ready.options, "job", 0)
    pieces = parser.read(Delta(index=0, token_ids=(258,), text=f"Yes.\n{WRITTEN}", finish_reason="stop"))
    assert "".join(piece.text for piece in pieces if isinstance(piece, Content)) == "Yes."
    said = [piece.text for piece in pieces if isinstance(piece, ToolCallArguments)]
    assert said == ['{"a": 1}', '{"a": 2}']
    assert parser.finish_reason == "tool_calls"


def test_without_a_choice_of_tools_none_are_shown_and_calls_of_the_history_stay(encoder_of):
    plain = encoder_of(chat_template=TURNS)
    ready = prepared(plain, messages=[ASK, CALLS, *RESULTS], tools=[TOOL], tool_choice="none")
    text = plain.decode(ready.prompt.ids)
    assert "# Tools" not in text and WRITTEN in text and ready.options.tool_dialect is None


def test_what_a_template_shows_is_found_once(encoder_of, monkeypatch):
    renders = []
    original = template_traits.render_template
    monkeypatch.setattr(template_traits, "render_template", lambda *a, **k: renders.append(1) or original(*a, **k))
    plain = encoder_of(chat_template=TURNS + "{# once #}")
    for _ in range(3):
        prepared(plain, tools=[TOOL])
    assert 0 < len(renders) < 30
    before = len(renders)
    prepared(plain, tools=[TOOL])
    assert len(renders) == before


def test_a_template_that_was_too_slow_once_is_examined_again(monkeypatch, caplog):
    model = card(chat_tokenizer(), chat_template=TURNS + "{# slow once #}")

    def too_slow(*_, **__):
        raise TooSlow

    with monkeypatch.context() as busy:
        busy.setattr(template_traits, "traits_of", too_slow)
        assert template_traits.chat_template_of(model, has_tools=True).traits == template_traits.TemplateTraits()
    assert "cannot be examined" in caplog.text
    assert template_traits.chat_template_of(model, has_tools=True).traits.tools_place is None


def test_a_template_of_its_own_for_tools_is_taken_when_there_are_some(encoder_of):
    own = TURNS + "{{ 'Tools: ' ~ tools | tojson }} To call, write <tool_call>."
    named = encoder_of(chat_template=TURNS, tool_chat_template=own)
    assert "Tools: [{" in named.decode(prepared(named, tools=[TOOL]).prompt.ids)
    assert "Tools" not in named.decode(prepared(named).prompt.ids)


def test_many_results_become_a_turn_in_linear_time():
    results = [{"role": "tool", "content": "x" * 2000} for _ in range(4000)]
    started = time.thread_time()
    [turn] = _with_results_as_turns(results)
    assert turn["content"].count("<tool_response>") == 4000
    assert time.thread_time() - started < 1
