"""The few settings a supervisor needs, read by a child that ends: parents stay small, for pydantic weighs 20 MB."""

import json
import os
import sys
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class SmallSettings:
    host: str
    port: int
    dashboard_port: int
    api_processes: int
    step_timeout: float
    log_format: str
    can_fork: bool  # a worker may be forked from a process that has imported everything
    is_needed: bool  # the setting that was asked about is not empty
    by_honcho: bool


def read_small_settings(needed: str | None) -> SmallSettings:
    """Exits with the child's status when it refused a setting; it has said which."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(writer, needed)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        found = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        sys.exit(status)
    return SmallSettings(**json.loads(found))


def _answer(writer: int, needed: str | None) -> None:
    """In the child, which never returns."""
    status = 1
    try:
        from common.settings import settings_or_exit, started_by_honcho, torchrun_place

        settings = settings_or_exit()
        names = ("host", "port", "dashboard_port", "api_processes", "step_timeout", "log_format")
        is_alone = settings.tensor_parallel == 1 and torchrun_place() is None
        small = SmallSettings(
            **{name: getattr(settings, name) for name in names},
            can_fork=sys.platform == "linux" and is_alone,
            is_needed=not needed or bool(getattr(settings, needed)),
            by_honcho=started_by_honcho(),
        )
        os.write(writer, json.dumps(asdict(small)).encode())
        status = 0
    except SystemExit as refused:
        status = int(refused.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(status)
