"""Mutations: each breaks one mechanism in a process, and a test must notice. Production code has no part in this."""

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# name -> (script, text, replacement). A text that the script no longer has is an error, not a pass.
SCRIPTS: dict[str, list[tuple[str, str, str]]] = {
    "no_fence": [
        ("append.lua", "if not is_alive(fence) then return {'fenced'} end", ""),
        ("append.lua", "if state ~= 'running' or holder ~= fence then", "if state ~= 'running' then"),
        ("append.lua", "redis.call('HGET', FENCES, fence)", "'fake'"),
        ("renew.lua", "if not is_alive(fence) then return false end", ""),
        ("renew.lua", "redis.call('HGET', FENCES, fence)", "'fake'"),
    ],
    "no_entry_numbers": [
        ("append.lua", "if seq > size + 1 then", "if false then"),
        ("append.lua", "elseif seq == size + 1 then", "else"),
        ("append.lua", "redis.call('XADD', log, seq .. '-0'", "redis.call('XADD', log, (size + 1) .. '-0'"),
    ],
    "no_crash_count": [
        ("reclaim.lua", "redis.call('HINCRBY', key, 'crashes', 1)", "0"),
        ("reclaim.lua", "redis.call('HINCRBY', key, 'solo', 1)", "0"),
    ],
    "no_blame": [("reclaim.lua", "if is_crash and (is_suspect[id] or num_suspects == 0) then", "if false then")],
    "no_reclaim": [("reclaim.lua", "redis.call('EXISTS', WORKER .. fence) == 0", "false")],
    "no_limit": [("submit.lua", "if num_before >= tonumber(max_queue)", "if false")],
    "full_for_all": [("submit.lua", "and has_some > 0 then", "then")],
    "no_idempotency": [("submit.lua", "if known and", "if false and")],
    "idempotency_not_scoped": [("submit.lua", "IDEM .. owner .. ':' .. idem_hash", "IDEM .. idem_hash")],
    "no_deadline": [("expire.lua", "cancel(id, 'timeout'", "tostring(id, 'timeout'")],
    "moved_but_not_removed": [("expire.lua", "redis.call('ZREM', LATER .. queue, id)", "")],
    "backlog_only_grows": [("lib.lua", "count_waiting(id, queue, -1)", "")],
    "no_reader_grace": [("expire.lua", "cancel(id, 'client_gone'", "tostring(id, 'client_gone'")],
    "keyed_jobs_die_at_once": [("cancel.lua", "and idem then", "and false then")],
    "no_rq_state": [
        ("lib.lua", "redis.call('HSET', job, 'status', RQ_STATUS[state]", "redis.call('HSET', job, 'was', ''"),
    ],
    "skip_the_head": [("claim.lua", "head_of(queue)", "redis.call('ZRANGE', WAITING .. queue, -1, -1)[1]")],
    "drop_the_log_on_making_room": [
        ("claim.lua", "local is_paused =", "redis.call('DEL', LOG .. other)\nlocal is_paused ="),
    ],
    "drop_the_log_on_giving_back": [
        ("give_back.lua", "requeue(id, queue,", "redis.call('DEL', LOG .. id)\nrequeue(id, queue,"),
    ],
    "no_class_base": [("submit.lua", "local class = base + priority", "local class = priority")],
    "shares_across_tiers": [
        ("lib.lua", "return redis.call('HGET', JOB .. id, 'tier') or 'default'", "return 'default'"),
        ("lib.lua", "return tier or 'default',", "return 'default',"),
        ("submit.lua", "local class = base + priority", "local class = base + priority\ntier = 'default'"),
        ("append.lua", "tier or 'default'", "'default'"),
    ],
    "claims_not_numbered": [("claim.lua", "if last_number == number then", "if false then")],
    "no_share_of_memory": [("submit.lua", "if kept + most > max_kept then", "if false then")],
    "no_memory_reserve": [
        ("submit.lua", "if most > free then return {'memory', 'used', used, 'limit', max_memory} end", ""),
        ("submit.lua", "if kept + most > max_kept then", "if false then"),
    ],
    "removals_open_a_full_redis": [
        ("submit.lua", "if most > free then return {'memory', 'used', used, 'limit', max_memory} end", ""),
        ("submit.lua", "if kept + most > max_kept then", "if false then"),
        ("submit.lua", "redis.call('SETRANGE', TICKET, 0, '')", ""),
    ],
    "kept_forever": [("lib.lua", "jobs, id)\n    keep(owner, id, 0)", "jobs, id)")],
    "any_eviction_policy": [
        ("submit.lua", "if policy ~= 'noeviction' then return {'evicts', 'policy', policy} end", ""),
    ],
    "keys_outlive_jobs": [("lib.lua", "if idem then redis.call('EXPIRE', idem, ttl) end", "")],
}  # fmt: skip


undo: list[Callable[[], None]] = []


def patch(owner: Any, name: str, value: Any) -> None:
    """Set an attribute so that mend() can put the old one back."""
    old = getattr(owner, name)
    undo.append(lambda: setattr(owner, name, old))
    setattr(owner, name, value)


