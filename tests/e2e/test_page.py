"""The chat page and the board in a real browser, against a backend that can misbehave on demand."""

import re

import pytest

from tests.e2e.fake_backend import NUM_SLOW

ANSWER = ".message.assistant:last-child"
ALL_WORDS = " ".join(f"w{number}" for number in range(NUM_SLOW))


def say(page, text):
    page.fill("#text", text)
    page.press("#text", "Enter")


def until_done(page):
    page.wait_for_selector(f"{ANSWER}[aria-busy=false]")


def answer(page):
    return page.inner_text(f"{ANSWER} .body")


def num_words(page):
    return len(answer(page).split())


def wait_for_words(page, number):
    page.wait_for_function(
        "([selector, number]) => document.querySelector(selector)?.innerText.split(/\\s+/).length >= number",
        arg=[f"{ANSWER} .body", number],
    )


# Talking


def test_an_answer_streams_and_says_how_fast_it_was(chat):
    say(chat, "slow")
    wait_for_words(chat, 5)
    assert 5 <= num_words(chat) < NUM_SLOW
    until_done(chat)
    assert answer(chat) == ALL_WORDS
    status = chat.inner_text(f"{ANSWER} .status")
    assert re.fullmatch(rf"{NUM_SLOW} tokens · [\d.]+ tokens/s · first token after [\d.]+ s", status)


def test_the_request_carries_what_the_settings_say(chat, backend):
    chat.click("#open-panel")
    values = {"system": "Be brief.", "temperature": "0", "top_p": "0.5", "max_tokens": "9", "seed": "4", "stop": "a\nb"}
    for name, value in values.items():
        chat.fill(f"#option-{name}", value)
    chat.fill("#option-temperature", "7")
    assert chat.inner_text("#error-temperature") != ""
    chat.fill("#option-temperature", "0")
    chat.press("#option-temperature", "Escape")
    chat.select_option("#model", "other")
    say(chat, "hi there")
    until_done(chat)
    assert backend.bodies == [
        {
            "model": "other",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi there"}],
            "stream": True,
            "background": True,
            "stream_options": {"include_usage": True, "include_event_ids": True},
            "temperature": 0,
            "top_p": 0.5,
            "max_tokens": 9,
            "seed": 4,
            "stop": ["a", "b"],
        }
    ]


def test_the_place_in_the_queue_is_shown_while_a_request_waits(chat, backend):
    say(chat, "queue")
    chat.wait_for_selector(f"{ANSWER} .status:has-text('Waiting: number 2 in the queue (flex)')")
    chat.wait_for_selector(f"{ANSWER} .status:has-text('Waiting for the first token')")  # it has left the queue
    backend.goes_on.set()
    until_done(chat)
    assert answer(chat) == "My turn at last."


def test_escape_stops_and_cancels_the_job(chat, backend):
    say(chat, "slow")
    wait_for_words(chat, 5)
    chat.keyboard.press("Escape")
    until_done(chat)
    assert "Stopped" in chat.inner_text(f"{ANSWER} .status")
    assert 5 <= num_words(chat) < NUM_SLOW
    chat.wait_for_function("document.activeElement.id === 'text'")
    assert backend.log[-1] == "DELETE /v1/jobs/chatcmpl-1"


def test_regenerate_asks_again_and_edit_cuts_what_followed(chat, backend):
    say(chat, "one")
    until_done(chat)
    say(chat, "two")
    until_done(chat)
    chat.click(f"{ANSWER} [aria-label=Regenerate]")
    until_done(chat)
    assert [body["messages"][-1]["content"] for body in backend.bodies] == ["one", "two", "two"]
    chat.click(".message.user >> nth=0 >> [aria-label^=Edit]")
    chat.fill("[aria-label='Edit message']", "three")
    chat.press("[aria-label='Edit message']", "Control+Enter")
    until_done(chat)
    assert chat.locator(".message").count() == 2
    assert answer(chat) == "You said: three"


