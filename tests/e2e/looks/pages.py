"""The states of the board, of the page of batches and of the API reference."""

import json
import time

from api.app import create_app
from api.operator.openapi.document import openapi
from common.settings import read_settings
from dispatcher.batches.feeds import OTHERS_FIRST
from tests.e2e.looks.visit import Visit
from tests.e2e.test_page import BOARD
from tests.e2e.test_page_batches import LINE, Answers, batch, choose
from tests.e2e.test_page_models import FIVE, twelve

NOTHING = {name: {} if isinstance(value, dict) else value for name, value in BOARD.items()}
NOTHING |= {name: [] for name, value in BOARD.items() if isinstance(value, list)}
NOTHING |= {"num_waiting": 0, "num_scheduled": 0, "num_open_batches": 0}
IDLE = BOARD["workers"][0] | {"tokens_per_s": 0.0, "batch": 0, "kv_used": 0}
KEYS = ("alice", "bob", "a-service-with-a-long-name", "nightly-evaluation")


def busy() -> dict[str, object]:
    running = [
        {"id": f"chatcmpl-{n:016x}", "age_s": 3.2 + n, "owner": KEYS[n % 4], "tokens": 128 + 37 * n, "max_tokens": 2048}
        for n in range(1, 9)
    ]
    waiting = [
        {
            "id": f"chatcmpl-{n * 7919:016x}",
            "position": n,
            "age_s": 2.5 * n,
            "owner": KEYS[n % 4],
            "prompt_tokens": 99 * n,
        }
        for n in range(1, 11)
    ]
    failed = [
        {"id": f"chatcmpl-{n * 104729:016x}", "code": code, "age_s": 70 * n}
        for n, code in enumerate(("out_of_memory", "deadline_exceeded", "worker_lost"), 1)
    ]
    batches = [
        one | {"created": time.time() - 4000, "eta": one["eta"] and time.time() + 5400} for one in BOARD["batches"]
    ]
    workers = [BOARD["workers"][0] | {"batch": 8, "kv_used": 1900, "model": "Qwen/Qwen3-8B", "queue": "qwen3-8b"}]
    webhooks = [one | {"failing_since": time.time() - 5000} for one in BOARD["webhooks"]]
    return BOARD | {
        "webhooks": webhooks,
        "running": running,
        "waiting": waiting,
        "failed": failed,
        "num_waiting": 143,
        "batches": batches,
        "workers": workers,
    }


def board(visit: Visit, shown: dict[str, object], ready: str = ".worker") -> None:
    visit.backend.board = shown
    visit.open("/board", ready)
    visit.page.wait_for_selector("#live:has-text('Live')")


def board_idle(visit: Visit) -> None:
    board(visit, NOTHING | {"workers": [IDLE]})


def board_without_worker(visit: Visit) -> None:
    board(visit, NOTHING, "#no-workers:not([hidden])")


def board_loading(visit: Visit) -> None:
    loading = IDLE | {"state": "loading", "progress": {"share": 0.42, "what": "reading weights"}}
    board(visit, NOTHING | {"workers": [loading]})


def board_busy(visit: Visit) -> None:
    board(visit, busy())
    visit.page.wait_for_timeout(700)  # the curve has some points


def board_of_models(visit: Visit) -> None:
    board(visit, busy() | {"shelves": [FIVE]}, ".shelf tbody tr")


def board_of_twelve_models(visit: Visit) -> None:
    board(visit, BOARD | {"shelves": [twelve()]}, ".shelf tbody tr")


def board_further_down(visit: Visit) -> None:
    board(visit, busy() | {"is_store_away": True})
    visit.page.evaluate("scrollTo(0, 1e6)")


def board_without_key(visit: Visit) -> None:
    visit.open("/board", "#theme")
    visit.page.evaluate("localStorage.setItem('omni.admin_key', '\"sk-wrong\"')")
    visit.page.reload()
    visit.page.wait_for_selector("#key-form:visible")


