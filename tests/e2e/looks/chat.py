"""The states of the chat page around an answer: before the first word, the box, the settings, the list."""

import base64
import json
from typing import Any

from tests.e2e.looks.texts import QUESTIONS, chats
from tests.e2e.looks.visit import Visit
from tests.e2e.page.talk import choose, until_done
from tests.e2e.page.test_composer import NOTES, attach, pdf

MODELS = [
    {"id": "qwen3-8b", "root": "Qwen/Qwen3-8B", "max_model_len": 32768, "status": {"state": "loaded"}},
    {
        "id": "coder-30b",
        "root": "Qwen/Qwen3-Coder-30B-A3B",
        "max_model_len": 65536,
        "status": {"state": "cold"},
        "eta_s": 14,
    },
]
PICTURE = """() => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [640, 400];
    const context = canvas.getContext("2d");
    const colours = context.createLinearGradient(0, 0, 640, 400);
    colours.addColorStop(0, "#0f766e");
    colours.addColorStop(1, "#1d5fae");
    context.fillStyle = colours;
    context.fillRect(0, 0, 640, 400);
    return canvas.toDataURL("image/png");
}"""


def start(visit: Visit, *, has_chats: bool = False) -> None:
    visit.backend.models = MODELS
    visit.backend.scripts = dict(QUESTIONS)
    visit.open()
    if has_chats:
        file = {"name": "chats.json", "mimeType": "application/json", "buffer": json.dumps(chats()).encode()}
        visit.page.set_input_files("#import", file)
        visit.page.wait_for_selector("#toast:visible")
        visit.page.evaluate("document.querySelector('#toast').hidden = true")
        visit.page.wait_for_selector("#conversations li >> nth=5", state="attached")


def say(page: Any, text: str) -> None:
    page.fill("#text", text)
    page.click("#send")  # on a touch screen Enter is a new line


def talk(visit: Visit, question: str) -> None:
    start(visit)
    say(visit.page, question)
    until_done(visit.page)


def drawer(visit: Visit) -> None:
    """The list of conversations, which is a drawer on a phone."""
    if visit.page.is_visible("#open-sidebar"):
        visit.page.click("#open-sidebar")


# Before the first word


def empty(visit: Visit) -> None:
    start(visit)


def wrong_key(visit: Visit) -> None:
    visit.open("/", "#theme")
    visit.page.evaluate("localStorage.setItem('omni.key', '\"sk-wrong\"')")
    visit.page.reload()
    visit.page.wait_for_selector("#banner:visible")


def not_ready(visit: Visit) -> None:
    error = {"error": {"message": "The service is starting: no worker is ready yet.", "code": "not_ready"}}
    visit.page.route("**/v1/models", lambda route: route.fulfill(status=503, json=error))
    visit.open("/", "#banner:not([hidden])")


def offline(visit: Visit) -> None:
    visit.page.route("**/v1/models", lambda route: route.abort())
    visit.open("/", "#banner:not([hidden])")


def waits_for_a_model(visit: Visit) -> None:
    not_ready(visit)
    say(visit.page, "Why is the sky blue?")
    visit.page.wait_for_selector("#send-note:not(:empty)")


def picked_model_is_loading(visit: Visit) -> None:
    states = [("qwen3-8b", {"state": "loading", "progress": 0.42}), ("coder-30b", {"state": "cold"})]
    visit.backend.models = [
        {"id": name, "max_model_len": 32768, "status": status, "eta_s": 14} for name, status in states
    ]
    visit.open()
    visit.page.wait_for_selector("#model option:has-text('loading 42 %')", state="attached")


# What is said


def picture(visit: Visit) -> dict[str, object]:
    data = visit.page.evaluate(PICTURE).partition(",")[2]
    return {"name": "sea.png", "mimeType": "image/png", "buffer": base64.b64decode(data)}


def files_to_send(visit: Visit) -> None:
    start(visit)
    plan = {"name": "plan of the house, second version.pdf", "mimeType": "application/pdf", "buffer": pdf("The plan")}
    attach(visit.page, picture(visit), NOTES, plan)
    visit.page.fill("#text", "What is in these files?")


