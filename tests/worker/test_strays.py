"""Jobs of models that a service has no more are told of when its worker starts."""

import logging

from common.redis.directory import Directory
from common.settings import read_settings
from tests.chaos.scenarios import Stage
from worker.jobs.ledger import Ledger
from worker.main import warn_of_stray_jobs


def test_jobs_of_a_model_that_is_served_no_more_are_counted_in_the_log(redis, caplog) -> None:
    redis.hset("omni:queues", mapping={"kept": "kept", "gone": "gone", "alias": "gone", "other": "other"})
    stage = Stage(redis)
    for seed, queue in enumerate(("gone", "gone", "kept", "other")):
        stage.submit(seed, queue=queue)
    other = Ledger(redis, "other", "another service")
    other.register()
    with caplog.at_level(logging.WARNING):
        warn_of_stray_jobs(read_settings({"OMNI_MODEL": "demo", "OMNI_MODEL_NAME": "kept"}), redis)
    assert [record.message.partition(",")[0] for record in caplog.records] == ["2 jobs wait for gone"]
    other.release()
    assert Directory(redis).stray_jobs({"kept"}) == {"gone": 2, "other": 1}
    assert Directory(redis).stray_jobs({"kept", "gone", "other"}) == {}