def board_offline(visit: Visit) -> None:
    visit.page.route("**/admin/board", lambda route: route.abort())
    visit.open("/board", "#banner:not([hidden]), #live:not(:text('Connecting…'))")


def batches_page(visit: Visit, *shown: dict[str, object]) -> None:
    answers = Answers(visit.page, visit.backend)
    answers.batches = list(shown)
    answers.has_more = bool(shown)
    answers.open()


def batches_none(visit: Visit) -> None:
    batches_page(visit)


def batches_many(visit: Visit) -> None:
    now = time.time()
    moments = {"created_at": now - 4000, "expires_at": now + 80_000}
    counts = {"total": 1000, "completed": 998, "failed": 2}
    ended = {"request_counts": counts, "output_file_id": "file-out", "error_file_id": "file-err"}
    errors = {"data": [{"line": 7, "message": "This is not JSON."}, {"line": 9, "message": "body.model is missing."}]}
    batches_page(
        visit,
        batch("batch_6b1f0a", "in_progress", model="qwen3-8b", lines_per_s=3.456, eta=now + 900, **moments),
        batch("batch_41aa07", "in_progress", model="qwen3-8b", lines_per_s=0, waiting_for=OTHERS_FIRST, **moments),
        batch("batch_77c2d4", "validating", request_counts={"total": 0, "completed": 0, "failed": 0}, **moments),
        batch("batch_c", "completed", completed_at=now - 100, **ended, **moments),
        batch("batch_d", "failed", failed_at=now - 50, errors=errors, **moments),
        batch("batch_e", "cancelling", **moments),
    )
    visit.page.wait_for_selector("h3:has-text('in.jsonl')")


def batches_file_chosen(visit: Visit) -> None:
    batches_none(visit)
    choose(visit.page, LINE)


def batches_file_refused(visit: Visit) -> None:
    batches_none(visit)
    visit.page.set_input_files("#file", {"name": "in.jsonl", "mimeType": "", "buffer": b"no json\n"})


def batches_without_key(visit: Visit) -> None:
    visit.open("/batches", "#theme")
    visit.page.evaluate("localStorage.setItem('omni.key', '\"sk-wrong\"')")
    answers = Answers(visit.page, visit.backend)
    assert not answers.batches
    visit.page.reload()
    visit.page.wait_for_selector("#key-form:visible")


OPERATION = '#operations [id$="post_v1_chat_completions"]'


def reference(visit: Visit) -> None:
    visit.backend.documents["/openapi.json"] = json.loads(json.dumps(openapi(create_app(read_settings({})))))
    visit.open("/docs", OPERATION)


def reference_opened(visit: Visit) -> None:
    reference(visit)
    visit.page.click(f"{OPERATION} .opblock-summary-control")
    visit.page.wait_for_selector(f"{OPERATION} textarea")


def reference_answered(visit: Visit) -> None:
    reference_opened(visit)
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}}],
    }
    visit.page.route("**/v1/chat/completions", lambda route: route.fulfill(json=answer))
    visit.page.click(f"{OPERATION} .execute")
    visit.page.locator(f"{OPERATION} .live-responses-table").scroll_into_view_if_needed()


def reference_schemas(visit: Visit) -> None:
    reference_opened(visit)
    visit.page.locator(f"{OPERATION} .responses-wrapper").scroll_into_view_if_needed()


def reference_away(visit: Visit) -> None:
    visit.page.route("**/openapi.json", lambda route: route.abort())
    visit.open("/docs", "#reference .errors-wrapper")


PAGES = (
    board_idle, board_without_worker, board_loading, board_busy, board_of_models, board_of_twelve_models,
    board_further_down, board_without_key, board_offline,
    batches_none, batches_many, batches_file_chosen, batches_file_refused, batches_without_key,
    reference, reference_opened, reference_answered, reference_schemas, reference_away,
)  # fmt: skip
