"""The files of deploy/ are accepted by the tools that read them, where installed; a real nginx streams."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import kubernetes_validate
import pytest
import yaml

from api.files.receive import MAX_FILE_BYTES
from api.gate.body import MAX_BODY_BYTES
from cli.serve import ROOT
from common.settings import read_settings, setting_names
from tests.service import RunningService, free_port

DEPLOY = ROOT / "deploy"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def needs(tool):
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"{tool} is not installed")


def settings_named_in(text: str) -> set[str]:
    return set(re.findall(r"\bOMNI_[A-Z_]+", text))


@pytest.mark.parametrize(
    "path", sorted(path for path in DEPLOY.rglob("*") if path.is_file()), ids=lambda path: path.name
)
def test_only_real_settings_are_named(path):
    assert settings_named_in(path.read_text()) <= {*setting_names(), "OMNI_ADMIN_KEY"}


def test_the_example_settings_are_all_settings_with_their_defaults():
    example = {}
    for line in (ROOT / ".env.example").read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            example[name] = value
    assert {*example, "OMNI_MODEL", "OMNI_DATA_DIR"} == set(setting_names())
    assert read_settings(example) == read_settings({})


def test_the_example_sets_nothing_that_a_unit_sets():
    """A line of an EnvironmentFile wins over Environment=, so such a line would keep a unit from starting."""
    example = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    for unit in (DEPLOY / "systemd").glob("*.service"):
        names = set(re.findall(r"^Environment=(\w+)=", unit.read_text(), re.MULTILINE))
        assert "OMNI_DATA_DIR" in names and not names & example, unit


@needs("systemd-analyze")
def test_systemd_accepts_the_units(tmp_path):
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/protocol-omni/.venv/bin/python", shutil.which("python3") or "")
        (tmp_path / unit.name).write_text(text.replace("User=omni", "User=nobody"))
    paths = sorted(map(str, tmp_path.iterdir()))
    checked = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True)
    complaints = [line for line in checked.stderr.splitlines() if "omni" in line and "nobody" not in line]
    assert not complaints, complaints


def test_every_process_of_the_procfile_has_a_unit():
    processes = [line.partition(":")[0] for line in (ROOT / "Procfile").read_text().splitlines()]
    assert {f"omni-{name}.service" for name in processes} < {unit.name for unit in (DEPLOY / "systemd").iterdir()}


def test_compose_runs_what_the_image_has_and_opens_loopback_only():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"api", "worker", "embedder", "dispatcher", "valkey", "prometheus", "grafana"}
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in ("prometheus", "valkey"):
        for mount in compose["services"][name]["volumes"]:
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists(), source


def test_compose_sets_no_limit_of_connections_per_address():
    """All callers come from Docker's gateway."""
    api = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["api"]
    assert api["environment"]["OMNI_MAX_CONNECTIONS_PER_ADDRESS"] == "0"


def test_compose_gives_each_process_its_own_redis_user():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    users = re.findall(r"^user (\w+) on #HASH_OF_(\w+)_PASSWORD ", (DEPLOY / "valkey" / "users.conf").read_text(), re.M)
    assert [name.upper() for name, _ in users] == [password for _, password in users]
    for name, user in (("api", "api"), ("worker", "worker"), ("embedder", "worker"), ("dispatcher", "dispatcher")):
        assert f"://{user}:${{REDIS_{user.upper()}_PASSWORD}}@valkey:" in services[name]["environment"]["REDIS_URL"]
    without_dashboard = {"api", "worker", "dispatcher", "admin"}
    assert {f"REDIS_{user.upper()}_PASSWORD" for user in without_dashboard} == set(services["valkey"]["environment"])


def kubernetes() -> dict[tuple[str, str], dict]:
    found = {}
    for name in yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]:
        for item in yaml.safe_load_all((DEPLOY / name).read_text()):
            assert (item["kind"], item["metadata"]["name"]) not in found
            found[item["kind"], item["metadata"]["name"]] = item
    return found


