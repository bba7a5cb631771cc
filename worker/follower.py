"""A rank above 0 of a model over several devices: python -m worker.follower RANK SIZE tcp://HOST:PORT."""

import logging
import signal
import sys

from common.logs import set_up_logging
from common.settings import Settings, settings_or_exit
from worker.configuration import engine_config
from worker.load_failure import give_up
from worker.models.loader import load
from worker.process_setup import prepare_process
from worker.ranks import Ranks
from worker.runners.tensor_parallel import follow

logger = logging.getLogger("omni.worker")


def run(settings: Settings, ranks: Ranks) -> int:
    """Load this rank's share of the model and compute. Returns when rank 0 is gone."""
    ranks.join()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # rank 0 returns its jobs first, and ends this process then
    config = engine_config(settings, ranks.size)
    try:
        loaded = load(settings.model.source, settings.model.names, config, lambda what, share: None)
    except Exception as error:  # as in worker.main
        give_up(f"OMNI_MODEL={settings.model.source}", error)
    try:
        follow(loaded, config)
    except RuntimeError as error:  # the connection to rank 0 broke
        logger.warning("rank %d ends: %s", ranks.rank, str(error).partition("\n")[0])
    return 1


def main() -> int:
    prepare_process()  # OpenMP's part is inherited from the worker that starts this process
    settings = settings_or_exit()
    set_up_logging(settings.operator.log_level)
    rank, size, address = sys.argv[1:]
    return run(settings, Ranks(int(rank), int(size), address))


if __name__ == "__main__":
    sys.exit(main())
