"""The page of batches in a real browser: against answers that a test chooses, and once against the whole service."""

import json
import re

import pytest

from tests.e2e.fake_backend import KEY
from tests.service import RunningService

NO_ONES = {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
MOMENTS = (
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelled_at",
    "output_file_id",
    "error_file_id",
    "errors",
    "model",
)
LINE = {"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m", "input": "x"}}


def batch(batch_id, status, **changes):
    """OpenAI's Batch, as the page reads it."""
    base = {"id": batch_id, "status": status, "endpoint": "/v1/embeddings", "input_file_id": "file-in"}
    counts = {"request_counts": {"total": 4000, "completed": 998, "failed": 2}}
    return base | counts | {"created_at": 1000, "expires_at": 90_000} | dict.fromkeys(MOMENTS) | changes


class Answers:
    """What the server answers; `sent` has the requests other than GET."""

    def __init__(self, page, backend):
        self.batches, self.messages, self.sent, self.has_more = [], [], [], False
        page.route(re.compile(r"/v1/(?!models)"), self.answer)
        self.page, self.backend = page, backend

    def answer(self, route):
        request = route.request
        path, _, query = request.url.removeprefix(self.backend.url).partition("?")
        if request.headers["authorization"] != f"Bearer {KEY}":
            return route.fulfill(
                status=401, json={"error": {"message": "Incorrect API key.", "code": "invalid_api_key"}}
            )
        if request.method != "GET":
            self.sent.append((request.method, path, request.post_data_buffer or b""))
        if path.endswith("/content"):
            return route.fulfill(body='{"custom_id":"a"}\n')
        if path == "/v1/batches" and request.method == "GET":
            found = [batch("batch_old", "completed", completed_at=1060)] if "after" in query else self.batches
            more = self.has_more and "after" not in query
            return route.fulfill(json=NO_ONES | {"data": found, "last_id": "batch_c", "has_more": more})
        if request.method == "DELETE":
            self.batches = [one for one in self.batches if not path.endswith(one["id"])]
            return route.fulfill(json={"deleted": True})
        if path == "/v1/messages/batches":
            return route.fulfill(json=NO_ONES | {"data": self.messages})
        if path == "/v1/batches":
            self.batches = [batch("batch_new", "validating"), *self.batches]
            return route.fulfill(json=self.batches[0])
        return route.fulfill(json={"id": "file-in", "filename": "in.jsonl"})

    def open(self):
        self.page.goto(self.backend.url + "/batches")
        self.page.wait_for_selector(".batch, #no-batches:visible")


@pytest.fixture
def server(page, backend):
    return Answers(page, backend)


def choose(page, line=LINE):
    page.set_input_files("#file", {"name": "in.jsonl", "mimeType": "", "buffer": json.dumps(line).encode() + b"\n"})


def test_batches_are_listed_with_bars_rates_and_ends(page, server):
    server.batches = [
        batch("batch_r", "in_progress", model="m", lines_per_s=3.456, eta=9e9),
        batch("batch_f", "failed", failed_at=1001, errors={"data": [{"line": 7, "message": "This is not JSON."}]}),
        batch("batch_c", "completed", completed_at=1125, output_file_id="file-out", error_file_id="file-err"),
    ]
    counts = {"processing": 1, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0}
    moments = {"created_at": "1970-01-01T00:00:10Z", "expires_at": "1970-01-02T00:00:10Z", "ended_at": None}
    server.messages = [
        {"id": "msgbatch_1", "processing_status": "in_progress", "request_counts": counts, "results_url": None}
        | moments
    ]
    server.open()
    page.wait_for_selector("h3:text('in.jsonl · m · /v1/embeddings')")
    texts = [page.locator(".batch").nth(at).inner_text() for at in range(4)]
    for part in ("in progress", "1,000 of 4,000 lines (25 %)", "2 failed", "3.5 lines/s", "ends in about", "Cancel"):
        assert part in texts[0]
    assert page.evaluate("document.querySelector('.batch progress').value") == 0.25
    assert "Line 7: This is not JSON." in texts[1] and "Cancel" not in texts[1]
    assert "took 2 min 5 s" in texts[2] and "Results" in texts[2] and "Errors" in texts[2]
    assert "/v1/messages" in texts[3] and "2 of 3 lines (67 %)" in texts[3]


def test_a_chosen_file_begins_a_batch_for_the_endpoint_of_its_first_line(page, server):
    server.open()
    choose(page)
    page.wait_for_selector("#endpoint option:checked:text('/v1/embeddings')", state="attached")
    page.select_option("#window", "2h")
    page.click("#begin")
    page.wait_for_selector(".batch:has-text('validating')")
    upload, made = server.sent
    assert upload[1] == "/v1/files" and b'name="purpose"\r\n\r\nbatch' in upload[2] and b'"custom_id": "a"' in upload[2]
    assert json.loads(made[2]) == {"input_file_id": "file-in", "endpoint": "/v1/embeddings", "completion_window": "2h"}
    assert "Choose a file" in page.inner_text("#file-name")
    assert page.text_content("#announcement") == "batch_new has begun."


def test_a_dropped_file_is_taken(page, server):
    server.open()
    page.evaluate(
        """() => {
            const given = new DataTransfer();
            given.items.add(new File(['{"url": "/v1/responses"}'], "dropped.jsonl"));
            const event = new DragEvent("drop", { dataTransfer: given, cancelable: true });
            document.querySelector("#drop").dispatchEvent(event);
        }"""
    )
    page.wait_for_selector("#endpoint option:checked:text('/v1/responses')", state="attached")
    assert page.inner_text("#file-name") == "dropped.jsonl, 24 B"


