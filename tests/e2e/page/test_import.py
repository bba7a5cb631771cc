"""Chats of other pages are imported with their branches, reasoning and files."""

import io
import json
import zipfile

import pytest

from tests.e2e.page.talk import ANSWER, ROWS, answer, ask

PICTURE = "data:image/png;base64,iVBORw0KGgo="


def chatgpt():
    def node(name, parent, role="assistant", text="", **rest):
        content = rest.pop("content", {"content_type": "text", "parts": [text]})
        metadata = rest.pop("metadata", {"model_slug": "gpt-4o"})
        message = {"id": name, "author": {"role": role}, "content": content, "metadata": metadata, **rest}
        return {"id": name, "parent": parent, "children": [], "message": message if role else None}

    thoughts = {"content_type": "thoughts", "thoughts": [{"summary": "S", "content": "Deep thoughts."}]}
    picture = {"content_type": "multimodal_text", "parts": [{"asset_pointer": "file://x"}, "What is this?"]}
    nodes = [
        node("root", None, None),
        node("hidden", "root", "system", "", metadata={"is_visually_hidden_from_conversation": True}),
        node("q", "hidden", "user", content=picture, create_time=1.0),
        node("old", "q", text="A cat.", create_time=2.0),
        node("thoughts", "q", content=thoughts, create_time=3.0),
        node(
            "call", "thoughts", content={"content_type": "code", "text": "search()"}, recipient="web", create_time=4.0
        ),
        node("result", "call", "tool", "found", create_time=5.0),
        node("new", "result", text="A **dog** \ue200cite\ue202turn0\ue201.", create_time=6.0),
    ]
    found = {
        "title": "Pets",
        "create_time": 1.7e9,
        "update_time": 1.7e9,
        "conversation_id": "c1",
        "current_node": "new",
    }
    empty = {"title": "Empty", "mapping": {"root": nodes[0]}, "current_node": "root", "conversation_id": "c2"}
    return [found | {"mapping": {one["id"]: one for one in nodes}}, empty]


def open_webui():
    thought = "<summary>Thought</summary>\n&gt; Two &lt; three.\n"
    details = f'<details type="reasoning" done="true" duration="2">\n{thought}</details>\n'
    files = [
        {"type": "image", "url": PICTURE},
        {"type": "file", "name": "a.txt", "file": {"data": {"content": "Buy milk."}}},
    ]
    messages = {
        "q": {"id": "q", "parentId": None, "role": "user", "content": "What is this?", "files": files},
        "old": {"id": "old", "parentId": "q", "role": "assistant", "content": "A cat.", "model": "qwen"},
        "new": {"id": "new", "parentId": "q", "role": "assistant", "content": details + "A **dog** .", "model": "qwen"},
    }
    chat = {"history": {"messages": messages, "currentId": "new"}, "params": {"system": "Be brief."}}
    return [{"id": "w1", "title": "Pets", "pinned": True, "updated_at": 1_700_000_000, "chat": chat}]


def llama_cpp():
    extra = [{"type": "imageFile", "name": "b.png", "base64Url": PICTURE}]
    messages = [
        {"id": "r", "type": "root", "role": "system", "content": "", "parent": None},
        {"id": "q", "type": "text", "role": "user", "content": "What is this?", "parent": "r", "extra": extra},
        {"id": "old", "type": "text", "role": "assistant", "content": "A cat.", "parent": "q"},
        {"id": "new", "type": "text", "role": "assistant", "content": "A **dog** .", "parent": "q", "thinking": "Hm."},
    ]
    return {"conv": {"id": "l1", "name": "Pets", "lastModified": 1.7e12, "currNode": "new"}, "messages": messages}


def take(chat, name, data):
    chat.set_input_files("#import", {"name": name, "mimeType": "application/octet-stream", "buffer": data})
    return chat.wait_for_selector("#toast:has-text('import')").inner_text()


@pytest.mark.parametrize(
    ("made", "thought", "num_files"),
    [(chatgpt, "Deep thoughts.", 0), (open_webui, "Two < three.", 2), (llama_cpp, "Hm.", 1)],
)
def test_chats_of_other_pages_come_with_branches_reasoning_and_files(chat, backend, made, thought, num_files):
    data = json.dumps(made()).encode()
    assert "1 chat is imported" in take(chat, "export.json", data)
    assert chat.locator(ROWS).all_inner_texts() == ["Pets"]
    assert answer(chat) == "A dog ."
    assert chat.text_content(f"{ANSWER} .fold .plain").strip() == thought
    assert chat.locator(".message.user .attachment").count() == num_files
    assert chat.inner_text(".variants span") == "2/2"
    chat.click("[aria-label='Previous variant']")
    assert answer(chat) == "A cat."
    take(chat, "export.json", data)  # twice is once
    assert chat.locator(ROWS).all_inner_texts() == ["Pets"] and chat.inner_text(".variants span") == "1/2"
    ask(chat, "thanks")
    sent = [message["role"] for message in backend.bodies[-1]["messages"]]
    assert sent == ["system"] * (made is open_webui) + ["user", "assistant", "user"]


def test_an_archive_is_taken_as_chatgpt_sends_it(chat):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("picture.png", b"x" * 100_000)
        archive.writestr("export/conversations-000.json", json.dumps(chatgpt()))
        second = [chatgpt()[0] | {"conversation_id": "c3", "title": "More"}]
        archive.writestr("export/conversations-001.json", json.dumps(second), zipfile.ZIP_STORED)
    assert "2 chats are imported" in take(chat, "export.zip", file.getvalue())
    assert sorted(chat.locator(ROWS).all_inner_texts()) == ["More", "Pets"]
    assert "no conversations.json" in take(chat, "b.zip", b"PK\5\6" + bytes(18))
    assert "not a zip archive" in take(chat, "c.zip", b"no archive at all, but 22 bytes and more")
