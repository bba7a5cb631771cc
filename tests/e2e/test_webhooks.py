"""Webhooks of the whole service, as OpenAI's client makes, receives and verifies them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from openai import OpenAI

from cli.main import main
from common.settings import read_settings
from tests.receiver import Receiver
from tests.service import RunningService

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    settings = {"OMNI_WEBHOOK_HOSTS": "127.0.0.0/8"}
    with RunningService(tmp_path_factory.mktemp("hooks"), settings) as service:
        service.start("redis", "api", "worker", "dispatcher")
        service.wait_healthy()
        yield service


def until(condition: Callable[[], bool], timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_client_s_own_methods_manage_endpoints(running: RunningService) -> None:
    client = running.openai()
    with Receiver() as receiver:
        made = client.webhooks.create(name="mine", url=receiver.url(), event_types=["batch.completed"])
        assert client.webhooks.retrieve(made.id).signing_secret_hint == f"whsec_...{made.signing_secret[-4:]}"
        assert "response.failed" in client.webhooks.event_types.list().data
        changed = client.webhooks.update(made.id, name="yours", event_types=["response.completed"])
        assert (changed.name, changed.event_types) == ("yours", ["response.completed"])
        assert [endpoint.id for endpoint in client.webhooks.list(limit=1)] == [made.id]
        rotated = client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        result = client.webhooks.test(made.id, event_type="response.completed")
        assert (result.success, result.status_code) == (True, 200)
        got = receiver.next()
        for secret in (made.signing_secret, rotated.signing_secret):
            assert client.webhooks.unwrap(got.body, got.headers, secret=secret).type == "response.completed"
        assert client.webhooks.delete(made.id).deleted


def test_each_end_of_background_work_is_an_event(running: RunningService) -> None:
    client: OpenAI = running.openai()
    with Receiver() as receiver:
        made = client.webhooks.create(name="all", url=receiver.url(), event_types=["*"])  # type: ignore[list-item]

        def respond(**options: Any) -> str:
            return client.responses.create(model="omni-demo", input="Say hello.", background=True, **options).id

        expected = {respond(): "response.completed", respond(max_output_tokens=2): "response.incomplete"}
        endless = respond(extra_body={"ignore_eos": True, "max_output_tokens": 3000})
        client.responses.cancel(endless)
        expected[endless] = "response.cancelled"
        for name, body in (("chat", {"messages": MESSAGES}), ("text", {"prompt": "Once"})):
            create: Any = client.chat.completions.create if name == "chat" else client.completions.create
            answer = create(model="omni-demo", max_tokens=4, extra_body={"background": True}, **body)
            expected[answer.id] = "chat.completion.completed"
        endless = client.chat.completions.create(
            model="omni-demo", messages=MESSAGES, max_tokens=3000, extra_body={"background": True, "ignore_eos": True}
        ).id
        running.http().delete(f"/v1/jobs/{endless}")
        expected[endless] = "chat.completion.failed"
        client.responses.create(model="omni-demo", input="Nobody waits for this.")
        until(lambda: len(receiver.ids()) >= len(expected))
        events = [client.webhooks.unwrap(got.body, got.headers, secret=made.signing_secret) for got in receiver.all]
        assert {event.data.id: event.type for event in events} == expected  # type: ignore[union-attr]

        def statuses() -> set[str]:
            answer = running.http().get(f"/v1/webhook_endpoints/{made.id}/deliveries").json()
            return {entry["status"] for entry in answer["data"]}

        until(lambda: statuses() == {"delivered"})
        client.webhooks.delete(made.id)


def test_the_command_line_does_the_same(running: RunningService) -> None:
    settings = read_settings({"OMNI_DATA_DIR": str(running.folder)})

    def omni(*words: str) -> str:
        given = {"url": running.url, "key": running.key, "settings": lambda: settings}
        shown = CliRunner().invoke(main.commands["webhooks"], words, obj=given)
        assert shown.exit_code == 0, shown.output
        return shown.stdout

    with Receiver() as receiver:
        endpoint_id, secret = omni("add", receiver.url(), "--event", "batch.failed", "--all-keys").split()
        assert omni("test", endpoint_id, "--event", "batch.failed") == "200\n"
        new_secret = omni("rotate", endpoint_id).strip()
        assert secret.startswith("whsec_") and new_secret not in ("", secret)
        assert endpoint_id in omni("list") and "batch.failed" in omni("list")
        receiver.answers["/hook"] = 410
        assert omni("test", endpoint_id) == "410\n"
        omni("enable", endpoint_id)
        assert "attempts" in omni("deliveries", endpoint_id)
        omni("remove", endpoint_id)
        assert endpoint_id not in omni("list")