def mend() -> None:
    while undo:
        undo.pop()()


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Within the context, one mechanism of this process is broken."""
    try:
        if name in SCRIPTS:
            break_scripts({name})
        else:
            {**WORKER, **API, **EMBEDDED}[name]()
        yield
    finally:
        mend()


def named() -> set[str]:
    return {name for name in os.environ.get("CHAOS_MUTATIONS", "").split(",") if name}


def break_scripts(names: set[str]) -> None:
    """Give the process a copy of the scripts with the named lines changed."""
    import common.redis.script

    changes = [change for name in names for change in SCRIPTS.get(name, [])]
    if not changes:
        return
    folder = Path(tempfile.mkdtemp(prefix="omni-scripts-"))
    for path in common.redis.script.FOLDER.glob("*.lua"):
        text = path.read_text()
        for file, old, new in changes:
            if file == path.name:
                if old not in text:
                    raise LookupError(f"{file} has no {old!r} any more; bring tests/chaos/mutations.py up to date")
                text = text.replace(old, new)
        (folder / path.name).write_text(text)
    use_scripts(folder)


def use_scripts(folder: Path) -> None:
    import common.redis.script

    undo.append(lambda: shutil.rmtree(folder))
    patch(common.redis.script, "FOLDER", folder)
    patch(common.redis.script.Scripts.__init__, "__defaults__", (folder,))
    if "worker.jobs.publisher" in sys.modules:
        patch(sys.modules["worker.jobs.publisher"], "FOLDER", folder)


def break_worker() -> None:
    import common.redis.keys
    from tests.chaos.killpoints import IN_THE_API, PLACES, arm

    common.redis.keys.READER_GRACE_S = float(os.environ.get("CHAOS_READER_GRACE_S", "30"))
    break_scripts(named())
    arm(PLACES.keys() - set(IN_THE_API))
    for name in named() & WORKER.keys():
        WORKER[name]()


def break_embedded() -> None:
    for name in named() & EMBEDDED.keys():
        EMBEDDED[name]()


def break_api() -> None:
    import api.gate.client_watch
    import common.redis.keys
    from tests.chaos.killpoints import IN_THE_API, arm

    common.redis.keys.READER_GRACE_S = float(os.environ.get("CHAOS_READER_GRACE_S", "30"))
    api.gate.client_watch.SEND_TIMEOUT_S = float(os.environ.get("CHAOS_SEND_TIMEOUT_S", "30"))
    break_scripts(named())
    arm(IN_THE_API)
    for name in named() & API.keys():
        API[name]()


def no_gap_fill() -> None:
    """Each published entry is taken, and the log is never read."""
    import api.jobs.answers
    from api.jobs import events as api_events
    from common.wire import Failed, Finished

    def events(store: Any, subscription: Any, after: int, *, is_new: bool, log: Any = None) -> Any:
        while True:
            for entry in subscription.take():
                yield entry
                if isinstance(entry.event, (Finished, Failed)):
                    return
            if subscription.is_client_gone:
                raise api_events.ClientGone
            if subscription.is_closing:
                yield api_events.Closing()
                return
            subscription.wake.wait(1.0)
            subscription.wake.clear()

    patch(api_events, "events", events)
    patch(api.jobs.answers, "events", events)


def no_sweep() -> None:
    """Only published entries: a lost last one is not noticed."""
    from api.jobs.hub import EventHub

    patch(EventHub, "_update", lambda self, job_ids: None)


def no_published_entries() -> None:
    """Only the sweep. Entries come late, but none is lost: the checker must stay green."""
    from api.jobs.hub import EventHub

    patch(EventHub, "dispatch", lambda self, message: None)


def unbounded_readers() -> None:
    import api.jobs.subscription

    patch(api.jobs.subscription, "MAX_LIVE_ENTRIES", 10**9)


def rewind_unnoticed() -> None:
    from api.jobs import events as api_events

    patch(api_events, "_check", lambda store, job_id, seq: None)


def two_step_submit() -> None:
    """The job first, the queue afterwards: a process that dies in between leaves half a job."""
    import common.redis.script
    from common.redis.store import Store

    folder = Path(tempfile.mkdtemp(prefix="omni-scripts-"))
    for path in common.redis.script.FOLDER.glob("*.lua"):
        text = path.read_text()
        if path.name == "submit.lua":
            assert "join_queue(id, queue, ticket, view)" in text
            text = text.replace("join_queue(id, queue, ticket, view)", "")
        (folder / path.name).write_text(text)
    (folder / "push.lua").write_text(
        "local id, queue = unpack(ARGV)\n"
        "join_queue(id, queue, redis.call('HGET', JOB .. id, 'ticket'), view_of(queue, now_ms()))\n"
    )
    use_scripts(folder)
    real = Store.submit

    def submit(self: Store, submission: Any, rq_job: Any) -> Any:
        placed = real(self, submission, rq_job)
        if named() and random.random() < 0.2:
            os.kill(os.getpid(), 9)
        self._scripts.run("push", placed.job_id, submission.queue)
        return placed

    patch(Store, "submit", submit)


def ignore_client_gone() -> None:
    from api.jobs.subscription import Subscription

    patch(Subscription, "client_gone", lambda self: None)


def cut_on_sigterm() -> None:
    from api.jobs.hub import EventHub

    patch(EventHub, "stop", lambda self: None)


def end_cleanly() -> None:
    """A process that stops ends its streams as if they were complete."""
    from api.jobs.frames import Frames

    patch(Frames, "closing", lambda self, error: b"")


def publish_before_append() -> None:
    """Publish an entry first, append it to the log afterwards."""
    import json

    from common.redis import keys
    from common.wire_codec import encode_event
    from worker.jobs.publisher import Publisher

    real = Publisher.send

    def send(self: Publisher, events: Any) -> list[str]:
        entries = []
        for job_id, event in events:
            if (progress := self._progress.get(job_id)) is not None:
                entries.append([job_id, progress.num_entries + 1, json.loads(encode_event(event))])
        if entries:
            self._redis.publish(keys.EVENTS, json.dumps(entries))
            if named() and random.random() < 0.01:
                os.kill(os.getpid(), 9)
        return real(self, events)

    patch(Publisher, "send", send)


def redraw_on_resume() -> None:
    """A continued job samples other tokens, as it would with a random generator of the process."""
    from tests.chaos.fake_worker import FakeEngine, text_at

    real = FakeEngine.add

    def add(self: FakeEngine, request: Any, logged: Any, *, is_suspect: bool = False) -> None:
        real(self, request, logged, is_suspect=is_suspect)
        if logged and request.id in self.running:
            self.redrawn = getattr(self, "redrawn", set()) | {request.id}  # type: ignore[attr-defined]

    def text_of(self: FakeEngine, running: Any, position: int) -> str:
        is_redrawn = running.request.id in getattr(self, "redrawn", set())
        return text_at(running.seed ^ is_redrawn, position)

    patch(FakeEngine, "add", add)
    patch(FakeEngine, "text_of", text_of)


def regenerate_from_the_start() -> None:
    """A continued job starts over, as with a plain retry."""
    from tests.chaos.fake_worker import FakeEngine

    real = FakeEngine.add

    def add(self: FakeEngine, request: Any, logged: Any, *, is_suspect: bool = False) -> None:
        real(self, request, {}, is_suspect=is_suspect)

    patch(FakeEngine, "add", add)


def no_room_made() -> None:
    """A full worker makes no room for other keys."""
    from worker.jobs.served_model import ServedModel

    patch(ServedModel, "make_room", lambda self: None)


def regenerate_after_making_room() -> None:
    """A job that made room starts over, and appends to the log of its first part."""
    from dataclasses import replace

    from worker.jobs.ledger import Ledger

    real = Ledger.claim

    def claim(self: Ledger, *args: Any) -> Any:
        found = real(self, *args)
        return replace(found, logged={}) if found is not None and found.num_made_room else found

    patch(Ledger, "claim", claim)


def ignore_cancels() -> None:
    from worker.jobs.heartbeat import Inbox

    patch(Inbox, "take_cancels", lambda self: [])


def no_hang_watch() -> None:
    """The worker does not report its steps to the parent."""
    from worker.jobs.hang_watch import HangWatch

    patch(HangWatch, "run", lambda self, work, fence: work())


def no_release() -> None:
    """A deploy looks like a crash."""
    from worker.jobs.ledger import Ledger

    patch(Ledger, "release", lambda self: 0)


def drop_entries_when_redis_is_away() -> None:
    """The publisher does not send again."""
    from worker.jobs.publisher import Publisher

    real = Publisher._read

    def read(self: Publisher) -> Any:
        try:
            return real(self)
        except Exception:
            time.sleep(0.05)
            return []

    patch(Publisher, "_read", read)


def all_stops_at_full_memory() -> None:
    import common.redis.script

    patch(common.redis.script, "GO_ON", "")


def keep_what_has_a_gap() -> None:
    """A worker whose log was rewound drops the job without giving it back."""
    from worker.jobs.ledger import Ledger

    patch(Ledger, "give_back", lambda self, job_id: None)


def no_lock() -> None:
    """A start takes the folder without asking for its lock."""
    import common.process.data_folder

    patch(common.process.data_folder, "lock_descriptor", lambda fd, blocking: True)
    patch(common.process.data_folder, "is_answered", lambda path: False)


EMBEDDED = {function.__name__: function for function in (no_lock,)}
WORKER = {
    function.__name__: function
    for function in (
        publish_before_append,
        redraw_on_resume,
        regenerate_from_the_start,
        no_room_made,
        regenerate_after_making_room,
        ignore_cancels,
        no_hang_watch,
        no_release,
        drop_entries_when_redis_is_away,
        keep_what_has_a_gap,
        all_stops_at_full_memory,
    )
}
API = {
    function.__name__: function
    for function in (
        no_gap_fill,
        no_sweep,
        no_published_entries,
        unbounded_readers,
        rewind_unnoticed,
        two_step_submit,
        ignore_client_gone,
        cut_on_sigterm,
        end_cleanly,
    )
}