def test_reasoning_is_folded_and_not_sent_back(chat, backend):
    say(chat, "reason")
    until_done(chat)
    assert answer(chat) == "It is 4."
    assert not chat.locator(f"{ANSWER} .fold .plain").first.is_visible()
    chat.click(f"{ANSWER} summary:has-text('Reasoning')")
    assert chat.inner_text(f"{ANSWER} .fold .plain") == "Let me think. 2 + 2."
    say(chat, "more")
    until_done(chat)
    assert backend.bodies[-1]["messages"][1] == {"role": "assistant", "content": "It is 4."}


def test_a_tool_call_is_shown_and_its_result_sent(chat, backend):
    say(chat, "tool")
    until_done(chat)
    chat.click(f"{ANSWER} summary:has-text('Calls get_weather')")
    assert '"city": "Paris"' in chat.inner_text(f"{ANSWER} .arguments")
    chat.fill("[aria-label='Result of get_weather']", "21 degrees")
    chat.click("text=Send result")
    until_done(chat)
    call, result = backend.bodies[-1]["messages"][-2:]
    assert call["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    assert result == {"role": "tool", "content": "21 degrees", "tool_call_id": "call_1"}


def test_a_tool_call_that_was_cut_off_is_shown_as_such_and_asks_for_no_result(chat, backend):
    say(chat, "cut")
    until_done(chat)
    chat.click(f"{ANSWER} summary:has-text('Call of get_weather, cut off')")
    assert chat.inner_text(f"{ANSWER} .arguments") == '{"city": "Par'
    assert not chat.is_visible("[aria-label='Result of get_weather']")
    say(chat, "more")
    until_done(chat)
    assert [message["role"] for message in backend.bodies[-1]["messages"]] == ["user", "user"]


def test_markdown_is_drawn_and_nothing_in_it_runs_or_loads(chat):
    requests = []
    chat.on("request", lambda request: requests.append(request.url))
    say(chat, "markdown")
    until_done(chat)
    assert chat.locator(f"{ANSWER} .body strong").inner_text() == "bold"
    chat.locator(f"{ANSWER} .body .hljs-keyword").first.wait_for()
    assert "<script>alert(2)</script>" in answer(chat)
    assert chat.locator(f"{ANSWER} .body :is(img, script, style, iframe, [onerror], [href^=javascript])").count() == 0
    assert not [url for url in requests if "example.com" in url]


def drawn(chat, texts):
    """Draw the texts as Markdown on the page, one below the other."""
    chat.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const messages = document.createElement("section");
            messages.className = "assistant";
            for (const text of texts) {
                const body = document.createElement("div");
                body.className = "body drawn";
                messages.append(body);
                new MarkdownView(body).update(text);
            }
            document.body.append(messages);
        }""",
        texts,
    )
    return chat.locator(".drawn").all()


def test_lists_go_on_counting_and_keep_their_boxes(chat):
    interrupted, parted, tight, loose = drawn(
        chat,
        [
            "1. one\n\n```\ncode\n```\n\n2. two\n3. three\n",
            "7. seven\n8. eight\n\ntext\n\n0. none\n",
            "- [x] done\n- [ ] open\n- plain\n",
            "- [x] done\n\n  more\n\n- [ ] open\n",
        ],
    )
    first_numbers = "lists => lists.map(list => list.start)"
    assert interrupted.locator("ol").evaluate_all(first_numbers) == [1, 2]
    assert parted.locator("ol").evaluate_all(first_numbers) == [7, 0]
    boxes = "boxes => boxes.map(box => [box.type, box.checked, box.disabled])"
    for body in (tight, loose):
        assert body.locator("input").evaluate_all(boxes) == [["checkbox", True, True], ["checkbox", False, True]]
        assert all(box.is_visible() for box in body.locator("input").all())
        marks = body.locator("li").evaluate_all("items => items.map(item => getComputedStyle(item).listStyleType)")
        assert marks[:2] == ["none", "none"] and marks[2:] in ([], ["disc"])


def test_a_tables_columns_are_aligned_as_written(chat):
    [table] = drawn(chat, ["| a | b | c | d |\n|:--|:-:|--:|---|\n| 1 | 2 | 3 | 4 |\n"])
    aligned = "cells => cells.map(cell => getComputedStyle(cell).textAlign.replace('-webkit-', ''))"
    assert table.locator("th").evaluate_all(aligned) == ["left", "center", "right", "left"]
    assert table.locator("td").evaluate_all(aligned)[:3] == ["left", "center", "right"]


def test_what_markdown_writes_is_on_the_page(chat):
    """The purifier keeps each attribute that the renderer writes."""
    text = '[a](https://a.example "why") ![b](https://b.example)\n\n~~c~~ ***d***\n\n```c++\ne\n```\n\n> f\n\n---\n'
    [body] = drawn(chat, [text])
    link = body.locator("a").first
    assert (link.get_attribute("href"), link.get_attribute("title")) == ("https://a.example", "why")
    assert body.locator("a").last.get_attribute("href") == "https://b.example"
    for selector in ("del", "em > strong", "pre code.language-c\\+\\+", "blockquote > p", "hr"):
        assert body.locator(selector).count() == 1, selector


DEEP = {
    "quotes": "> " * 2000 + "end",
    "lists": "- " * 2000 + "end",
    "quoted lists": "> - " * 1000 + "end",
    "numbers": "1. " * 2000 + "end",
    "emphasis": "*a **b " * 300 + "end" + "** *" * 300,
    "links": "[" * 2000 + "end" + "](https://a.example)" * 2000,
    "quotes, line by line": "\n".join("> " * depth + "x" for depth in range(300)) + " end",
}


@pytest.mark.parametrize("kind", DEEP)
def test_an_answer_that_is_nested_without_end_is_drawn(chat, kind):
    [body] = drawn(chat, [DEEP[kind]])
    assert "end" in body.inner_text()
    deepest = """root => {
        let [depth, level] = [0, [root]];
        for (; level.length; depth += 1) level = level.flatMap(node => [...node.children]);
        return depth;
    }"""
    assert body.evaluate(deepest) < 100


def test_a_few_quotes_in_one_another_are_quotes(chat):
    [body] = drawn(chat, ["> " * 8 + "*end*\n"])
    assert body.locator("blockquote").count() == 8
    assert body.locator("em").inner_text() == "end"


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](data:text/html,<script>alert(1)</script>)",
    '[x](vbscript:x) <javascript:alert(1)> [x](https://a.example/"onmouseover=alert(1)//)',
    '![x](x" onerror="alert(1)) ![y](javascript:alert(1))',
    "```html\n<img src=x onerror=alert(1)>\n```",
    '```"><img src=x onerror=alert(1)>\n```',
    "`<img src=x onerror=alert(1)>`",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <svg onload=alert(1)> |",
    "- [ ] <input autofocus onfocus=alert(1)>\n- <form action=javascript:alert(1)><button>x</button></form>",
    "<iframe srcdoc='<script>alert(1)</script>'></iframe><base href=//evil.example><meta http-equiv=refresh>",
    "<a href='https://a.example' style='position:fixed;inset:0'>x</a><style>*{display:none}</style>",
    "[x]: javascript:alert(1)\n\n[x]",
    "<x onclick=alert(1)>&lt;script&gt;alert(1)&lt;/script&gt;",
]


def test_no_hostile_markdown_becomes_more_than_text(chat):
    """`page` fails the test if a dialog opens or the CSP has to stop something."""
    found = chat.evaluate(
        """async (texts) => {
            const { MarkdownView } = await import("/static/chat/markdown.js");
            const found = [];
            for (const text of texts) {
                const element = document.createElement("div");
                document.body.append(element);
                for (let end = 1; end <= text.length; end += 1) new MarkdownView(element).update(text.slice(0, end));
                for (const node of element.querySelectorAll("*")) {
                    const names = node.getAttributeNames().filter((name) => /^on|^style$|^src/.test(name));
                    const isOdd = /^(SCRIPT|STYLE|IMG|IFRAME|FORM|BASE|META|OBJECT|MATH)$/i.test(node.tagName);
                    const isRunning = node.href && !/^(https?|mailto):/.test(node.href);
                    if (names.length || isOdd || isRunning) found.push(node.outerHTML);
                }
                element.remove();
            }
            return found;
        }""",
        HOSTILE,
    )
    assert found == []


# Nothing lost


def test_a_reload_in_mid_answer_continues_where_it_was(chat, backend):
    say(chat, "slow")
    wait_for_words(chat, 20)
    chat.reload()
    wait_for_words(chat, 20)
    until_done(chat)
    assert answer(chat) == ALL_WORDS
    assert len(backend.bodies) == 1
    assert any(
        re.search(r"GET /v1/chat/completions/chatcmpl-1\?stream=true&starting_after=\d+", line) for line in backend.log
    )


def test_an_answer_continues_while_another_conversation_is_open(chat):
    say(chat, "slow")
    wait_for_words(chat, 5)
    chat.click("#new-chat")
    say(chat, "hello")
    until_done(chat)
    chat.click("#conversations >> text=slow")
    wait_for_words(chat, NUM_SLOW)
    assert answer(chat) == ALL_WORDS


def test_a_broken_connection_is_picked_up_without_a_gap_or_a_repeat(chat, backend):
    say(chat, "drop")
    wait_for_words(chat, 60)
    until_done(chat)
    assert answer(chat) == " ".join(f"w{number}" for number in range(60))
    assert len(backend.bodies) == 1
    assert backend.jobs["chatcmpl-1"].is_dropped


def test_a_request_whose_answer_never_arrived_is_sent_again_as_the_same_job(chat, backend):
    say(chat, "unheard")
    until_done(chat)
    assert answer(chat) == "You said: unheard"
    assert (len(backend.bodies), list(backend.jobs)) == (2, ["chatcmpl-1"])


def test_conversations_are_kept_and_can_be_deleted(chat):
    say(chat, "first talk")
    until_done(chat)
    chat.click("#new-chat")
    say(chat, "second talk")
    until_done(chat)
    chat.reload()
    chat.wait_for_selector(ANSWER)
    assert chat.locator("#conversations .title").all_inner_texts() == ["second talk", "first talk"]
    assert answer(chat) == "You said: second talk"
    chat.hover("#conversations li >> nth=0")
    chat.click("[aria-label='Actions for second talk']")
    chat.click(".menu >> text=Delete")
    chat.wait_for_selector("#toast:has-text('Deleted')")
    assert chat.locator("#conversations .title").all_inner_texts() == ["first talk"]
    assert answer(chat) == "You said: first talk"


def test_two_tabs_show_the_same_conversation(chat, backend):
    say(chat, "from the first tab")
    until_done(chat)
    other = chat.context.new_page()
    other.goto(backend.url)
    say(other, "from the second tab")
    until_done(other)
    chat.wait_for_selector(f"{ANSWER}:has-text('You said: from the second tab')")
    assert chat.locator(".message").count() == 4


# What goes wrong is said in the server's words, with what to do


@pytest.mark.parametrize(
    ("status", "error", "advice"),
    [
        (
            429,
            {"message": "The day's share is used.", "code": "rate_limit_exceeded", "retry_after": 3600},
            "Try again in",
        ),
        (400, {"message": "Too long.", "code": "context_length_exceeded"}, "Leave out the oldest messages"),
        (404, {"message": "No such model.", "code": "model_not_found"}, "Choose another model"),
    ],
)
def test_a_refusal_is_shown_and_can_be_tried_again(status, error, advice, chat, backend):
    backend.refusals.append((status, error))
    say(chat, "hello")
    notice = chat.wait_for_selector(f"{ANSWER} .notice:visible").inner_text()
    assert error["message"] in notice and advice in notice
    chat.click("button:text-is('Try again')")
    until_done(chat)
    assert answer(chat) == "You said: hello"


def test_a_failure_in_mid_answer_keeps_the_text_so_far(chat):
    say(chat, "fail")
    notice = chat.wait_for_selector(f"{ANSWER} .notice:visible").inner_text()
    assert "CUDA out of memory" in notice
    assert answer(chat) == "Half an answer"


def test_a_refused_key_leads_to_the_settings(chat):
    chat.click("#open-panel")
    chat.fill("#key", "sk-wrong")
    chat.press("#key", "Tab")
    chat.wait_for_selector("#banner:has-text('Incorrect API key provided.')")
    chat.fill("#key", "sk-local")
    chat.press("#key", "Tab")
    chat.wait_for_selector("#banner", state="hidden")


# Accessibility


def test_every_control_has_a_name_and_the_page_works_by_keyboard(chat):
    chat.click("#open-panel")
    say(chat, "markdown")
    until_done(chat)
    nameless = chat.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, a")]
            .filter((control) => !(control.textContent.trim() || control.ariaLabel || control.labels?.length))
            .map((control) => control.outerHTML)"""
    )
    assert nameless == []
    assert "Answer: Here is **bold**" in chat.text_content("#announcement")
    chat.reload()
    chat.wait_for_function("() => document.activeElement.id === 'text'")


