"""Several models of one device: on the board, in the chat page's list, and under an answer whose model is away."""

import time

import pytest

from tests.e2e.fake_backend import NUM_SLOW, fake_backend
from tests.e2e.test_page import ANSWER, BOARD, answer, say, until_done, wait_for_words

GIB = 2**30
NOTHING = {"what": "", "share": 0.0, "weights_bytes": 0, "kv_bytes": 0, "is_pinned": False, "keep_alive_s": None}
NOTHING |= {"unload_at": 0.0, "loaded_at": 0.0, "swap_in_s": 0.0, "eta_s": None, "num_swapped_out": 0, "fault": ""}
NOTHING |= {"may_retry": True, "num_waiting": 0, "longest_wait_s": 0.0}


def entry(queue, status, **values):
    return NOTHING | {"queue": queue, "status": status} | values


def shelf(*entries, **values):
    loaded = [one for one in entries if one["status"] == "loaded"]
    used = sum(one["weights_bytes"] + one["kv_bytes"] for one in loaded)
    return {
        "worker": "omni-1", "at": 0.0, "device": "cuda:0", "capacity_bytes": 40 * GIB, "used_bytes": used,
        "warm_bytes": 0, "warm_capacity_bytes": 32 * GIB, "max_loaded": 2, "entries": entries, "next": "", "why": "",
        "next_in_s": None, "num_swaps": 0, "last_swap": "",
    } | values  # fmt: skip


FIVE = shelf(
    entry("chat-8b", "loaded", weights_bytes=16 * GIB, kv_bytes=6 * GIB, num_waiting=2, longest_wait_s=4.2, eta_s=0.0),
    entry("bge-m3", "loaded", weights_bytes=GIB, kv_bytes=0, is_pinned=True, eta_s=0.0),
    entry("coder", "loading", what="reading weights", share=0.4, weights_bytes=9 * GIB, eta_s=3.4, keep_alive_s=600.0)
    | {"num_waiting": 31, "longest_wait_s": 75.0, "num_swapped_out": 2},
    entry("vision", "failed", fault="There is no /models/vision/config.json.", may_retry=False),
    entry("writer", "warm", weights_bytes=4 * GIB, swap_in_s=1.4),
    warm_bytes=4 * GIB,
    next="coder",
    why="a caller has waited 5.0 s for it",
    next_in_s=3.4,
    num_swaps=12,
    last_swap="coder -> chat-8b in 1.4 s",
)


def twelve():
    loaded = [entry(f"model-{n}", "loaded", weights_bytes=(n + 1) * GIB, kv_bytes=GIB, eta_s=0.0) for n in range(5)]
    warm = [entry(f"model-{n}", "warm", weights_bytes=2 * GIB, swap_in_s=1.4) for n in range(5, 9)]
    long = entry("Qwen3-Coder-30B-A3B-Instruct-Q4_K_M-with-a-long-name", "cold", weights_bytes=18 * GIB, swap_in_s=40.0)
    cold = [entry(f"model-{n}", "cold", weights_bytes=2 * GIB) for n in range(9, 11)]
    return shelf(*loaded, *warm, *cold, long, warm_bytes=8 * GIB, max_loaded=0)


@pytest.fixture
def backend():
    with fake_backend() as backend:
        backend.board = BOARD
        yield backend


@pytest.fixture
def board(page, backend):
    backend.board = BOARD | {"shelves": [FIVE]}
    page.goto(backend.url + "/board")
    page.wait_for_selector(".shelf tbody tr")
    return page


def row(page, queue):
    return " ".join(page.locator(f".shelf tr:has(.name:text-is('{queue}'))").inner_text().split())


# The board


def test_the_board_shows_where_each_model_is_and_what_waits_for_it(board):
    assert board.inner_text("#num-models") == "2 of 5 loaded"
    head = board.inner_text(".shelf")
    for part in ("cuda:0", "at most 2 loaded", "12 swaps, the last coder → chat-8b in 1.4 s.", "23 GiB of 40 GiB"):
        assert part in head
    assert "Next: coder in about 3 s (a caller has waited 5.0 s for it)." in head
    stays = "until its place is needed"
    assert row(board, "chat-8b") == f"chat-8b loaded 16 GiB + 6.0 GiB KV 2, longest 4 s {stays} Unload Pin"
    assert row(board, "bge-m3") == "bge-m3 loaded 1.0 GiB – pinned Unload Unpin"
    loading = "coder loading 40 % reading weights, there in about 3 s 9.0 GiB 31, longest 1 min 15 s, 2 paused"
    assert row(board, "coder") == f"{loading} 10 min without work Unload Pin"
    assert row(board, "vision").startswith("vision failed There is no /models/vision/config.json. –")
    label = board.get_attribute(".memory-bar >> nth=0", "aria-label")
    assert label.startswith(
        "Device memory: chat-8b, weights 16 GiB, chat-8b, KV cache 6.0 GiB, bge-m3, weights 1.0 GiB"
    )
    assert label.endswith("coder, loading 9.0 GiB, free 8.0 GiB")


def test_a_model_that_is_idle_says_when_it_leaves(board, backend):
    busy, idle = (time.time() + left for left in (599, 120))
    loaded = [entry(name, "loaded", keep_alive_s=600.0, unload_at=at) for name, at in (("busy", busy), ("idle", idle))]
    backend.board = BOARD | {"shelves": [shelf(*loaded)]}
    board.wait_for_selector(".stays:text-is('idle, leaves in 2 min')")
    assert row(board, "busy") == "busy loaded – – 10 min without work Unload Pin"


