"""Controls: each breaks one mechanism in the child process, and a test must notice.

Production code knows nothing of this.
"""

import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

# name -> what to write instead, in which script. A line that is not there any more is an error, not a pass.
SCRIPTS: dict[str, list[tuple[str, str, str]]] = {
    "no_fence": [
        ("append.lua", "if not is_alive(fence) then return {'fenced'} end", ""),
        ("append.lua", "if f[1] ~= 'running' or f[2] ~= fence then", "if f[1] ~= 'running' then"),
        ("renew.lua", "if not is_alive(fence) then return false end", ""),
    ],
    "no_row_numbers": [
        ("append.lua", "if seq > size + 1 then", "if false then"),
        ("append.lua", "elseif seq == size + 1 then", "else"),
        ("append.lua", "redis.call('XADD', log, seq .. '-0'", "redis.call('XADD', log, (size + 1) .. '-0'"),
    ],
    "no_crash_count": [
        ("reclaim.lua", "redis.call('HINCRBY', key, 'crashes', 1)", "0"),
        ("reclaim.lua", "redis.call('HINCRBY', key, 'solo', 1)", "0"),
    ],
    "no_blame": [("reclaim.lua", "if is_crash and (is_suspect or #suspects == 0) then", "if false then")],
    "no_reclaim": [("reclaim.lua", "redis.call('EXISTS', 'omni:worker:' .. fence) == 0", "false")],
    "no_limit": [("submit.lua", "if size >= tonumber(ARGV[4]) then return {'full', size} end", "")],
    "no_idempotency": [("submit.lua", "if known[1] and", "if false and")],
    "idempotency_not_scoped": [("submit.lua", "'omni:idem:' .. owner .. ':' .. ARGV[6]", "'omni:idem:' .. ARGV[6]")],
    "no_deadline": [("expire.lua", "cancel(id, 'timeout'", "local _ = (id and 'timeout'")],
    "no_reader_grace": [("expire.lua", "cancel(id, 'client_gone'", "local _ = (id and 'client_gone'")],
    "no_rq_state": [
        ("lib.lua", "redis.call('HSET', rq, 'status', RQ_STATUS[state]", "redis.call('HSET', rq, 'was', ''"),
    ],
    "skip_the_head": [
        ("claim.lua", "redis.call('ZRANGE', line, 0, 0)[1]\n  if not", "redis.call('ZRANGE', line, -1, -1)[1]\n  if not"),
    ],
    "claims_not_numbered": [("claim.lua", "if number == ARGV[6] then", "if false then")],
}  # fmt: skip


def named() -> set[str]:
    return {name for name in os.environ.get("CHAOS_MUTATIONS", "").split(",") if name}


def break_scripts() -> None:
    """Give the process a copy of the scripts with the named lines changed."""
    import common.script

    changes = [change for name in named() for change in SCRIPTS.get(name, [])]
    if not changes:
        return
    folder = Path(tempfile.mkdtemp(prefix="omni-scripts-"))
    for path in common.script.FOLDER.glob("*.lua"):
        text = path.read_text()
        for file, old, new in changes:
            if file == path.name:
                if old not in text:
                    raise LookupError(f"{file} has no {old!r} any more; bring tests/chaos/mutations.py up to date")
                text = text.replace(old, new)
        (folder / path.name).write_text(text)
    common.script.FOLDER = folder
    common.script.Scripts.__init__.__defaults__ = (folder,)


def break_worker() -> None:
    from tests.chaos.killpoints import arm

    break_scripts()
    arm()
    for name in named() & WORKER.keys():
        WORKER[name]()


def break_api() -> None:
    import common.store
    from tests.chaos.killpoints import arm

    if grace := os.environ.get("CHAOS_READER_GRACE_S"):
        common.store.READER_GRACE_S = float(grace)  # type: ignore[assignment]
    if seconds := os.environ.get("CHAOS_SEND_TIMEOUT_S"):
        import api.client_watch

        api.client_watch.SEND_TIMEOUT_S = float(seconds)
    break_scripts()
    arm()
    for name in named() & API.keys():
        API[name]()


def no_gap_fill() -> None:
    """A reader takes whatever row comes next and never looks into the log."""
    import api.answers
    from api import generation
    from common.wire import Failed, Finished

    def events(store: Any, reader: Any, after: int, *, is_new: bool) -> Any:
        while True:
            for row in reader.take():
                yield row
                if isinstance(row.event, (Finished, Failed)):
                    return
            if reader.is_client_gone:
                raise generation.ClientGone
            if reader.is_closing:
                yield generation.Closing()
                return
            reader.wake.wait(1.0)
            reader.wake.clear()

    generation.events = api.answers.events = events


def no_sweep() -> None:
    """Only live rows: nobody looks whether the last one was lost."""
    from api.hub import EventHub

    EventHub._tell = lambda self, job_ids: None  # type: ignore[method-assign]


def no_live_rows() -> None:
    """Only the sweep: late, but nothing is lost (this one must stay green)."""
    from api.hub import EventHub

    EventHub.hear = lambda self, message: None  # type: ignore[method-assign]