@pytest.mark.parametrize("path", ["/", "/board"])
def test_the_page_fits_a_phone(path, browser, backend):
    backend.board = BOARD
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(backend.url + path)
    if path == "/":
        phone.fill("#text", "markdown")
        phone.tap("#send")
        until_done(phone)
        phone.tap("#open-sidebar")
        phone.wait_for_selector("#sidebar.open")
    else:
        phone.wait_for_selector("#waiting tr")
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_dark_and_light_follow_the_system_until_one_is_chosen(chat):
    def ground():
        return chat.evaluate("getComputedStyle(document.body).backgroundColor")

    chat.emulate_media(color_scheme="dark")
    dark = ground()
    chat.emulate_media(color_scheme="light")
    assert ground() != dark
    chat.click("#theme")
    chat.click("#theme")
    assert ground() == dark
    chat.reload()
    assert ground() == dark


# The board

BOARD = {
    "workers": [
        {"fence": 7, "state": "ready", "progress": "", "model": "omni-demo", "device": "cuda:0", "tokens_per_s": 812.5}
        | {"batch": 4, "kv_used": 512, "kv_total": 2048, "memory_used": 3 * 2**30, "uptime_s": 3725},
    ],
    "waiting": [{"id": "chatcmpl-w", "position": 1, "age_s": 2.5, "owner": "alice", "prompt_tokens": 99}],
    "running": [{"id": "chatcmpl-r", "age_s": 3.2, "owner": "alice", "tokens": 128, "max_tokens": 512}],
    "failed": [{"id": "chatcmpl-f", "code": "out_of_memory", "age_s": 70}],
    "num_waiting": 3,
    "scheduled": [{"id": "chatcmpl-s", "owner": "bob", "tier": "default", "not_before": 1795766400}],
    "num_scheduled": 1,
    "tiers": {"priority": {"waiting": 0, "running": 0}, "default": {"waiting": 1, "running": 1}}
    | {"flex": {"waiting": 2, "running": 0}},
    "batches": [
        {"id": "batch_r", "owner": "alice", "status": "in_progress", "endpoint": "/v1/embeddings", "model": "omni-demo"}
        | {"total": 4000, "done": 1000, "failed": 2, "lines_per_s": 3.456, "eta": 9e9, "created": 0},
        {"id": "batch_c", "owner": "bob", "status": "completed", "endpoint": "/v1/responses", "model": "omni-demo"}
        | {"total": 3, "done": 3, "failed": 0, "lines_per_s": None, "eta": None, "created": 0},
    ],
    "num_open_batches": 1,
    "webhooks": [
        {"id": "we_1", "owner": "bob", "name": "orders", "url": "https://a.example/hook", "failing_since": 1.0}
        | {"disabled": None, "reason": ""},
    ],
    "is_store_away": False,
    "shelves": [],
}


