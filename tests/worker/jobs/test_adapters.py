"""Workers follow the list of adapters, and begin a job only with the adapter that it was accepted for."""

import json
import threading
from dataclasses import replace

import pytest
from redis import Redis

from common.errors import AdapterUnloaded, InvalidRequest, ModelChanged
from common.flag import Flag
from common.redis.served.adapters import AdapterRecord, AdapterStore, full_revision
from common.wire import GenerationRequest, SamplingParams
from worker.engine.interface import NotLoaded
from worker.jobs.adapters import ServedAdapters
from worker.jobs.heartbeat import Inbox
from worker.jobs.ledger import Claim

QUEUE = "tiny"
GOOD = AdapterRecord("sql", QUEUE, "/models/sql", number=1, created=5)


class Folders:
    """AnyAdapters whose folders are names and revisions; `running` are the requests of each adapter."""

    def __init__(self) -> None:
        self.contents = {"/models/sql": "aa", "/models/de": "bb"}
        self.revisions: dict[str, str] = {}
        self.running: dict[str, list[str]] = {}

    def requests_of(self, name: str) -> list[str]:
        return self.running.get(name, [])

    def load(self, name: str, path: str) -> str:
        if path not in self.contents:
            raise InvalidRequest(f"{path} is not a folder")
        self.revisions[name] = self.contents[path]
        return self.revisions[name]

    def unload(self, name: str) -> None:
        assert not self.requests_of(name)
        del self.revisions[name]


class StandIn:
    """The parts of an engine that adapters need."""

    def __init__(self) -> None:
        self.adapters = Folders()
        self.card = self
        self.revision = "base"


class Followed:
    """A worker's adapters, with its engine and its inbox."""

    def __init__(self, store: AdapterStore) -> None:
        self.engine, self.inbox = StandIn(), Inbox(Flag())
        self.adapters = self.engine.adapters
        self.served = ServedAdapters(store, QUEUE, self.engine, self.inbox)  # type: ignore[arg-type]

    def check(self, adapter: str, revision: str) -> None:
        sampling = SamplingParams(max_tokens=1, seed=0)
        request = GenerationRequest("job", adapter or QUEUE, (1,), sampling, adapter=adapter)
        self.served.check(Claim(request, {}, 0, False, full_revision("base", revision)))

    @property
    def report(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.served.report())
        return found


@pytest.fixture
def store(redis: "Redis") -> AdapterStore:
    return AdapterStore(redis)


@pytest.fixture
def worker(store: AdapterStore) -> Followed:
    worker = Followed(store)
    worker.served.give({})
    return worker


def test_a_change_wakes_the_worker_which_loads_and_reports_it(store: AdapterStore, worker: Followed) -> None:
    worker.inbox.take_adapt()
    version = store.add(GOOD)
    assert worker.report["version"] == 0 and worker.inbox.take_adapt()
    worker.served.follow()
    assert worker.report == {"version": version, "revisions": {"sql": "aa"}, "faults": {}}
    assert not worker.inbox.take_adapt()


def test_a_model_that_is_not_loaded_offers_its_adapters_and_follows_the_list_once_it_is(store: AdapterStore) -> None:
    worker = Followed(store)
    worker.served.attach(NotLoaded(worker.engine.card))  # type: ignore[arg-type]
    worker.served.announce({"de": "/models/de"}, {"de": "bb"})
    assert store.all()["de"].is_ready
    store.add(GOOD)
    worker.served.report()
    worker.inbox.adapt()
    worker.served.follow_if_changed()
    assert worker.adapters.revisions == {} and worker.inbox.take_adapt()  # kept for later
    worker.engine.adapters.load("de", "/models/de")  # as the engine does with the table's own
    worker.served.attach(worker.engine)  # type: ignore[arg-type]
    worker.served.give({"de": "/models/de"})
    assert worker.adapters.revisions == {"de": "bb", "sql": "aa"}