def unbounded_readers() -> None:
    import api.hub

    api.hub.MAX_LIVE_ROWS = 10**9


def two_step_submit() -> None:
    """The job first, the line afterwards: whoever dies in between leaves half a job."""
    import common.script

    folder = Path(tempfile.mkdtemp(prefix="omni-scripts-"))
    for path in common.script.FOLDER.glob("*.lua"):
        text = path.read_text()
        if path.name == "submit.lua":
            head, push = text.split("redis.call('ZADD', waiting, score, member)")
            (folder / "push.lua").write_text(
                "local waiting = 'omni:waiting:' .. ARGV[2]\nlocal id, queue = ARGV[1], ARGV[2]\n"
                "redis.call('ZADD', waiting, redis.call('HGET', 'omni:job:' .. id, 'score'), "
                "redis.call('HGET', 'omni:job:' .. id, 'member'))\n"
                "redis.call('RPUSH', 'rq:queue:' .. queue, id)\n"
                "redis.call('PUBLISH', 'omni:control:' .. queue, 'work')\nreturn 1\n"
            )
            text = head + "redis.call('HSET', 'rq:job:' .. id, unpack(ARGV, last_own + 1))\nreturn {'ok', 0}\n"
            assert "ZADD" in push or "RPUSH" in push
        (folder / path.name).write_text(text)
    common.script.FOLDER = folder
    common.script.Scripts.__init__.__defaults__ = (folder,)
    from common.store import Store

    real = Store.submit

    def submit(self: Store, submission: Any, rq_job: Any) -> Any:
        placed = real(self, submission, rq_job)
        if random.random() < 0.2:
            os.kill(os.getpid(), 9)
        self._scripts.run("push", placed.job_id, submission.queue)
        return placed

    Store.submit = submit  # type: ignore[method-assign]


def ignore_client_gone() -> None:
    from api.hub import Reader

    Reader.client_gone = lambda self: None  # type: ignore[method-assign]


def cut_on_sigterm() -> None:
    from api.hub import EventHub

    EventHub.stop = lambda self: None  # type: ignore[method-assign]


def publish_before_append() -> None:
    """Show a row first, make it durable in the next step."""
    import json

    from common import keys
    from common.wire import encode_event
    from worker.publisher import Publisher

    real = Publisher.send

    def send(self: Publisher, events: Any) -> list[str]:
        rows = []
        for job_id, event in events:
            if (progress := self._progress.get(job_id)) is not None:
                rows.append([job_id, progress.num_rows + 1, json.loads(encode_event(event))])
        if rows:
            self._redis.publish(keys.CHANNEL, json.dumps(rows))
            if random.random() < 0.01:
                os.kill(os.getpid(), 9)
        return real(self, events)

    Publisher.send = send  # type: ignore[method-assign]


def redraw_on_resume() -> None:
    """A continued job draws anew, as it would if randomness came from a generator of the process."""
    from tests.chaos.fake_worker import FakeEngine, Running, text_at

    FakeEngine.text_of = lambda self, running, position: text_at(running.seed ^ os.getpid(), position)  # type: ignore[method-assign]
    FakeEngine.salted = True  # type: ignore[attr-defined]
    _ = Running


def regenerate_from_the_start() -> None:
    """A continued job begins again, as with a plain retry."""
    from tests.chaos.fake_worker import FakeEngine

    real = FakeEngine.add
    FakeEngine.add = lambda self, request, logged={}, *, is_suspect=False: real(
        self, request, {}, is_suspect=is_suspect
    )  # type: ignore[method-assign]


def ignore_cancels() -> None:
    from worker.heartbeat import Inbox

    Inbox.take_cancels = lambda self: []  # type: ignore[method-assign]


def no_hang_watch() -> None:
    """The parent is never told that a step began."""
    from worker.omni_worker import OmniWorker

    real = OmniWorker.step

    def step(self: OmniWorker) -> None:
        kept, self.watch_fd = self.watch_fd, os.open(os.devnull, os.O_WRONLY)
        try:
            real(self)
        finally:
            os.close(self.watch_fd)
            self.watch_fd = kept

    OmniWorker.step = step  # type: ignore[method-assign]


def no_release() -> None:
    """A deploy looks like a crash."""
    from worker.ledger import Ledger

    Ledger.release = lambda self: 0  # type: ignore[method-assign]


def drop_rows_when_redis_is_away() -> None:
    """A publisher that does not try again."""
    from worker.publisher import Publisher

    real = Publisher._read

    def read(self: Publisher) -> Any:
        try:
            return real(self)
        except Exception:
            time.sleep(0.05)
            return []

    Publisher._read = read  # type: ignore[method-assign]


WORKER = {
    function.__name__: function
    for function in (
        publish_before_append,
        redraw_on_resume,
        regenerate_from_the_start,
        ignore_cancels,
        no_hang_watch,
        no_release,
        drop_rows_when_redis_is_away,
    )
}
API = {
    function.__name__: function
    for function in (
        no_gap_fill,
        no_sweep,
        no_live_rows,
        unbounded_readers,
        two_step_submit,
        ignore_client_gone,
        cut_on_sigterm,
    )
}
