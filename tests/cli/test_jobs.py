"""omni jobs and omni cancel."""

import time

from cli.terminal import moment
from tests.service import RunningService


def test_jobs_are_listed_and_cancelled(omni, service: RunningService):
    with service.http() as http:
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "A story!"}], "background": True}
        job_id = http.post("/v1/chat/completions", json=body | {"max_tokens": 3000, "ignore_eos": True}).json()["id"]
        tomorrow = time.time() + 24 * 3600
        later = body | {"not_before": int(tomorrow), "service_tier": "flex"}
        later_id = http.post("/v1/chat/completions", json=later).json()["id"]
    for listed in (omni("jobs").stdout, omni("jobs", "--all").stdout):
        [line] = [line for line in listed.splitlines() if later_id in line]
        assert "scheduled" in line and "flex" in line and moment(int(tomorrow)) in line
    assert "cancelled" in omni("cancel", later_id).stdout
    assert job_id in omni("jobs").stdout
    assert job_id in omni("jobs", "--all").stdout
    assert f"{job_id} cancelled" in omni("cancel", job_id).stdout
    unknown = omni("cancel", "chatcmpl-unknown")
    assert unknown.exit_code == 1 and "no job" in unknown.stderr


def test_a_wrong_key_is_refused_in_one_sentence(omni):
    refused = omni("jobs", key="wrong")
    assert refused.exit_code == 1 and "401" in refused.stderr and "Traceback" not in refused.stderr
