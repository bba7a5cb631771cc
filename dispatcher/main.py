"""The dispatcher's process.

python -m dispatcher.main
"""

import argparse
import logging
import os
import signal
import sys
from contextlib import suppress

from common.files.storage import FileStorage
from common.logs import set_up_logging
from common.outbox.stream import Outbox
from common.process.processes import die_with_parent
from common.records.database import Records, StoreError
from common.records.migrate import SchemaTooNew
from common.redis.connection import connect
from common.settings import Settings, refuse, settings_or_exit
from dispatcher import housekeeping
from dispatcher.archive import Archive
from dispatcher.batches.task import BatchTask
from dispatcher.lease import Lease
from dispatcher.outbox import APPLIERS, OutboxConsumer
from dispatcher.task import Task, run_all
from dispatcher.webhooks.feed import WebhookFeed
from dispatcher.webhooks.pool import WebhookWorkers
from dispatcher.webhooks.schedule import Schedule

logger = logging.getLogger("omni.dispatcher")


def run(settings: Settings, schedule: Schedule) -> int:
    """Take the lease, then run every task until a signal. Raises SchemaTooNew."""
    workers = WebhookWorkers(settings, housekeeping.run, schedule)
    workers.start()  # it forks: first of all
    redis = connect(settings.redis.url)
    records = Records(settings.store_url)
    with suppress(StoreError):  # while it is away the tasks wait for it
        records.engine()
    storage = FileStorage(settings.files_url)
    lease = Lease(redis, records)
    archive = Archive(redis, settings.store.ttl)
    appliers = (*APPLIERS, archive.apply)
    tasks: list[Task] = [
        OutboxConsumer(Outbox(redis), records, lease.check, appliers, archive.committed),
        BatchTask(settings, redis, records, storage, lease),
        WebhookFeed(records, redis, lease.check, schedule),
        workers,
    ]
    status = run_all(lease, tasks)
    lease.give_up()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(prog="dispatcher.main")
    parser.add_argument("--webhook-scale", type=float, default=1.0, help="of the pauses between attempts, for tests")
    args = parser.parse_args()
    settings = settings_or_exit()
    die_with_parent()
    set_up_logging(settings.operator.log_level)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # run_all() waits for them
    try:
        status = run(settings, Schedule().scaled(args.webhook_scale))
    except SchemaTooNew as error:
        refuse(error.message)
    logging.shutdown()
    os._exit(status)  # threads that wait for a slow answer are not waited for: what they do may be done again


if __name__ == "__main__":
    sys.exit(main())