def test_results_are_saved_under_the_name_of_their_batch(page, server):
    server.batches = [batch("batch_c", "completed", completed_at=1125, output_file_id="file-out")]
    server.open()
    with page.expect_download() as saved:
        page.click("text=Results")
    assert saved.value.suggested_filename == "batch_c_output.jsonl"
    assert saved.value.path().read_text() == '{"custom_id":"a"}\n'


def test_cancel_asks_first_and_the_change_is_announced(page, server):
    server.batches = [batch("batch_r", "in_progress")]
    server.open()
    page.click("text=Cancel")  # the test's page dismisses questions
    assert page.complaints.pop().startswith("Cancel batch_r?") and server.sent == []
    page.evaluate("window.confirm = () => true")
    server.batches = [batch("batch_r", "cancelling")]
    page.click("text=Cancel")
    page.wait_for_selector("#announcement:has-text('batch_r: cancelling.')", state="attached")
    assert server.sent[0][:2] == ("POST", "/v1/batches/batch_r/cancel")
    assert page.locator("button:text('Cancel')").count() == 0


def test_a_batch_says_why_it_waits_and_that_its_model_is_not_loaded(page, server):
    server.backend.models = [{"id": "m", "status": {"value": "loading"}}]
    server.batches = [
        batch("batch_r", "in_progress", model="m", waiting_for="Too many tokens this minute."),
        batch("batch_s", "in_progress", model="other"),
    ]
    server.open()
    waits = page.locator(".batch .waits")
    assert waits.first.inner_text() == "Waiting. Too many tokens this minute. The model m is being loaded."
    assert waits.last.is_hidden()
    server.batches = [batch("batch_r", "in_progress", model="m")]
    page.wait_for_selector(".batch .waits", state="hidden")


def test_a_batch_that_has_ended_is_deleted_and_the_focus_goes_to_its_neighbour(page, server):
    ended = [batch(f"batch_{name}", "completed", completed_at=1060) for name in "cd"]
    server.batches = [batch("batch_r", "in_progress"), *ended]
    server.open()
    assert page.get_by_role("button", name="Delete: batch_r").count() == 0
    page.click("[aria-label='Delete: batch_c']")  # the test's page dismisses questions
    assert page.complaints.pop().startswith("Delete batch_c and its results") and server.sent == []
    page.evaluate("window.confirm = () => true")
    page.click("[aria-label='Delete: batch_c']")
    page.wait_for_selector("#announcement:has-text('batch_c is deleted.')", state="attached")
    page.wait_for_function("document.activeElement.ariaLabel === 'Delete: batch_d'")
    assert [one[:2] for one in server.sent] == [("DELETE", "/v1/batches/batch_c")]
    assert page.locator(".batch").count() == 2


def test_the_list_is_live_and_keeps_the_focus(page, server):
    server.batches = [batch("batch_r", "in_progress")]
    server.open()
    page.focus("[aria-label='Cancel: batch_r']")
    server.batches = [batch("batch_r", "in_progress", request_counts={"total": 4000, "completed": 2000, "failed": 0})]
    page.wait_for_selector("text=2,000 of 4,000")
    assert page.evaluate("document.activeElement.ariaLabel") == "Cancel: batch_r"


def test_older_batches_come_page_by_page(page, server):
    server.batches, server.has_more = [batch("batch_c", "completed", completed_at=1060)], True
    server.open()
    page.click("#more")
    page.wait_for_selector(".batch:has-text('batch_old')")
    assert page.locator("#more").is_hidden()


def test_a_refused_key_is_asked_for(page, server):
    page.goto(server.backend.url + "/batches")
    page.evaluate("localStorage.setItem('omni.key', '\"sk-wrong\"')")
    page.reload()
    page.wait_for_selector("#key-form:visible")
    page.fill("#key", KEY)
    page.press("#key", "Enter")
    page.wait_for_selector("#no-batches:visible")
    assert page.locator("#banner").is_hidden() and page.locator("#key-form").is_hidden()


def test_a_file_that_is_refused_says_why_and_stays_chosen(page, server):
    server.open()
    choose(page)
    refusal = {"error": {"message": "Only files of 200 MiB are taken.", "code": "invalid_value"}}
    page.route("**/v1/files", lambda route: route.fulfill(status=400, json=refusal))
    page.click("#begin")
    page.wait_for_selector("#banner:has-text('Only files of 200 MiB are taken.')")
    assert page.inner_text("#file-name").startswith("in.jsonl")


def test_every_control_has_a_name_and_a_place_in_the_tab_order(page, server):
    server.batches = [batch("batch_r", "in_progress")]
    server.open()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, progress")]
            .filter((control) => !(control.textContent.trim() || control.ariaLabel || control.labels?.length))
            .map((control) => control.outerHTML)"""
    )
    assert nameless == []
    page.focus("#theme")
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.ariaLabel"))
    assert order == ["file", "endpoint", "window", "begin", "Cancel: batch_r"]


def test_the_page_of_batches_fits_a_phone(browser, backend):
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    server = Answers(phone, backend)
    server.batches = [batch("batch_" + "r" * 32, "in_progress", model="a/model-with-a-long-name-that-does-not-fit")]
    server.open()
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_a_batch_of_the_real_service_from_the_file_to_its_results(page, service: RunningService):
    service.spawn("dispatcher")
    try:
        page.goto(service.url + "/batches")
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}
        choose(page, LINE | {"url": "/v1/chat/completions", "body": body})
        page.click("#begin")
        page.wait_for_selector(".batch:has-text('completed')")
        assert "1 of 1 lines" in page.inner_text(".batch")
        with page.expect_download() as saved:
            page.click("text=Results")
        assert json.loads(saved.value.path().read_text())["response"]["status_code"] == 200
    finally:
        dispatcher = service.processes.pop("dispatcher")
        dispatcher.terminate()
        dispatcher.wait(30)
