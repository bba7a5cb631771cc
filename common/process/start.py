"""The start of `make run` and `omni serve`: check settings, model, data folder and ports, then run the Procfile
(common/process/procfile.py), which greets when the service is ready.

    python -m common.process.start [PROCESS ...]
"""

import os
import socket
import sys
from collections.abc import Container
from contextlib import ExitStack, closing
from pathlib import Path

from common.addresses import EVERYWHERE, OWN_ADDRESS, bracketed, url_of
from common.environment import HONCHO, STARTER, child_environment
from common.model.gpu_driver import device_fault
from common.model.source import check_generating, check_model
from common.process.data_folder import FolderRefused, take
from common.process.listener import Address, AddressTaken, listen
from common.process.output.greeting import Greeting
from common.process.output.log_file import log_of
from common.process.procfile import UnknownProcess, commands_of
from common.settings import PUBLIC_KEY, ROOT, Settings, SettingsError, refuse, settings_or_exit

ELSEWHERE = "192.0.2.1"  # no machine has it, and nothing is sent to it
SHOWN_OF_KEY = 4  # characters


def check(settings: Settings, processes: Container[str]) -> None:
    """Raises the error, in one sentence, that would end one of these processes. Releases whatever it took."""
    if "worker" in processes:
        if fault := device_fault(settings.model.device):
            raise SettingsError(fault)
        check_generating(settings.model)
    if "embedder" in processes and settings.embedding.source:
        check_model("OMNI_EMBEDDING_MODEL", settings.embedding.source)
    with ExitStack() as held:
        if "redis" in processes and not settings.redis.given_url:
            held.callback(os.close, take(settings.redis.data_dir.resolve()))
        if "api" in processes:
            api = held.enter_context(listen(Address.of_api(settings.server.host, settings.server.port)))
            if "dashboard" in processes and have_one_port(settings, str(api.getsockname()[0])):
                port = settings.server.port
                raise AddressTaken(f"OMNI_PORT and OMNI_DASHBOARD_PORT are both {port}; change one of them.")
        if "dashboard" in processes:
            held.enter_context(listen(Address.of_dashboard(settings.operator.dashboard_port)))


def have_one_port(settings: Settings, api_host: str) -> bool:
    """True if the API, at this address, and the dashboard would need the same port."""
    dashboard = Address.of_dashboard(settings.operator.dashboard_port)
    reaches_it = api_host in EVERYWHERE or OWN_ADDRESS.get(api_host, api_host) == dashboard.host
    return reaches_it and settings.server.port == dashboard.port


def greeting_of(settings: Settings, processes: Container[str]) -> Greeting:
    server = settings.server
    url = url_of(server.host, server.port)
    rows = [("page", f"{url}/"), ("API", f"{url}/v1"), ("model", models_of(settings)), ("board", f"{url}/board")]
    if server.host in EVERYWHERE and (address := address_of_machine()):
        rows.insert(1, ("elsewhere", f"http://{bracketed(address)}:{server.port}/ from other machines"))
    if settings.embedding.names:
        rows.insert(-1, ("embeddings", settings.embedding.names[0]))
    if "dashboard" in processes:
        rows.append(("dashboard", f"http://127.0.0.1:{settings.operator.dashboard_port}/"))
    rows.append(("next", './omni chat "Hello"   ./omni status   ./omni logs -f'))
    return Greeting(
        log=str(log_of(settings.redis.data_dir)),
        health=f"{url}/health" if "api" in processes else "",
        title="Protocol OMNI is ready",
        rows=tuple(rows),
        key=key_text(server.api_keys),
    )


def models_of(settings: Settings) -> str:
    if settings.models:
        return f"{', '.join(model.queue for model in settings.models)}: each is loaded when it is asked for"
    source = Path(settings.model.source).name
    names = settings.model.names
    return ", ".join(names) if source in names else f"{', '.join(names)} ({source})"


def key_text(keys: tuple[str, ...]) -> str:
    """The public default as it is; of any other no more than tells it from its neighbours."""
    if keys == (PUBLIC_KEY,):
        return keys[0]
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{keys[0][:SHOWN_OF_KEY]}...{more} of OMNI_API_KEYS"


def address_of_machine() -> str:
    """By which others reach this machine; empty without a network."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((ELSEWHERE, 9))
        except OSError:
            return ""
        return str(probe.getsockname()[0])


def told(greeting: Greeting) -> int:
    """A pipe with the greeting: a command line would show the key."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, greeting.encoded())
    os.close(write_fd)
    os.set_inheritable(read_fd, True)
    return read_fd


def main() -> None:
    os.chdir(ROOT)  # .env and relative folders are in it
    settings = settings_or_exit()
    try:
        processes = commands_of(sys.argv[1:])
        check(settings, processes)
    except (SettingsError, FolderRefused, AddressTaken, UnknownProcess) as error:
        refuse(str(error))
    # a new program, without the 30 MB that the checks have loaded
    words = ["-m", "common.process.procfile", "--told-fd", str(told(greeting_of(settings, processes)))]
    environment = child_environment(**{HONCHO: None, STARTER: str(os.getpid())})
    os.execve(sys.executable, [sys.executable, *words, *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
