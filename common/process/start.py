"""The start of `make run` and `omni serve`: check settings, model, data folder and ports, then run the Procfile
(common/process/procfile.py).

    python -m common.process.start [PROCESS ...]
"""

import os
import sys
from collections.abc import Container
from contextlib import ExitStack

from common.environment import HONCHO, ON_TERMINAL, STARTER, child_environment
from common.model.source import check_generating, check_model
from common.process.data_folder import FolderRefused, take
from common.process.listener import Address, AddressTaken, listen
from common.process.procfile import UnknownProcess, commands_of
from common.settings import ROOT, Settings, SettingsError, refuse, settings_or_exit

EVERYWHERE = ("0.0.0.0", "::")


def check(settings: Settings, processes: Container[str]) -> None:
    """Raises the error, in one sentence, that would end one of these processes. Releases whatever it took."""
    if "worker" in processes:
        check_generating(settings.model)
    if "embedder" in processes and settings.embedding.source:
        check_model("OMNI_EMBEDDING_MODEL", settings.embedding.source)
    with ExitStack() as held:
        if "redis" in processes and not settings.redis.given_url:
            held.callback(os.close, take(settings.redis.data_dir.resolve()))
        if "api" in processes:
            api = held.enter_context(listen(Address.of_api(settings.server.host, settings.server.port)))
            if "dashboard" in processes:
                check_dashboard_port(settings, str(api.getsockname()[0]))
        if "dashboard" in processes:
            held.enter_context(listen(Address.of_dashboard(settings.operator.dashboard_port)))


def check_dashboard_port(settings: Settings, api_host: str) -> None:
    """Raises AddressTaken if API and dashboard have the same port."""
    dashboard = Address.of_dashboard(settings.operator.dashboard_port)
    if settings.server.port == dashboard.port and api_host in (dashboard.host, *EVERYWHERE):
        raise AddressTaken(f"OMNI_PORT and OMNI_DASHBOARD_PORT are both {dashboard.port}; change one of them.")


def main() -> None:
    os.chdir(ROOT)  # .env and relative folders are in it
    settings = settings_or_exit()
    try:
        check(settings, commands_of(sys.argv[1:]))
    except (SettingsError, FolderRefused, AddressTaken, UnknownProcess) as error:
        refuse(str(error))
    # a new program, without the 30 MB that the checks have loaded
    is_terminal = sys.stdout.isatty()
    environment = child_environment(
        **{HONCHO: None, ON_TERMINAL: "1" if is_terminal else None, STARTER: str(os.getpid())}
    )
    os.execve(sys.executable, [sys.executable, "-m", "common.process.procfile", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
