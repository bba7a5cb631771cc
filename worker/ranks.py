"""The processes that share one model: this process's rank, and the start and end of the others.

Rank 0 is the worker. The others (worker/follower.py) compute their share of each of its steps. If one of them dies, all
of them end; the parent process starts them again, and the jobs continue.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
from torch import distributed

from common.environment import child_environment, torchrun_place
from common.process.child import EXIT_CONFIGURATION
from common.process.processes import die_with_parent

logger = logging.getLogger("omni.worker")

NEVER = timedelta(days=3650)  # a timeout that followers of an idle worker never reach
EXIT_FOLLOWER_DIED = 76


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's rank among `size` processes that connect at `address`, by default torchrun's."""

    rank: int = 0
    size: int = 1
    address: str = "env://"

    def join(self) -> None:
        """Connect to the others. Returns when all of them have connected."""
        if self.size > 1:
            backend = "nccl" if torch.cuda.is_available() else "gloo"
            distributed.init_process_group(
                backend, init_method=self.address, rank=self.rank, world_size=self.size, timeout=NEVER
            )


def our_ranks(size: int) -> Ranks:
    """torchrun's rank, if it started this process; else rank 0 of `size` ranks, and the others are started."""
    if (place := torchrun_place()) is not None:
        return Ranks(*place)
    if size == 1:
        return Ranks()
    num_gpus = torch.cuda.device_count()
    if 0 < num_gpus < size:
        raise ValueError(f"OMNI_TENSOR_PARALLEL={size} needs as many GPUs; there are {num_gpus}.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    for rank in range(1, size):
        start_follower(Ranks(rank, size, address))
    return Ranks(0, size, address)


def start_follower(ranks: Ranks) -> None:
    """Start a process that dies with this one, and whose end ends this one."""
    command = [sys.executable, "-m", "worker.follower", str(ranks.rank), str(ranks.size), ranks.address]
    environment = child_environment(LOCAL_RANK=str(ranks.rank))  # transformers chooses the GPU by it
    process = subprocess.Popen(command, env=environment, preexec_fn=partial(die_with_parent, signal.SIGKILL))

    def wait() -> None:
        status = process.wait()
        if status == EXIT_CONFIGURATION:  # it has logged the reason; starting again would not help
            os._exit(status)
        logger.error("rank %d ended with status %d; this worker ends, to be started again", ranks.rank, status)
        os._exit(EXIT_FOLLOWER_DIED)

    threading.Thread(target=wait, name=f"rank-{ranks.rank}", daemon=True).start()