def test_a_folder_that_cannot_be_loaded_is_reported_and_the_others_stay(store: AdapterStore, worker: Followed) -> None:
    store.add(GOOD)
    version = store.add(replace(GOOD, name="bad", path="/nowhere", number=2))
    worker.served.follow()
    assert worker.report["faults"] == {"bad": "/nowhere is not a folder"} and worker.report["version"] == version
    assert worker.adapters.revisions == {"sql": "aa"}
    with pytest.raises(AdapterUnloaded, match="/nowhere is not a folder"):
        worker.check("bad", "cc")


def test_running_jobs_of_an_unloaded_adapter_end_before_it_goes(store: AdapterStore, worker: Followed) -> None:
    store.add(GOOD)
    worker.served.follow()
    worker.adapters.running = {"sql": ["one", "two"]}
    version = store.remove(GOOD)
    worker.served.follow()
    ended = worker.inbox.take_cancels()
    assert [(job, reason.code) for job, reason in ended] == [("one", "adapter_unloaded"), ("two", "adapter_unloaded")]
    assert worker.adapters.revisions and worker.report["version"] != version  # not yet
    worker.adapters.running = {}
    assert worker.inbox.take_adapt()
    worker.served.follow()
    assert not worker.adapters.revisions and worker.report["version"] == version


def test_a_name_that_was_loaded_anew_is_another_adapter(store: AdapterStore, worker: Followed) -> None:
    store.add(GOOD)
    worker.served.follow()
    store.remove(GOOD)
    store.add(replace(GOOD, path="/models/de", number=2))
    worker.served.follow()
    worker.served.follow()
    assert worker.adapters.revisions == {"sql": "bb"}
    with pytest.raises(ModelChanged):
        worker.check("sql", "aa")
    worker.check("sql", "bb")


def test_a_claimed_job_s_adapter_is_loaded_before_it_begins(store: AdapterStore, worker: Followed) -> None:
    store.add(replace(GOOD, revision="aa"))
    worker.check("sql", "aa")  # the worker had not heard of it
    assert worker.adapters.revisions == {"sql": "aa"}
    worker.check("", "")
    with pytest.raises(AdapterUnloaded, match="'other' was unloaded"):
        worker.check("other", "aa")


def test_a_restarted_worker_has_those_of_the_settings_and_those_loaded_over_http(
    store: AdapterStore, worker: Followed
) -> None:
    store.add(GOOD)
    store.set_ready(replace(GOOD, revision="aa"))
    other = Followed(store)
    other.adapters.load("de", "/models/de")  # as the engine does with the settings' own
    other.served.give({"de": "/models/de"})
    assert other.adapters.revisions == {"sql": "aa", "de": "bb"}
    given = store.all()["de"]
    assert given.is_given and given.is_ready
    worker.served.follow()
    assert worker.adapters.revisions == {"sql": "aa", "de": "bb"}
    Followed(store).served.give({})  # the settings name it no longer
    assert store.all().keys() == {"sql"}


def test_other_weights_in_the_folder_are_another_revision_from_the_next_start_on(
    store: AdapterStore, worker: Followed
) -> None:
    store.add(GOOD)
    store.set_ready(replace(GOOD, revision="aa"))
    worker.adapters.contents["/models/sql"] = "changed"
    worker.served.follow()
    assert store.all()["sql"].revision == "changed"
    with pytest.raises(ModelChanged):
        worker.check("sql", "aa")


def test_one_of_several_that_take_a_name_at_once_gets_it(store: AdapterStore) -> None:
    versions: list[int] = []
    threads = [
        threading.Thread(target=lambda number=number: versions.append(store.add(replace(GOOD, number=number))))
        for number in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(bool, versions)) == [False] * 7 + [True]
    winner = store.all()["sql"]
    assert not store.remove(replace(winner, number=winner.number + 1)) and store.remove(winner)


def test_a_message_that_comes_while_the_worker_looks_for_one_is_not_lost() -> None:
    class SetAfterLook(threading.Event):
        def is_set(self) -> bool:
            was_set = super().is_set()
            self.set()
            return was_set

    inbox = Inbox(Flag())
    inbox._adapts = SetAfterLook()
    assert not inbox.take_adapt() and inbox.take_adapt()
