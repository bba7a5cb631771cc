"""RQ's layout in Redis, which the scripts write in RQ's place. tests/test_seams.py checks it against RQ."""

from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType

RQ_JOB = "rq:job:"  # + job; hash
RQ_QUEUES = "rq:queues"  # set of the queues' keys
RQ_QUEUE = "rq:queue:"  # + queue; list of jobs
RQ_SCHEDULED = "rq:scheduled:"  # + queue; sorted set of jobs by time (s): the scheduled registry
RQ_WIP = "rq:wip:"  # + queue; sorted set of executions: the started registry
RQ_EXECUTION = "rq:execution:"  # + job:fence; hash
RQ_EXECUTIONS = "rq:executions:"  # + job; sorted set
RQ_WORKER = "rq:worker:"  # + worker
RQ_WORKER_EXECUTIONS = ":executions"  # behind RQ_WORKER + worker; set
RQ_STATUS: Mapping[str, str] = MappingProxyType({"finished": "finished", "failed": "failed", "cancelled": "canceled"})
RQ_REGISTRY: Mapping[str, str] = MappingProxyType(  # our state -> registry, + queue; sorted set
    {"finished": "rq:finished:", "failed": "rq:failed:", "cancelled": "rq:canceled:"}
)


def now_iso() -> str:
    """Now, in RQ's time format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
