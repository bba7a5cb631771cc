"""The API reference at /docs in a real browser, against the real service."""

import json

from api.app import create_app
from api.operator.openapi.document import examples_for
from api.operator.openapi.operations import DESCRIBED
from common.settings import read_settings

CHAT = '#operations [id$="post_v1_chat_completions"]'
SHOWN = f"{CHAT} .live-responses-table .response .response-col_status"


def test_the_theme_is_that_of_the_other_pages(page, service):
    page.emulate_media(color_scheme="dark")
    page.goto(f"{service.url}/docs")
    page.wait_for_selector(CHAT)
    assert "dark-mode" in page.get_attribute("html", "class")
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    page.wait_for_selector("html:not(.dark-mode)")


def test_no_request_leaves_the_server(page, service):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{service.url}/")
    page.click("text=API")
    page.wait_for_selector(CHAT)
    assert {url for url in asked if not url.startswith((service.url, "data:"))} == set()


def test_a_request_is_tried_out_as_it_stands(page, service):
    page.goto(f"{service.url}/docs")
    page.fill("#key", "sk-wrong")
    page.click(f"{CHAT} .opblock-summary-control")
    page.wait_for_selector(f"{CHAT} textarea")
    assert json.loads(page.input_value(f"{CHAT} textarea"))["model"] in [
        model["id"] for model in service.http().get("/v1/models").json()["data"]
    ]
    page.click(f"{CHAT} .execute")
    page.wait_for_selector(f"{SHOWN}:has-text('401')")
    page.fill("#key", service.key)
    page.press("#key", "Tab")
    page.click(f"{CHAT} .execute")
    page.wait_for_selector(f"{SHOWN}:has-text('200')")
    assert '"chat.completion"' in page.inner_text(f"{CHAT} .live-responses-table")


def test_every_example_is_answered_as_it_is_described(service):
    """Also what only the running service can tell: health, jobs, models, usage."""
    http = service.http()
    for name, found in examples_for(create_app(read_settings(service.env))).items():
        method, path = name.split(" ")
        described = DESCRIBED[name]
        for title, body in found.get("bodies", {}).items():
            answer = http.request(method, path, json=body)
            if "encoder" in json.dumps(body):
                assert answer.status_code == 404, name
                continue
            assert answer.status_code == (202 if body.get("background") else 200), (name, title, answer.text)
            if answer.status_code == 200 and not body.get("stream"):
                described.answer.model_validate(answer.json())
    job = http.get("/v1/jobs").json()["data"][0]["id"]
    for name in ("/health", "/livez", "/v1/models", "/v1/jobs", f"/v1/jobs/{job}", "/v1/usage", "/api/tags", "/api/ps"):
        described = DESCRIBED[f"GET {name.replace(job, '{job_id}')}"]
        described.answer.model_validate(http.get(name).json())