@pytest.fixture
def board(page, backend):
    backend.board = BOARD
    page.goto(backend.url + "/board")
    page.wait_for_selector(".worker")
    return page


def test_the_board_shows_workers_queue_running_jobs_and_failures(board):
    assert board.inner_text("#live") == "Live"
    worker = board.inner_text(".worker")
    for part in ("omni-demo", "ready", "813", "25 %", "3.0 GiB", "1 h 2 min", "worker 7"):
        assert part in worker
    assert board.inner_text("#running").split() == "chatcmpl-r alice 3 s 128 of 512 (25 %) Cancel".split()
    assert board.inner_text("#waiting").split() == "1 chatcmpl-w alice 2 s 99 Cancel".split()
    assert board.inner_text("#more-waiting") == "and 2 more"
    assert board.inner_text("#failed").split() == "chatcmpl-f out_of_memory 1 min 10 s ago".split()


def test_the_board_shows_batches_tiers_scheduled_jobs_and_webhooks_that_fail(board, backend):
    running, ended = board.inner_text("#batches tr:first-child"), board.inner_text("#batches tr:last-child")
    for part in ("batch_r", "alice", "in progress", "1,000 of 4,000, 2 failed", "3.5", " d "):
        assert part in running
    assert board.evaluate("document.querySelector('#batches progress').value") == 0.25
    assert ended.split() == "batch_c bob completed 3 of 3 – –".split()
    assert board.inner_text("#tiers-waiting") == "default 1 · flex 2"
    assert board.inner_text("#tiers-running") == ""
    assert "chatcmpl-s bob" in board.inner_text("#scheduled").replace("\t", " ")
    assert "https://a.example/hook bob failing" in board.inner_text("#webhooks").replace("\t", " ")
    assert board.locator("#store-away").is_hidden()
    backend.board = BOARD | {"is_store_away": True}
    board.wait_for_selector("#store-away:visible")
    assert board.locator("#batches tr").count() == 2