def test_the_manifests_run_what_compose_runs():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    manifests = kubernetes()
    claims = {name for kind, name in manifests if kind == "PersistentVolumeClaim"}
    for name in ("omni-api", "omni-worker"):
        spec = manifests["Deployment", name]["spec"]
        labels = spec["template"]["metadata"]["labels"]
        assert spec["selector"]["matchLabels"] == labels
        pod = spec["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        claimed = [
            volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "emptyDir" not in volume
        ]
        assert set(claimed) <= claims
        for container in pod["containers"]:
            user = container["name"]
            assert container.get("command") == services[user].get("command")
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            values = {item["name"]: item.get("value") for item in container["env"]}
            assert values["REDIS_URL"] == f"redis://{user}:$(PASSWORD)@valkey:6379/0"
            assert list(values).index("PASSWORD") < list(values).index("REDIS_URL"), "else it is not expanded"
    assert manifests["Service", "omni"]["spec"]["selector"] == {"app": "omni-api"}
    valkey = manifests["StatefulSet", "valkey"]["spec"]["template"]["spec"]["containers"][0]
    options = services["valkey"]["command"][2:]
    assert valkey["command"] == ["sh", "/etc/valkey/start.sh", "--dir", "/data", *options]


@pytest.mark.parametrize("version", ["1.31", "1.37"])  # the oldest and the newest that we mean
def test_kubernetes_own_schemas_accept_the_manifests(version):
    """Strictly: a field that does not exist is a fault."""
    for manifest in kubernetes().values():
        kubernetes_validate.validate(manifest, version, strict=True)
    wrong = kubernetes()["Deployment", "omni-api"]
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, version, strict=True)


