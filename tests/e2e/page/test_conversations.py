"""The list of conversations: found, named, sorted, deleted and brought back, exported and imported."""

import json

from tests.e2e.fake_backend import KEY
from tests.e2e.page.talk import ANSWER, ROWS, answer, ask, choose, say, titles, until_done, wait_for_words


def talks(chat, *texts):
    for text in texts:
        chat.click("#new-chat")
        ask(chat, text)


def wait_for_titles(page, *names):
    page.wait_for_function(
        "([rows, names]) => String([...document.querySelectorAll(rows)].map(row => row.innerText)) === String(names)",
        arg=[ROWS, names],
    )


def test_conversations_of_the_old_form_are_taken_over_once(page, backend):
    old = {
        "id": "a1",
        "title": "from before",
        "updated": 1_790_000_000_000,
        "options": {"model": "other", "system": "Be brief."},
        "messages": [
            {"id": "m1", "role": "user", "content": "from before"},
            {"id": "m2", "role": "assistant", "content": "kept", "reasoning": "", "toolCalls": [], "state": "done"},
        ],
    }
    page.add_init_script(
        f"localStorage.seeded ??= localStorage['omni.chat.a1'] = {json.dumps(json.dumps(old))};"
        "localStorage['omni.chat.b2'] = '{cut short';"
    )
    page.goto(backend.url)
    page.wait_for_selector(f"{ANSWER}:has-text('kept')")
    page.reload()
    page.wait_for_selector(f"{ANSWER}:has-text('kept')")
    assert titles(page) == ["from before"]
    assert page.evaluate("Object.keys(localStorage).filter(key => key.startsWith('omni.chat.'))") == []
    ask(page, "more")
    assert backend.bodies[-1]["model"] == "other"
    assert [message["content"] for message in backend.bodies[-1]["messages"]] == [
        "Be brief.", "from before", "kept", "more"
    ]  # fmt: skip


def test_a_search_finds_all_words_in_titles_and_in_text(chat):
    talks(chat, "about red foxes", "about a blue whale")
    chat.fill("#search", "SAID whale")
    wait_for_titles(chat, "about a blue whale\nYou said: about a blue whale")
    assert chat.locator("#conversations mark").first.inner_text() == "whale"
    chat.fill("#search", "foxes")
    wait_for_titles(chat, "about red foxes")
    chat.fill("#search", "zebra")
    chat.wait_for_selector("text=No chat has all these words.")
    chat.press("#search", "Escape")
    wait_for_titles(chat, "about a blue whale", "about red foxes")


def test_a_name_stays_when_the_talk_goes_on(chat):
    talks(chat, "first")
    choose(chat, "first", "Rename")
    chat.keyboard.type("My plans")
    chat.keyboard.press("Enter")
    assert titles(chat) == ["My plans"]
    assert chat.evaluate("document.activeElement.innerText") == "My plans"
    chat.keyboard.press("F2")
    chat.keyboard.type("dropped")
    chat.keyboard.press("Escape")
    ask(chat, "second")
    chat.reload()
    chat.wait_for_selector(ROWS)
    assert titles(chat) == ["My plans"]
    assert chat.title() == "My plans - Protocol OMNI"


def test_pinned_ones_come_first_and_folders_before_the_rest(chat):
    talks(chat, "one", "two", "three")
    choose(chat, "one", "Pin")
    assert titles(chat) == ["one", "three", "two"]
    choose(chat, "two", "Move to folder…")
    chat.fill("dialog.ask input", "Work")
    chat.keyboard.press("Enter")
    wait_for_titles(chat, "one", "two", "three")
    chat.click(".fold-title")
    assert not chat.is_visible("#conversations li:has-text('two')")
    chat.reload()
    chat.wait_for_selector(ROWS)
    assert chat.get_attribute(".fold-title", "aria-expanded") == "false"
    assert chat.locator(".group-name").all_inner_texts() == ["Pinned", "Today"]
    choose(chat, "Work", "Rename folder…")
    chat.fill("dialog.ask input", "Home")
    chat.keyboard.press("Enter")
    chat.wait_for_selector(".fold-title:has-text('Home')")
    choose(chat, "Home", "Remove folder, keep its chats")
    wait_for_titles(chat, "one", "three", "two")


def test_a_deleted_chat_comes_back_with_its_branches(chat):
    talks(chat, "one", "two")
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.wait_for_selector(".variants")
    until_done(chat)
    choose(chat, "two", "Delete")
    wait_for_titles(chat, "one")
    assert chat.evaluate("document.activeElement.innerText") == "one"  # the row in its place, not the page's body
    chat.click("#toast >> text=Undo")
    wait_for_titles(chat, "two", "one")
    chat.reload()
    chat.wait_for_selector(f"{ANSWER} .variants")
    assert answer(chat) == "You said: two"