def test_the_board_is_live_over_one_stream_and_keeps_the_focus(board, backend):
    board.focus("[aria-label='Cancel chatcmpl-r']")
    backend.board = BOARD | {"waiting": [], "num_waiting": 0, "running": [BOARD["running"][0] | {"tokens": 512}]}
    board.wait_for_selector("#running :text('512 of 512')")
    assert board.inner_text("#num-waiting") == "0"
    assert board.evaluate("document.activeElement.ariaLabel") == "Cancel chatcmpl-r"
    assert backend.log.count("GET /admin/board") == 1


def test_cancel_on_the_board_cancels(board, backend):
    board.click("[aria-label='Cancel chatcmpl-w']")
    board.wait_for_selector("#announcement:has-text('chatcmpl-w is cancelled.')", state="attached")
    assert backend.log[-1] == "DELETE /v1/jobs/chatcmpl-w"


def test_the_board_asks_for_another_key_when_this_one_is_refused(page, backend):
    backend.board = BOARD
    page.goto(backend.url + "/board")
    page.evaluate("localStorage.setItem('omni.admin_key', '\"sk-wrong\"')")
    page.reload()
    page.wait_for_selector("#key-form:visible")
    page.fill("#key", "sk-local")
    page.press("#key", "Enter")
    page.wait_for_selector(".worker")
    assert page.locator("#banner").is_hidden()
