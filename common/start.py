"""What `make run` and `omni serve` start: it looks at the model, the data folder and the ports, then becomes honcho.

    python -m common.start [PROCESS ...]

Honcho gets no .env: it would put the file over the environment. Each process reads it, below the environment.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from common.data_folder import FolderRefused, take
from common.listener import Address, AddressTaken, listen
from common.model_source import check_model
from common.settings import ROOT, Settings, SettingsError, refuse, settings_or_exit

PROCFILE = ROOT / "Procfile"


def check(settings: Settings, processes: Sequence[str]) -> None:
    """Raises what would end one of these processes, in one sentence; nothing that it took is held afterwards."""
    if "worker" in processes:
        check_model("OMNI_MODEL", settings.model)
    if "embedder" in processes and settings.embedding_model:
        check_model("OMNI_EMBEDDING_MODEL", settings.embedding_model)
    with ExitStack() as held:
        if "redis" in processes and not settings.redis_url:
            held.callback(os.close, take(settings.data_dir.resolve()))
        if "api" in processes:
            held.enter_context(listen(Address.of_api(settings.host, settings.port)))
        if "dashboard" in processes:
            held.enter_context(listen(Address.of_dashboard(settings.dashboard_port)))


def main() -> None:
    os.chdir(ROOT)  # before .env and relative folders are looked for
    settings = settings_or_exit()
    try:
        check(settings, sys.argv[1:] or [line.partition(":")[0] for line in PROCFILE.read_text().splitlines()])
    except (SettingsError, FolderRefused, AddressTaken) as error:
        refuse(str(error))
    os.execv(sys.executable, [sys.executable, "-m", "honcho", "start", "-e", os.devnull, *sys.argv[1:]])


if __name__ == "__main__":
    main()
