"""omni audit: commands that change keys are in the same log as what admin keys change through the API."""

import getpass
import json

from common.records.database import Records
from tests.service import RunningService


def test_what_commands_and_admin_keys_change_is_shown(omni, service: RunningService) -> None:
    key = omni("keys", "add", "audited", "--max-queued", "5").stdout.strip()
    assert omni("keys", "limits", "audited", "--admin").exit_code == 0
    assert omni("keys", "revoke", "audited").exit_code == 0
    assert omni("keys", "add", "x" * 65).exit_code == 1
    found = omni("audit", "--on", "audited", "--on", "x" * 65, "--json").stdout
    assert key and key not in found
    entries = json.loads(found)
    assert [(entry["type"], entry["outcome"], entry["code"]) for entry in entries] == [
        ("key.create", "failed", "invalid_request"),
        ("key.revoke", "succeeded", None),
        ("key.limit", "succeeded", None),
        ("key.create", "succeeded", None),
    ]
    assert entries[3]["details"] == {"max_queued": 5} and entries[3]["actor"]["session"]["ip_address"] is None
    assert entries[3]["actor"]["session"]["user"]["id"].startswith(f"{getpass.getuser()}@")
    shown = omni("audit", "--on", "audited", "--what", "key.create", "--since", "2026-01-01").stdout
    assert "max_queued=5" in shown and "key.revoke" not in shown
    assert len(json.loads(omni("audit", "--limit", "2", "--json").stdout)) == 2


def test_keys_do_not_change_while_the_log_cannot_be_written(omni, service: RunningService, monkeypatch) -> None:
    monkeypatch.setattr(Records, "begin", lambda _: Records("postgresql+psycopg://127.0.0.1:1/no").read())
    refused = omni("keys", "add", "unaudited")
    assert refused.exit_code == 1 and "Nothing was changed" in refused.stderr
    monkeypatch.undo()
    assert "unaudited" not in omni("keys", "list").stdout
