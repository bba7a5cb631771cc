"""The alert rules and the dashboard name metrics that exist; a real Prometheus takes them where there is one."""

import json
import re
import shutil
import subprocess
import time

import httpx2
import pytest
import yaml

from cli.serve import ROOT
from tests.service import RunningService, free_port

ALERTS = ROOT / "docs/operations/alerts.yml"
GRAFANA = json.loads((ROOT / "docs/operations/grafana.json").read_text())
NAME = re.compile(r"\bomni:[a-z0-9_]+")


def expressions() -> list[str]:
    found = [target["expr"] for panel in GRAFANA["panels"] for target in panel.get("targets", ())]
    text = ALERTS.read_text()
    return [*found, *(line for line in text.splitlines() if "omni:" in line)]


def test_every_metric_that_is_asked_for_exists(service: RunningService):
    text = httpx2.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {service.key}"}).text
    given = set(re.findall(r"^# TYPE (\S+)", text, re.M)) | set(NAME.findall(text))
    families = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in given}
    for expression in expressions():
        for name in NAME.findall(expression):
            assert re.sub(r"_(total|bucket|sum|count)$", "", name) in families, name


def test_panels_do_not_overlap():
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in GRAFANA["panels"]]
    assert len(set(places)) == len(places) and len({panel["id"] for panel in GRAFANA["panels"]}) == len(places)


def test_panels_stand_in_rows_and_say_what_they_show():
    panels = GRAFANA["panels"]
    assert panels[0]["type"] == "row"
    assert all(panel["type"] == "row" or panel["description"].endswith(".") for panel in panels)
    assert any("thresholds" in panel["fieldConfig"]["defaults"] for panel in panels if panel["type"] != "row")


def test_every_alert_has_a_runbook():
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/operations/runbooks.md").read_text(), re.M)
    assert [rule["alert"] for rule in rules] == headings
    links = [rule["annotations"]["runbook_url"] for rule in rules]
    assert links == [f"docs/operations/runbooks.md#{name.lower()}" for name in headings]


def test_promtool_accepts_the_rules():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    checked = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_alert_of_a_missing_worker_comes_after_two_minutes_in_each_case():
    """Also for a model that leaves /metrics with its worker; not while the API is away, nor for ever."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    tested = subprocess.run(
        ["promtool", "test", "rules", str(ROOT / "tests/operations/alerts_test.yml")], capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_real_prometheus_scrapes_us_and_evaluates_the_dashboard(service: RunningService, tmp_path):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed")
    (tmp_path / "key").write_text(service.key)
    shutil.copy(ALERTS, tmp_path / "alerts.yml")
    config = (ROOT / "deploy/prometheus.yml").read_text().replace("/run/secrets/omni_admin_key", str(tmp_path / "key"))
    config = config.replace("api:8000", f"127.0.0.1:{service.port}").replace("10s", "1s")
    (tmp_path / "prometheus.yml").write_text(config)
    port = free_port()
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as server:
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:
                assert eventually(lambda: query(http, 'up{job="omni"}') == ["1"])
                assert eventually(lambda: len(query(http, "omni:num_requests_waiting")) >= 1)
                for expression in expressions_of_grafana():
                    answer = http.get("/api/v1/query", params={"query": expression}).json()
                    assert answer["status"] == "success", (expression, answer)
                groups = http.get("/api/v1/rules").json()["data"]["groups"]
                assert len(groups[0]["rules"]) == ALERTS.read_text().count("- alert:")
        finally:
            server.terminate()


def expressions_of_grafana() -> list[str]:
    found = [target["expr"] for panel in GRAFANA["panels"] for target in panel.get("targets", ())]
    return [text.replace("$__rate_interval", "1m").replace("$model", ".*") for text in found]


def query(http: httpx2.Client, expression: str) -> list[str]:
    result = http.get("/api/v1/query", params={"query": expression}).json()["data"]["result"]
    return [item["value"][1] for item in result]


def eventually(probe, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if probe():
                return True
        except (httpx2.HTTPError, KeyError):
            pass
        time.sleep(0.2)
    return False