def files_sent(visit: Visit) -> None:
    files_to_send(visit)
    visit.page.click("#send")
    until_done(visit.page)


def file_refused(visit: Visit) -> None:
    start(visit)
    attach(visit.page, {"name": "a.docx", "mimeType": "application/zip", "buffer": b"PK\0\xff"}, NOTES)


def dropping(visit: Visit) -> None:
    start(visit)
    visit.page.evaluate("document.querySelector('main').classList.add('dropping')")


def long_message(visit: Visit) -> None:
    start(visit)
    visit.page.fill("#text", "\n".join(f"Line {number} of a message that is being written" for number in range(14)))


def editing(visit: Visit) -> None:
    talk(visit, "How does a binary search work?")
    visit.page.click(".message.user [aria-label^=Edit]")


def editing_an_answer(visit: Visit) -> None:
    talk(visit, "How does a binary search work?")
    visit.page.click(".message.assistant [aria-label=Edit]")


def menu_of_a_message(visit: Visit) -> None:
    talk(visit, "How does a binary search work?")
    visit.page.click(".message.assistant [aria-label=More]")


def too_long(visit: Visit) -> None:
    talk(visit, "How does a binary search work?")
    visit.backend.count = lambda body: 33000
    attach(visit.page, NOTES | {"buffer": b"Buy milk. " * 12000})
    say(visit.page, "What is in this file?")
    visit.page.wait_for_selector("#size-note button")


# Settings and keys


def settings(visit: Visit) -> None:
    start(visit)
    visit.page.click("#open-panel")


def settings_unfolded(visit: Visit) -> None:
    settings(visit)
    for summary in visit.page.locator("#panel summary").all():
        summary.click()
    visit.page.fill("#option-temperature", "7")
    visit.page.fill("#option-tools", "[{]")
    visit.page.fill("#option-schema", '{"type": "object"}')


def settings_further_down(visit: Visit) -> None:
    settings_unfolded(visit)
    visit.page.evaluate("document.querySelector('#panel').scrollTop = 1e6")


def preset_to_save(visit: Visit) -> None:
    settings(visit)
    visit.page.fill("#option-system", "You are a patient teacher of physics.")
    visit.page.click("text=Save as")
    visit.page.fill("#preset-name", "Teacher")


def keys(visit: Visit) -> None:
    start(visit)
    visit.page.keyboard.press("Control+/")
    visit.page.wait_for_selector("#shortcuts[open]")


# The list of conversations


def many_chats(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    visit.page.click("#conversations .title >> nth=0")  # which closes a drawer
    visit.page.wait_for_selector(".hljs-keyword")
    drawer(visit)


def menu_of_a_chat(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    visit.page.click("[aria-label='Actions for Night trains from Vienna']")


def menu_of_all(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    visit.page.click("[aria-label='All chats']")


def folder_to_choose(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    choose(visit.page, "Night trains from Vienna", "Move to folder…")


def name_to_type(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    choose(visit.page, "Night trains from Vienna", "Rename")


def found(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    visit.page.fill("#search", "search")
    visit.page.wait_for_selector("mark")


def found_nothing(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    visit.page.fill("#search", "zebra crossing")
    visit.page.wait_for_selector("#conversations:has-text('No chat')")


def deleted(visit: Visit) -> None:
    start(visit, has_chats=True)
    drawer(visit)
    choose(visit.page, "Packing list", "Delete")
    visit.page.wait_for_selector("#toast:has-text('Undo')")


def not_imported(visit: Visit) -> None:
    start(visit)
    visit.page.set_input_files("#import", {"name": "holiday.json", "mimeType": "application/json", "buffer": b"{}"})
    visit.page.wait_for_selector("#toast:visible")


CHAT = (
    empty, wrong_key, not_ready, offline, waits_for_a_model, picked_model_is_loading,
    files_to_send, files_sent, file_refused, dropping, long_message, editing, editing_an_answer,
    menu_of_a_message, too_long,
    settings, settings_unfolded, settings_further_down, preset_to_save, keys,
    many_chats, menu_of_a_chat, menu_of_all, folder_to_choose, name_to_type,
    found, found_nothing, deleted, not_imported,
)  # fmt: skip
