"""How many lines are in flight: enough to keep the engines full, at most a share of the queue."""

from dataclasses import dataclass

from redis import Redis

from common.redis import keys

FIRST = 64
LEAST = 16
MOST = 512
SHARE = 0.5  # of OMNI_MAX_QUEUE
GROW, SHRINK = 1.5, 0.8
FEW = 0.25  # of the lines in flight, that wait: the engines may soon have nothing to take
BUSY = 0.75  # of the window
THERE = 0.5  # of the lines in flight, that are in the queue or an engine: the rest is on its way there or back


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """What the queues and engines hold, of all owners."""

    num_waiting: int
    num_running: int


def load_of(redis: "Redis") -> QueueLoad:
    """Raises RedisError."""
    queues = {queue.decode() for queue in redis.hvals(keys.QUEUES)}
    fences = [int(fence) for fence in redis.zrange(keys.WORKERS, 0, -1)]
    with redis.pipeline(transaction=False) as pipeline:
        for queue in queues:
            pipeline.zcard(keys.waiting_key(queue))
        for fence in fences:
            pipeline.hget(keys.worker_key(fence), "num_running")
        found = pipeline.execute()
    return QueueLoad(sum(found[: len(queues)]), sum(int(number or 0) for number in found[len(queues) :]))


def next_size(size: int, in_flight: int, load: QueueLoad, max_queue: int) -> int:
    """The window for the next moment. It grows while the engines take all that is sent, and others wait for nothing."""
    most = max(1, min(MOST, int(max_queue * SHARE)))
    if in_flight >= size * BUSY:
        if load.num_waiting > in_flight:
            size = max(LEAST, int(size * SHRINK))
        elif load.num_waiting < in_flight * FEW and load.num_waiting + load.num_running >= in_flight * THERE:
            size = int(size * GROW)
    return min(size, most)
