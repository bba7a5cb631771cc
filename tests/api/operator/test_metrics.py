"""/metrics agrees with what callers counted, and is the same in every API process."""

import asyncio
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.operator.metrics import buckets
from bench import load
from common.redis.directory import Directory
from common.redis.metrics import BOUNDS_MS, SERVICE, Tally, bucket_of, read
from tests.chaos.harness import wait_until
from tests.chaos.scenarios import Stage
from tests.service import RunningService
from worker.jobs.ledger import Ledger
from worker.jobs.telemetry import Telemetry

BOUNDS = [str(bound / 1000) for bound in BOUNDS_MS]


def scrape(service: RunningService) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = httpx2.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {service.key}"}).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples, name, **labels):
    wanted = set(({"model_name": "deepseek-v3.2"} | labels).items())
    return sum(number for (found, have), number in samples.items() if found == f"omni:{name}" and wanted <= set(have))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service of its own, so that nothing else is counted."""
    with RunningService(tmp_path_factory.mktemp("metrics")) as running:
        yield running.start()


class Growth:
    """Growth of the counters since its creation."""

    def __init__(self, service: RunningService) -> None:
        self.service = service
        self.before = scrape(service)

    def of(self, name: str, **labels: str) -> float:
        return value(scrape(self.service), name, **labels) - value(self.before, name, **labels)

    def wait_for(self, expected: dict[str, int], **labels: str) -> None:
        """Wait until the counts, which workers and API processes send once a second, have arrived."""
        with suppress(TimeoutError):
            wait_until(lambda: self.all(expected, **labels) == expected)
        assert self.all(expected, **labels) == expected

    def all(self, names: Iterable[str], **labels: str) -> dict[str, float]:
        return {name: self.of(name, **labels) for name in names}


def test_the_counters_are_what_the_callers_saw(service: RunningService):
    grown = Growth(service)
    with service.http() as http:
        body = {"model": "omni-demo", "temperature": 0, "messages": [{"role": "user", "content": "Hello there!"}]}
        answers = [http.post("/v1/chat/completions", json=body | {"max_tokens": 5 + n}).json() for n in range(6)]
        again = [http.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": "m"}).json() for _ in "ab"]
        assert again[0]["id"] == again[1]["id"]
    answers.append(again[0])
    num_tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    names = ("time_to_first_token", "request_queue_time", "request_prefill_time", "e2e_request_latency")
    grown.wait_for(
        {
            "generation_tokens_total": num_tokens,
            "prompt_tokens_total": sum(answer["usage"]["prompt_tokens"] for answer in answers),
            "inter_token_latency_seconds_count": num_tokens - len(answers),
            **{f"{name}_seconds_count": len(answers) for name in names},
        }
    )
    written = {"request_generation_tokens_sum": num_tokens, "request_prompt_tokens_count": len(answers)}
    grown.wait_for(written | {"request_inference_time_seconds_count": len(answers)})
    num_longer = sum(answer["usage"]["completion_tokens"] > 1 for answer in answers)
    choices = {"request_params_n_sum": len(answers), "request_params_n_count": len(answers)}
    grown.wait_for(choices | {"request_time_per_output_token_seconds_count": num_longer})
    assert grown.of("iteration_tokens_total_sum") >= num_tokens - len(answers), "each token but the first is a step's"
    reasons = [answer["choices"][0]["finish_reason"] for answer in answers]
    for reason in ("stop", "length"):
        grown.wait_for({"request_success_total": reasons.count(reason)}, finished_reason=reason)
    assert 0 < grown.of("time_to_first_token_seconds_sum") <= grown.of("e2e_request_latency_seconds_sum") < 30
    after = scrape(service)
    assert value(after, "workers", state="ready") == 1
    assert value(after, "kv_cache_usage_perc") <= 1
    [cache] = [dict(labels) for name, labels in after if name == "omni:cache_config_info"]
    assert int(cache["num_gpu_blocks"]) * int(cache["block_size"]) > 0 and cache["cache_dtype"] == "float32", cache


def test_answers_are_counted_by_route_and_status(service: RunningService):
    with service.http() as http:
        for _ in range(3):
            assert http.post("/detokenize", json={"tokens": [1]}).status_code == 200
        assert http.post("/detokenize", json={"tokens": "x"}).status_code == 400

    def counts() -> dict[str, float]:
        labels = [(dict(have), number) for (name, have), number in scrape(service).items() if "http_requests" in name]
        return {have["status"]: number for have, number in labels if have["route"] == "/detokenize"}

    wait_until(lambda: counts() == {"200": 3, "400": 1})


def test_the_service_counts_what_the_load_generator_measures(service: RunningService):
    plan = load.Plan(words=10, tokens=16, requests=24)
    grown = Growth(service)
    target = load.Target("here", f"{service.url}/v1", "omni-demo", service.key)
    [measured] = asyncio.run(load.measure([target], plan, [(4, 0.0)]))
    assert measured.errors == 0
    names = ("time_to_first_token", "request_queue_time", "e2e_request_latency")
    grown.wait_for({"generation_tokens_total": 24 * 16, **{f"{name}_seconds_count": 24 for name in names}})
    grown.wait_for({"request_success_total": 24}, finished_reason="length")
    later = sum(grown.of("time_to_first_token_seconds_bucket", le=le) <= 12 for le in BOUNDS)
    median_is_above = float(BOUNDS[later - 1]) if later else 0.0
    assert median_is_above <= measured.ttft_p50_ms / 1000, "the caller cannot have had it before the service"


def test_a_histogram_has_every_bucket_and_they_only_grow(service: RunningService):
    samples = scrape(service)
    found = [
        (float(dict(have)["le"]), number)
        for (name, have), number in samples.items()
        if name == "omni:e2e_request_latency_seconds_bucket"
    ]
    assert len(found) == len(BOUNDS_MS) + 1
    counts = [number for _, number in sorted(found)]
    assert counts == sorted(counts) and counts[-1] == value(samples, "e2e_request_latency_seconds_count")


def test_refusals_are_counted_by_reason(service: RunningService):
    with service.http() as http:
        body = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        headers = {"Idempotency-Key": "metrics-mismatch"}
        assert http.post("/v1/chat/completions", json=body, headers=headers).status_code == 200
        refused = http.post("/v1/chat/completions", json=body | {"seed": 1}, headers=headers)
        assert refused.status_code == 422
    assert value(scrape(service), "admissions_refused_total", reason="idempotency_mismatch") >= 1


def test_metrics_need_an_admin_key(service: RunningService):
    assert httpx2.get(f"{service.url}/metrics").status_code == 401


def test_every_process_gives_the_same_counters(service: RunningService, tmp_path):
    """A second API process on the same Redis gives the counts of requests that it never handled."""
    with RunningService(tmp_path, {"REDIS_URL": service.redis_url}) as second:
        second.spawn("api")
        second.wait_healthy()
        counters = ("generation_tokens_total", "request_success_total", "e2e_request_latency_seconds_count")
        one, other = scrape(service), scrape(second)
        assert [value(one, name) for name in counters] == [value(other, name) for name in counters]


def test_a_tally_sends_each_count_once(redis):
    tally = Tally(SERVICE)
    for _ in range(3):
        tally.add("a")
        tally.observe("t", 3.0)
    tally.flush(redis)
    tally.flush(redis)
    assert read(redis, SERVICE) == {"a": 3, "t:3": 3, "t:sum": 9000}


@pytest.mark.parametrize(("ms", "bucket"), [(0, 1), (1, 1), (1.5, 2), (600_000, 18), (600_001, 19)])
def test_a_value_falls_into_the_first_bucket_that_holds_it(ms, bucket):
    assert bucket_of(ms) == bucket


def test_a_worker_reports_growth_and_not_totals(redis):
    telemetry = Telemetry(redis, "q", "cpu")
    telemetry.report({"prompt_tokens": 10, "cached_tokens": 4})
    telemetry.report({"prompt_tokens": 15, "cached_tokens": 4})
    counts = read(redis, "q")
    assert (counts["prefix_cache_queries"], counts["prefix_cache_hits"]) == (15, 4)


def test_promtool_accepts_the_metrics(service: RunningService):
    from shutil import which

    if which("promtool") is None:
        pytest.skip("promtool is not installed")
    text = httpx2.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {service.key}"}).content
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    lint = [line for line in checked.stderr.decode().splitlines() if line and "should not contain ':'" not in line]
    assert checked.returncode in (0, 3) and not lint, lint


def test_a_model_that_was_renamed_is_listed_until_its_last_job(redis):
    """Else its missing worker would be an alert for ever."""
    stage = Stage(redis)
    redis.hset("omni:queues", mapping={"new": "new", "old": "old", "other": "other"})
    other = Ledger(redis, "other", "another service")
    other.register()
    assert Directory(redis).watched({"new"}) == {"new", "other"}
    stage.submit(1, queue="old")
    assert Directory(redis).watched({"new"}) == {"new", "old", "other"}


def test_a_histogram_of_tokens_has_whole_bounds():
    counts = {"request_prompt_tokens:4": 2, "request_prompt_tokens:sum": 18_000}
    found, total = buckets(counts, "request_prompt_tokens", 1)
    assert (total, found[2:4], found[-1]) == (18, [("5.0", 0), ("10.0", 2)], ("+Inf", 2))