def test_a_model_is_loaded_and_pinned_from_the_board_by_keyboard(board, backend):
    board.focus("[aria-label='Load vision']")
    board.keyboard.press("Enter")
    board.wait_for_selector("#announcement:has-text('vision: load is ordered.')", state="attached")
    board.wait_for_selector("[aria-label='Load vision']:enabled")
    assert backend.log[-1] == "POST /v1/models/vision/load"
    board.focus("[aria-label='Pin chat-8b']")
    board.evaluate("window.kept = document.querySelector('.memory-bar .kv')")
    backend.board = BOARD | {"shelves": [FIVE | {"used_bytes": 24 * GIB}]}
    board.wait_for_selector(".figure-text:has-text('24 GiB of 40 GiB')")
    assert board.evaluate("document.activeElement.ariaLabel") == "Pin chat-8b"
    assert board.evaluate("window.kept.isConnected"), "what has not changed is not drawn again"


def test_a_worker_with_one_model_has_no_shelf_and_a_model_that_is_away_no_card(board, backend):
    away = BOARD["workers"][0] | {"fence": 8, "queue": "coder", "model": "Coder"}
    backend.board = BOARD | {"shelves": [FIVE], "workers": [*BOARD["workers"], away]}
    board.wait_for_function("() => document.querySelectorAll('.worker').length === 1")
    backend.board = BOARD | {"workers": [*BOARD["workers"], away]}
    board.wait_for_selector("#models", state="hidden")
    assert board.locator(".worker").count() == 2


@pytest.mark.parametrize("width", [360, 1280])
def test_twelve_models_fit(width, page, backend):
    backend.board = BOARD | {"shelves": [twelve()]}
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(backend.url + "/board")
    page.wait_for_function("() => document.querySelectorAll('.shelf tbody tr').length === 12")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    outside = """() => [...document.querySelectorAll('.shelf *')].filter((element) => {
        const [box, frame] = [element, element.closest(".shelf")].map((one) => one.getBoundingClientRect());
        return box.width && (box.right > frame.right + 1 || box.left < frame.left - 1);
    }).map((element) => element.outerHTML)"""
    assert page.evaluate(outside) == []


CONTRAST = """() => {
    const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, index) => sum + v * [0.2126, 0.7152, 0.0722][index], 0);
    const ground = (element) => {
        const colour = numbers(getComputedStyle(element).backgroundColor);
        return colour[3] === 0 ? ground(element.parentElement) : colour;
    };
    return [...document.querySelectorAll(".shelf :is(th, td, span, p, button)")]
        .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .map((element) => {
            const colours = [numbers(getComputedStyle(element).color), ground(element)];
            const [a, b] = colours.map(light).sort((x, y) => x - y);
            return [element.className, element.textContent, (b + 0.05) / (a + 0.05)];
        }).filter(([, , ratio]) => ratio < 4.5);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_the_shelf_can_be_read(scheme, board):
    board.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    assert board.evaluate(CONTRAST) == []


# The list of models


def model(name, state, **values):
    return {"id": name, "root": name, "parent": None, "task": "generate", "eta_s": None, "status": {"state": state}} | (
        values
    )


def options(page):
    return [" ".join(text.split()) for text in page.locator("#model option").all_text_contents()]


@pytest.fixture
def chat(page, backend):
    loading = {"state": "loading", "progress": 0.4}
    failed = {"state": "failed", "failed": True, "reason": "There is no config.json."}
    backend.models = [
        model("chat-8b", "loaded"),
        model("coder", "loading", status=loading, eta_s=3.4),
        model("vision", "failed", status=failed),
        model("old", "cold"),
        model("bge-m3", "loaded", task="embed"),
        model("sql", "loaded", parent="chat-8b"),
        model("next", "warm", eta_s=2.6),
    ]
    page.clock.install()
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    return page


def test_the_list_says_of_each_model_how_near_it_is_and_offers_those_that_chat(chat):
    assert options(chat) == [
        "chat-8b",
        "↳ sql",
        "coder · loading 40 %",
        "vision · cannot be loaded: There is no config.json.",
        "old · not loaded",
        "next · loads in about 3 s",
    ]


def test_the_list_is_kept_fresh_and_keeps_what_is_picked(chat, backend):
    chat.select_option("#model", "coder")
    chat.evaluate("window.kept = document.querySelector('#model').selectedOptions[0]")
    backend.models[1]["status"]["progress"] = 0.8
    chat.clock.run_for(3100)
    chat.wait_for_function("() => document.querySelector('#model').selectedOptions[0].text === 'coder · loading 80 %'")
    assert chat.evaluate("window.kept.isConnected"), "an open list is not built anew"
    backend.models = [model("chat-8b", "loaded"), model("coder", "loaded")]
    chat.clock.run_for(3100)
    chat.wait_for_function("() => document.querySelectorAll('#model option').length === 2")
    assert (options(chat), chat.input_value("#model")) == (["chat-8b", "coder"], "coder")


# Answers whose model is away


def test_an_answer_says_that_its_model_is_being_loaded(page, backend):
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    say(page, "away")
    page.wait_for_selector(f"{ANSWER} .status:has-text('Waiting for its model to be loaded, about 12 s')")
    backend.goes_on.set()
    until_done(page)
    assert answer(page) == "Loaded at last."


def test_a_paused_answer_says_so_and_goes_on(page, backend):
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    say(page, "pause")
    page.wait_for_selector(f"{ANSWER} .status:has-text('Paused: its model is coming back (40 %)')")
    assert "goes on by itself, about 3 s" in page.inner_text(f"{ANSWER} .status")
    backend.goes_on.set()
    wait_for_words(page, NUM_SLOW)
    until_done(page)
    assert "Paused" not in page.inner_text(f"{ANSWER} .status")