@needs("kubectl")
def test_kustomize_builds_the_manifests():
    built = subprocess.run(["kubectl", "kustomize", str(DEPLOY)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    kinds = [item["kind"] for item in yaml.safe_load_all(built.stdout)]
    assert kinds.count("ConfigMap") == 2 and kinds.count("Deployment") == 2 and "StatefulSet" in kinds


@pytest.mark.parametrize("dashboard", ["", "d"])
def test_the_dashboard_has_a_redis_user_only_with_a_password(tmp_path, dashboard):
    (tmp_path / "valkey-server").write_text("#!/bin/sh\nexec cat\n")
    (tmp_path / "valkey-server").chmod(0o755)
    passwords = {f"REDIS_{user}_PASSWORD": "p" for user in ("API", "WORKER", "DISPATCHER", "ADMIN")}
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **passwords, "REDIS_DASHBOARD_PASSWORD": dashboard}
    command = ["sh", str(DEPLOY / "valkey" / "start.sh")]
    configuration = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    users = re.findall(r"^user (\w+) on #[0-9a-f]{64} ", configuration, re.MULTILINE)
    assert users == ["api", "worker", "dispatcher", *(["dashboard"] if dashboard else []), "admin"]


def test_the_image_holds_every_package_that_the_processes_import():
    copied = set(re.findall(r"^COPY (?:--\S+ )?(\w+) ", (DEPLOY / "Dockerfile").read_text(), re.M))
    assert {"api", "cli", "common", "worker", "dispatcher", "demo"} <= copied
    assert "USER 10001" in (DEPLOY / "Dockerfile").read_text()


def test_the_image_holds_its_code_compiled():
    text = (DEPLOY / "Dockerfile").read_text()
    copied = set(re.findall(r"^COPY --\S+ (\w+) ", text, re.M)) - {"demo"} | {"bench", "omni.py"}
    (compiled,) = re.findall(r"^RUN python -m compileall -q (.+)$", text, re.M)
    assert set(compiled.split()) == copied


def test_the_image_holds_what_the_load_generator_imports(tmp_path: Path):
    for files in re.findall(r"^COPY --\S+ ([^\n]+) \./", (DEPLOY / "Dockerfile").read_text(), re.M):
        for name in files.split():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-P", "-c", "import sys; sys.path.insert(0, ''); import cli.bench"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def hadolint(dockerfile: Path) -> str:
    """What it finds; of requirements-dev.lock."""
    command = [Path(sys.executable).parent / "hadolint", "--no-color", dockerfile]
    return subprocess.run(command, capture_output=True, text=True).stdout


def test_hadolint_finds_nothing(tmp_path):
    assert hadolint(DEPLOY / "Dockerfile") == ""
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
    assert "DL3006" in hadolint(tmp_path / "Dockerfile")


def test_proxies_pass_bodies_up_to_our_limit():
    for name, form in (("nginx.conf", "client_max_body_size {}m"), ("Caddyfile", "max_size {}MiB")):
        text = (DEPLOY / name).read_text()
        assert form.format(MAX_BODY_BYTES // 2**20) in text
        assert form.format(MAX_FILE_BYTES // 2**20 + 1) in text


@needs("caddy")
def test_caddy_accepts_its_file():
    checked = subprocess.run(
        ["caddy", "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")], capture_output=True
    )
    assert checked.returncode == 0, checked.stderr


def temporary(folder: Path) -> str:
    """Lines that keep nginx out of its own folders, which may not be there."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "access_log off; " + "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)


@pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="nginx or openssl is not installed")
def test_nginx_accepts_its_file_whole(tmp_path):
    certificate, key = tmp_path / "omni.pem", tmp_path / "omni.key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    ours = (DEPLOY / "nginx.conf").read_text()
    ours = ours.replace("/etc/ssl/certs/omni.pem", str(certificate)).replace("/etc/ssl/private/omni.key", str(key))
    path = tmp_path / "nginx.conf"
    path.write_text(f"pid {tmp_path}/pid; events {{}} http {{ {temporary(tmp_path)} {ours} }}")
    checked = subprocess.run([NGINX, "-t", "-c", str(path), "-p", str(tmp_path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.fixture
def nginx(service: RunningService, tmp_path):
    """A real nginx with our file, without TLS, in front of the test's service."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    ours = (DEPLOY / "nginx.conf").read_text()
    ours = re.sub(r"\n\s*ssl_\w+ [^\n]*", "", ours).replace("listen 443 ssl http2", f"listen 127.0.0.1:{port}")
    ours = ours.replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").replace("$host;", "localhost;")
    path = tmp_path / "nginx.conf"
    path.write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log; worker_processes 1;"
        f"events {{ worker_connections 64; }} http {{ {temporary(tmp_path)} {ours} }}"
    )
    os.chmod(tmp_path, 0o755)
    with subprocess.Popen([NGINX, "-c", str(path), "-p", str(tmp_path)], stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def wait_for(nginx: str) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            assert httpx2.get(f"{nginx}/livez").status_code == 200
            break
        except httpx2.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_nginx_passes_a_large_file_on_and_refuses_other_large_bodies(nginx, service: RunningService):
    wait_for(nginx)
    headers = {"Authorization": f"Bearer {service.key}"}
    form = {"data": {"purpose": "user_data"}, "files": {"file": ("a", bytes(20_000_000))}}
    with httpx2.Client(base_url=nginx, headers=headers, timeout=30) as web:
        made = web.post("/v1/files", **form)
        assert made.status_code == 200, made.text
        content = f"/v1/files/{made.json()['id']}/content"
        assert len(web.get(content).content) == 20_000_000
        assert web.get(content, headers={"Range": "bytes=5-9"}).status_code == 206
        assert web.post("/v1/chat/completions", **form).status_code == 413
        assert web.delete(f"/v1/files/{made.json()['id']}").status_code == 200


def test_nginx_passes_a_stream_on_without_buffering(nginx, service: RunningService):
    wait_for(nginx)
    body = {"model": "omni-demo", "messages": [{"role": "user", "content": "A long story!"}], "stream": True}
    headers = {"Authorization": f"Bearer {service.key}"}
    with httpx2.stream(
        "POST", f"{nginx}/v1/chat/completions", json=body | {"max_tokens": 200, "ignore_eos": True}, headers=headers
    ) as answer:
        times = [time.monotonic() for text in answer.iter_text() if "data: " in text]
    assert answer.status_code == 200
    assert len(times) > 10, "the stream came in one piece"
