"""omni status and omni ps."""

import json

from cli.status import duration, merged


def test_the_status_names_service_model_worker_and_jobs(omni, service):
    shown = omni("status")
    assert shown.exit_code == 0, shown.output
    lines = dict(line.split(maxsplit=1) for line in shown.stdout.splitlines())
    assert lines["service"].startswith(f"{service.url}  healthy")
    assert "deepseek-v3.2, omni-demo  loaded" in lines["model"]
    assert "in the batch" in lines["worker"] and "0 waiting" in lines["jobs"]


def test_the_status_as_json_has_the_answers_of_the_api(omni):
    found = json.loads(omni("status", "--json").stdout)
    assert found["health"]["status"] == "healthy" and found["models"] and found["board"]["workers"]


def test_an_ordinary_key_sees_health_and_models_but_no_workers(omni, monkeypatch):
    monkeypatch.setattr("cli.status.board_of", lambda client: None)
    shown = omni("status")
    assert shown.exit_code == 0 and "need an admin key" in shown.stdout and "worker" not in shown.stdout


def test_ids_of_one_model_share_a_row(omni):
    [heading, row] = omni("ps").stdout.splitlines()
    assert heading.split() == ["id", "status", "memory", "context", "running", "waiting", "unloads"]
    assert row.startswith("deepseek-v3.2, omni-demo  loaded") and "2,048" in row
    assert json.loads(omni("ps", "--json").stdout)[0]["ids"] == ["deepseek-v3.2", "omni-demo"]


def test_adapters_and_other_models_are_not_merged():
    models = [{"id": "a", "root": "x"}, {"id": "b", "root": "y"}, {"id": "c", "root": "x", "parent": "a"}]
    assert [model["ids"] for model in merged(models)] == [["a"], ["b"]]


def test_durations_are_for_people():
    assert [duration(seconds) for seconds in (5, 90, 3 * 3600 + 60, 50 * 3600)] == [
        "5 s",
        "1 min",
        "3 h 1 min",
        "2 d 2 h",
    ]