def test_deleting_stops_the_answer(chat, backend):
    say(chat, "slow")
    wait_for_words(chat, 3)
    choose(chat, "slow", "Delete")
    chat.wait_for_selector("#toast:has-text('Deleted')")
    assert "DELETE /v1/jobs/chatcmpl-1" in backend.log
    chat.reload()
    chat.wait_for_selector(".welcome")
    assert titles(chat) == ["New chat"]


def exported(chat, title, item):
    with chat.expect_download() as download:
        choose(chat, title, item)
    return download.value


def imported(chat, name, text):
    chat.set_input_files("#import", {"name": name, "mimeType": "text/plain", "buffer": text.encode()})
    return chat.wait_for_selector("#toast:has-text('import')").inner_text()


def test_json_holds_all_branches_and_no_key(chat, backend, tmp_path):
    talks(chat, "one")
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    chat.wait_for_selector(".variants")
    until_done(chat)
    file = exported(chat, "one", "Export as JSON")
    assert file.suggested_filename == "one.json"
    text = file.path().read_text()
    assert KEY not in text
    assert len(json.loads(text)["conversations"][0]["messages"]) == 3
    choose(chat, "one", "Delete")
    assert "1 chat is imported" in imported(chat, "one.json", text)
    wait_for_titles(chat, "one")
    assert "1 chat is imported" in imported(chat, "one.json", text)  # twice is once
    wait_for_titles(chat, "one")
    chat.click(ROWS)
    assert chat.inner_text(".variants span") == "2/2"
    chat.reload()
    chat.wait_for_selector(".variants")


def test_markdown_is_read_as_it_was_written(chat):
    talks(chat, "markdown")
    text = exported(chat, "markdown", "Export as Markdown").path().read_text()
    assert text.startswith("# markdown\n\n## You\n\n<!-- omni:user -->\nmarkdown\n")
    assert "## Assistant (fake)" in text and "| Mars | 2 |" in text
    imported(chat, "again.md", text.replace("# markdown", "# again", 1))
    chat.click(f"{ROWS}:has-text('again')")
    again = exported(chat, "again", "Export as Markdown").path().read_text()
    assert again.replace("# again", "# markdown", 1) == text.replace(" (fake)", "")


def test_messages_as_in_the_api_are_imported(chat, backend):
    call = {"id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What time is it?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Noon."},
    ]
    imported(chat, "talk.json", json.dumps({"messages": messages}))
    chat.click(f"{ROWS}:has-text('What time is it?')")
    ask(chat, "thanks")
    sent = backend.bodies[-1]["messages"]
    assert sent[0] == messages[0] and sent[1]["content"] == "What time is it?"
    assert sent[2:5] == messages[2:]


def test_a_file_that_is_none_is_refused_in_words(chat):
    assert "neither JSON nor a Markdown file" in imported(chat, "a.json", "{")
    assert '"messages" as in the API' in imported(chat, "b.json", '{"a": 1}')
    assert "messages[0].role must be one of user" in imported(chat, "c.json", '[{"role": "cook"}]')
    assert "needs <!-- omni:user -->" in imported(chat, "d.md", "# Just a text")
    assert titles(chat) == ["New chat"]


def test_a_menu_works_by_keyboard_and_escape_closes_only_it(chat):
    say(chat, "slow")
    wait_for_words(chat, 3)
    chat.focus("[aria-label='Actions for slow']")
    chat.keyboard.press("Enter")
    chat.keyboard.press("ArrowDown")
    assert chat.evaluate("document.activeElement.innerText") == "Pin"
    chat.keyboard.press("Escape")
    assert chat.evaluate("document.activeElement.ariaLabel") == "Actions for slow"
    assert chat.locator(".menu").count() == 0
    assert chat.locator(f"{ANSWER}.running").count() == 1


def test_without_a_database_the_page_works_and_says_so(page, backend):
    page.add_init_script("IDBFactory.prototype.open = () => { throw new Error('not here') }")
    page.goto(backend.url)
    page.wait_for_selector("#toast:has-text('conversations are lost when the page is closed')")
    assert ask(page, "hello") == "You said: hello"
    page.click("#new-chat")
    ask(page, "again")
    page.click(f"{ROWS}:has-text('hello')")
    assert answer(page) == "You said: hello"
