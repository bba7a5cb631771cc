"""omni doctor: check what the service needs, with advice for each thing that is missing."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from http.client import HTTPException
from importlib import util
from pathlib import Path
from types import MappingProxyType
from urllib.request import ProxyHandler, build_opener

import click
from redis.exceptions import NoPermissionError, RedisError
from rich.text import Text

from cli.machine_findings import Finding, gpu_finding, package_finding, python_finding
from cli.terminal import console, json_option, show_json
from common.addresses import url_of
from common.model.folder import size_of_weights
from common.model.gpu_driver import device_fault
from common.model.source import check_generating, check_model, table_fault
from common.process.data_folder import folder_fault, is_answered, owner_of
from common.process.listener import Address, AddressTaken, listen
from common.process.start import have_one_port
from common.redis.connection import connect
from common.redis.server import open_hosts
from common.settings import PUBLIC_KEY, Settings, SettingsError
from common.shelf.table import TableModel

SECOND_START = "another OMNI_DATA_DIR, OMNI_PORT and OMNI_DASHBOARD_PORT"
MIN_DISK_BYTES = 2 * 2**30
MARKS = MappingProxyType({"good": ("ok", "green"), "warn": ("warn", "yellow"), "bad": ("BAD", "red")})


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check Python, packages, GPU, Redis, disk, port, model and keys. Exit status 1 when something is BAD."""
    findings = [*environment_findings()]
    try:
        settings = context.obj["settings"]()
    except SettingsError as error:
        findings.append(Finding("bad", f"settings: {error}", "Correct the environment or .env."))
    else:
        findings += settings_findings(settings)
    if as_json:
        show_json([asdict(finding) for finding in findings])
    else:
        show(findings)
    context.exit(int(any(finding.level == "bad" for finding in findings)))


def show(findings: list[Finding]) -> None:
    out = console()
    for finding in findings:
        text, colour = MARKS[finding.level]
        out.print(Text.assemble((f"{text:4}", colour), f"  {finding.what}"))
        if finding.todo:
            out.print(Text(f"      -> {finding.todo}"))


def environment_findings() -> Iterator[Finding]:
    yield python_finding()
    yield package_finding()
    if util.find_spec("torch") is not None:
        yield gpu_finding()


def settings_findings(settings: Settings) -> Iterator[Finding]:
    checks: tuple[Callable[[Settings], Finding], ...] = (
        redis_finding,
        redis_access_finding,
        folder_finding,
        disk_finding,
        port_finding,
        dashboard_finding,
        key_finding,
    )
    for check in checks:
        yield check(settings)
    if fault := device_fault(settings.model.device):
        yield Finding("bad", fault, "docs/operations/gpu-server.md goes from the driver to torch.")
    if settings.models:
        yield from (table_finding(settings.shelf.table, model) for model in settings.models)
    else:
        yield model_finding(settings)


def redis_finding(settings: Settings) -> Finding:
    try:
        redis = connect(settings.redis.url, retries=0)
        redis.ping()
        info = redis.info()
        policy = info.get("maxmemory_policy", "noeviction")
    except NoPermissionError:
        what = "Redis answers; whether it may evict keys is not known, as its user may not ask (INFO)"
        return Finding("warn", what, "See to it that its maxmemory-policy is noeviction.")
    except RedisError as error:
        if not settings.redis.given_url:
            return Finding("good", "Redis: the embedded Valkey, which starts with the service")
        return Finding("bad", f"Redis does not answer: {error}", "Start it, or correct REDIS_URL.")
    version = info.get("valkey_version") or info["redis_version"]
    if policy != "noeviction":
        return Finding("bad", f"Redis {version} may evict keys ({policy})", "Set maxmemory-policy to noeviction.")
    if settings.redis.given_url and not int(info.get("maxmemory", 0)):
        return Finding(
            "warn", f"Redis {version} has no maxmemory", "Set it, or one API key may fill the machine's memory."
        )
    if settings.redis.given_url and not int(info.get("aof_enabled", 0)):
        return Finding(
            "warn",
            f"Redis {version} keeps no append-only file",
            "Set appendonly yes, so that jobs survive its restart.",
        )
    return Finding("good", f"Redis {version} answers, {info['used_memory_human']} used")


def redis_access_finding(settings: Settings) -> Finding:
    if hosts := open_hosts(settings.redis.given_url):
        todo = "Give it users with passwords (deploy/valkey/users.conf) and name one in REDIS_URL."
        return Finding("bad", f"REDIS_URL leads to {hosts} without a password", todo)
    return Finding("good", "Redis is on this machine, or asks for a password")


def folder_finding(settings: Settings) -> Finding:
    """Whether the data folder can be used; its owner, and whether its Valkey answers."""
    folder = settings.redis.data_dir.resolve()
    if settings.redis.given_url:
        return Finding("good", "OMNI_DATA_DIR is not in use")
    if fault := folder_fault(folder):
        return Finding("bad", fault, "Change its owner or mode, or choose another folder.")
    if (owner := owner_of(folder)) is None:
        if is_answered(settings.redis.socket_path):
            todo = "Stop the older version of this service that started it."
            return Finding("bad", "OMNI_DATA_DIR is in use by a Valkey whose owner has no lock", todo)
        return Finding("good", "OMNI_DATA_DIR is not in use")
    try:
        connect(settings.redis.url, retries=0).ping()
    except RedisError as error:
        todo = f"Look into {folder / 'valkey.log'}, or stop {owner.name} and start the service again."
        return Finding("bad", f"OMNI_DATA_DIR is in use by {owner.name}, but its Valkey does not answer: {error}", todo)
    if not is_running(url_of(settings.server.host, settings.server.port)):
        what = f"OMNI_DATA_DIR is in use by {owner.name}, but its API does not answer at OMNI_PORT"
        todo = f"It may have another port: set OMNI_PORT or --url. A second start needs {SECOND_START}."
        return Finding("warn", what, todo)
    return Finding("good", f"OMNI_DATA_DIR is in use by {owner.name}")


def disk_finding(settings: Settings) -> Finding:
    folder = settings.redis.data_dir.resolve()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    if free < MIN_DISK_BYTES:
        return Finding(
            "warn", f"{free / 2**30:.1f} GiB free in {folder}", "Make room: the queue and its logs are kept there."
        )
    return Finding("good", f"{free / 2**30:.0f} GiB free for OMNI_DATA_DIR")


def port_finding(settings: Settings) -> Finding:
    host, port = settings.server.host, settings.server.port
    if have_one_port(settings, host):
        return Finding("bad", f"OMNI_PORT and OMNI_DASHBOARD_PORT are both {port}", "Change one of them.")
    if (fault := address_fault(Address.of_api(host, port))) is None:
        return Finding("good", f"port {port} is free")
    if is_running(url_of(host, port)):
        return Finding("good", f"port {port}: the service is running there")
    return Finding("bad", fault, "Stop what listens there, or set OMNI_PORT (or OMNI_HOST).")


def dashboard_finding(settings: Settings) -> Finding:
    port = settings.operator.dashboard_port
    if (fault := address_fault(Address.of_dashboard(port))) is None:
        return Finding("good", f"dashboard port {port} is free")
    if is_running(url_of(settings.server.host, settings.server.port)):
        return Finding("good", f"dashboard port {port} is in use while the service runs")
    return Finding("bad", fault, "Stop what listens there, or set OMNI_DASHBOARD_PORT.")


def address_fault(address: Address) -> str | None:
    """Why a start could not listen there; None if it could."""
    try:
        listen(address, patience_s=0).close()
    except AddressTaken as taken:
        return str(taken).removesuffix(".")
    return None


def is_running(url: str) -> bool:
    """Whether the service's API answers there, asked past any proxy of the environment."""
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/livez", timeout=2) as response:
            return b'"alive"' in response.read(200)
    except (OSError, ValueError, HTTPException):
        return False


def model_finding(settings: Settings) -> Finding:
    try:
        check_generating(settings.model)
        if settings.embedding.source:
            check_model("OMNI_EMBEDDING_MODEL", settings.embedding.source)
    except SettingsError as error:
        setting = re.split("[=:]", str(error))[0]
        return Finding("bad", f"model: {error}".removesuffix("."), f"Correct {setting}.")
    folder = Path(settings.model.source)
    if not folder.exists():
        return Finding("good", f"model: {settings.model.source} comes from the Hugging Face hub or its cache")
    size = size_of_weights(settings.model.source)
    return Finding("good", f"model: {Path(*folder.parts[-2:])}, {size / 2**20:,.0f} MiB of weights")


def table_finding(table: str, model: TableModel) -> Finding:
    if fault := table_fault(model):
        return Finding("bad", f"{table}, {model.queue}: {fault}", "Correct its [[model]], or omni models remove it.")
    if not Path(model.source).exists():
        return Finding("good", f"model {model.queue}: {model.source} comes from the Hugging Face hub or its cache")
    size = size_of_weights(model.source)
    return Finding("good", f"model {model.queue}: {model.source}, {size / 2**20:,.0f} MiB of weights")


def key_finding(settings: Settings) -> Finding:
    if settings.server.is_loopback:
        return Finding("good", "listens on this machine only")
    if PUBLIC_KEY in settings.server.api_keys:
        todo = "Set OMNI_API_KEYS (and OMNI_ADMIN_KEYS) to random keys: openssl rand -base64 32"
        return Finding("bad", f"OMNI_HOST is {settings.server.host} and the API key is the public default", todo)
    if not settings.server.admin_keys:
        return Finding("warn", "there is no admin key: the board and /metrics are closed", "Set OMNI_ADMIN_KEYS.")
    return Finding("good", f"{counted(settings.server.api_keys, 'API')}, {counted(settings.server.admins, 'admin')}")


def counted(keys: tuple[str, ...], kind: str) -> str:
    return f"{len(keys)} {kind} key{'' if len(keys) == 1 else 's'}"
