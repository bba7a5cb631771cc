"""The worker process: settings, model, registration, OmniWorker.work(). Started by common.process.supervise.

torch, and all code that needs it, is imported by functions: after prepare_process().
"""

import argparse
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from functools import partial
from importlib import import_module
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError

from common.addresses import url_of
from common.environment import torchrun_place
from common.flag import Flag
from common.logs import set_up_logging
from common.model.source import check_generating, check_model
from common.process.child import EXIT_TRY_AGAIN
from common.redis.connection import connect, is_passing
from common.redis.directory import Directory
from common.redis.server import RedisWatch, memory_of, warn_of_open_redis
from common.settings import PUBLIC_KEY, Settings, SettingsError, refuse, settings_or_exit
from common.tracing import traces_of
from common.wire import ModelCard
from worker.engine.interface import AnyEngine
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Heartbeat, Listener
from worker.jobs.ledger import Fenced, Ledger, bury
from worker.jobs.omni_worker import OmniWorker
from worker.jobs.publisher import Publisher
from worker.jobs.served_model import ServedModel, retried
from worker.kept.keep import Keep
from worker.many import worker_of_table
from worker.process_setup import prepare_process, prepare_transformers
from worker.progress import OnProgress
from worker.shelf.opening import OPENING
from worker.template import fork_when_asked

logger = logging.getLogger("omni.worker")

NEED_TORCH = (  # what the functions below import, so that a template has loaded it before it forks
    "transformers.utils.logging",
    "worker.configuration",
    "worker.embedding.embedder",
    "worker.embedding.encoder_model",
    "worker.engine.engine",
    "worker.follower",
    "worker.load_failure",
    "worker.models.download",
    "worker.models.loader",
    "worker.opening",
    "worker.ranks",
    "worker.remote.loader",
    "worker.sampling.grammar",
    "worker.unloaded.cards",
)


def wait_for_redis(redis: "Redis", url: str) -> None:
    """Wait until Redis takes commands, and say so. Exits when Redis may evict our keys."""
    watch = RedisWatch(redis, url, logger)
    while True:
        if watch.answers():
            try:
                if fault := memory_of(redis).fault:
                    refuse(fault)
                return
            except RedisError as error:
                if not is_passing(error):
                    return  # INFO is not allowed here, so its memory policy stays unknown
        time.sleep(0.5)


def load_engine(settings: Settings, on_progress: OnProgress, keep: Keep | None) -> AnyEngine:
    """An engine for OMNI_MODEL: our own, or a client of the server that OMNI_ENGINE names."""
    from worker.configuration import engine_config
    from worker.opening import open_engine
    from worker.ranks import our_ranks
    from worker.remote.loader import connect_engine

    if settings.model.engine:
        return connect_engine(settings, on_progress)
    ranks = our_ranks(settings.model.tensor_parallel)
    ranks.join()
    config = engine_config(settings, ranks.size)
    return open_engine(settings.model.source, settings.model.names, config, on_progress, keep)


def load_embedder(settings: Settings, device: str, on_progress: OnProgress) -> AnyEngine:
    """An engine for OMNI_EMBEDDING_MODEL."""
    from worker.embedding.embedder import Embedder
    from worker.embedding.encoder_model import load_encoder
    from worker.models.loader import EngineConfig

    config = EngineConfig(device=device, threads=settings.model.threads)
    return Embedder(load_encoder(settings.embedding.source, settings.embedding.names, config, on_progress))


def load_and_warm_up(settings: Settings, ledger: Ledger, keep: Keep | None, *, embeds: bool, device: str) -> AnyEngine:
    """The engine, ready to generate; its progress is reported in Redis. Exits with one sentence for a bad model."""
    from transformers.utils.logging import disable_progress_bar

    from worker.device import NoSuchDevice
    from worker.drafting.choose import DraftFault
    from worker.load_failure import give_up
    from worker.models.adapters.peft_config import GivenAdapterFault
    from worker.models.download import downloaded

    disable_progress_bar()

    def report(what: str, share: float) -> None:
        logger.info("loading %s: %s (%d %%)", ledger.queue, what, share * 100)
        try:
            ledger.report_loading(what, share)
        except RedisError as error:
            logger.warning("the progress is not reported: %s", error)

    on_progress: OnProgress = report
    if embeds or not settings.model.engine:
        on_progress = downloaded(settings.embedding.source if embeds else settings.model.source, on_progress)
    try:
        engine = load_embedder(settings, device, on_progress) if embeds else load_engine(settings, on_progress, keep)
        engine.warm_up(on_progress)
    except NoSuchDevice as error:
        refuse(f"{'--device ' if embeds else 'OMNI_DEVICE='}{device if embeds else settings.model.device}: {error}")
    except GivenAdapterFault as fault:
        refuse(f"OMNI_ADAPTERS: {fault}")
    except DraftFault as fault:
        give_up(f"OMNI_DRAFT_MODEL={settings.model.draft_model}", fault.error)
    except Exception as error:  # transformers, its plugins and a model's own code may raise anything
        model = settings.model
        setting = f"OMNI_EMBEDDING_MODEL={settings.embedding.source}" if embeds else f"OMNI_MODEL={model.source}"
        setting += f" with OMNI_ENGINE={model.engine_url}" if model.engine and not embeds else ""
        give_up(setting, error)
    return engine


def register(ledger: Ledger, card: ModelCard) -> None:
    ledger.publish_card(card)
    ledger.register()


def log_ready(settings: Settings, card: ModelCard) -> None:
    if card.task != "generate":
        served = "scores of pairs" if card.task == "score" else "embeddings"
        logger.info("Protocol OMNI serves %s by %s.", served, card.queue)
        return
    server, name = settings.server, settings.model.queue
    key = PUBLIC_KEY if PUBLIC_KEY in server.api_keys else "YOUR_KEY"
    path, body = example_for(card, name)
    logger.info(
        "Protocol OMNI serves %s. Try: curl %s/v1/%s -H 'Content-Type: application/json' "
        "-H 'Authorization: Bearer %s' -d '%s'",
        name, url_of(server.host, server.port), path, key, json.dumps(body),
    )  # fmt: skip


def example_for(card: ModelCard, name: str) -> tuple[str, dict[str, Any]]:
    """The path and the body of a first request: a model without a form for conversations continues a text."""
    if card.chat_template is None and not card.has_own_encoder:
        return "completions", {"model": name, "prompt": "The sky is blue because", "max_tokens": 60}
    question = {"role": "user", "content": "Why is the sky blue?"}
    return "chat/completions", {"model": name, "messages": [question]}


def run(settings: Settings, args: argparse.Namespace, watch_fd: int) -> int:
    warn_of_open_redis(settings.redis.given_url, logger)
    redis = connect(settings.redis.url, retries=3)
    wait_for_redis(redis, settings.redis.given_url)
    died_in: str = args.died_in
    for fence in args.predecessor:  # before a model is loaded, so that other workers continue its jobs at once
        retried(partial(bury, redis, fence, is_blamed=died_in in ("", f"step {fence}")))
    if not args.embeddings:
        retried(partial(warn_of_stray_jobs, settings, redis))
    hang_watch = HangWatch(watch_fd)
    if settings.models and not args.embeddings:
        return serve(settings, worker_of_table(settings, redis, hang_watch, Keep(args.keeper_fd), died_in))
    keep = Keep(args.keeper_fd) if args.keeper_fd is not None else None
    worker = worker_of_one(settings, redis, hang_watch, keep, embeds=args.embeddings, device=args.device)
    return serve(settings, worker)


def warn_of_stray_jobs(settings: Settings, redis: "Redis") -> None:
    """They are not ended: another service on this Redis may serve their models, though its worker is away now."""
    ours = {model.queue for model in settings.models} or {settings.model.queue}
    for queue, num in Directory(redis).stray_jobs(ours | {*settings.embedding.names[:1]}).items():
        logger.warning(
            "%d %s for %s, which is not among this service's models, and no worker serves it: serve it again, or end "
            "them with omni cancel (omni jobs --all lists them)", num, "job waits" if num == 1 else "jobs wait", queue,
        )  # fmt: skip


def worker_of_one(
    settings: Settings, redis: "Redis", hang_watch: HangWatch, keep: Keep | None, *, embeds: bool, device: str
) -> OmniWorker:
    """For OMNI_MODEL or OMNI_EMBEDDING_MODEL, whose queue takes jobs once the model is loaded."""
    queue = settings.embedding.names[0] if embeds else settings.model.queue
    ledger = Ledger(redis, queue, worker_name=f"omni-{uuid4().hex[:12]}")
    engine = load_and_warm_up(settings, ledger, keep, embeds=embeds, device=device)
    retried(partial(register, ledger, engine.card))
    hang_watch.tell_fences([ledger.fence])
    wake, traces = Flag(), traces_of(settings, "worker")
    publisher = Publisher(connect(settings.redis.url, retries=0), ledger.fence)
    model = ServedModel(ledger, engine, publisher, wake, hang_watch, traces)
    retried(partial(model.adapters.give, {} if embeds else dict(settings.model.adapters)))
    log_ready(settings, engine.card)
    return OmniWorker([model], wake, hang_watch)


def serve(settings: Settings, worker: OmniWorker) -> int:
    """Run until SIGTERM, or until this process is replaced."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    models = list(worker.models.values())
    heartbeat = Heartbeat(models, worker.beat)
    heartbeat.start()
    Listener(connect(settings.redis.url), models).start()
    try:
        worker.work()
        heartbeat.stop()
        worker.leave()
    except Fenced as error:
        logger.error("%s: this process was replaced and ends", error)
        return EXIT_TRY_AGAIN
    if any(thread.name == OPENING for thread in threading.enumerate()):
        logging.shutdown()
        os._exit(0)  # the interpreter's end would stop that thread within torch
    gc.freeze()  # the last collection over torch's objects would take seconds on a busy machine
    return 0


def fences(text: str) -> list[int]:
    return [int(fence) for fence in text.split(",") if fence]


def main() -> int:
    prepare_process()
    gc.disable()  # imports leave no garbage, and looking for it took a fifth of their time
    prepare_transformers()
    for name in NEED_TORCH:
        import_module(name)
    gc.freeze()  # what they left is kept: collections would look at 400,000 objects, and free none
    gc.enable()
    from worker.follower import run as follow
    from worker.models.loader import import_family
    from worker.ranks import Ranks

    parser = argparse.ArgumentParser(prog="worker.main")
    parser.add_argument("--watch-fd", type=int, default=None)
    parser.add_argument("--predecessor", type=fences, default=[], help="the fences of the process before this one")
    parser.add_argument("--died-in", default="", help="what that process was in when it died")
    parser.add_argument("--template-fd", type=int, default=None, help="fork workers when asked on this socket")
    parser.add_argument("--keeper-fd", type=int, default=None, help="the door of the keeper of memory")
    parser.add_argument("--embeddings", action="store_true", help="serve OMNI_EMBEDDING_MODEL")
    parser.add_argument("--device", default="cpu", help="of the encoder, with --embeddings")
    args = parser.parse_args()
    if args.template_fd is not None:
        settings = settings_or_exit()
        if not args.embeddings and not settings.model.engine:
            for source in [model.source for model in settings.models] or [settings.model.source]:
                import_family(source)
        args = parser.parse_args(fork_when_asked(args.template_fd), args)
    settings = settings_or_exit()
    if args.embeddings and not settings.embedding.source:
        refuse("OMNI_EMBEDDING_MODEL is not set.")
    set_up_logging(settings.operator.log_level)
    if (place := torchrun_place()) is not None and place[0] > 0:
        return follow(settings, Ranks(*place))
    watch_fd = args.watch_fd if args.watch_fd is not None else os.open(os.devnull, os.O_WRONLY)
    try:
        if args.embeddings:
            check_model("OMNI_EMBEDDING_MODEL", settings.embedding.source)
        elif not settings.models:
            check_generating(settings.model)
        return run(settings, args, watch_fd)
    except SettingsError as error:
        refuse(str(error))


if __name__ == "__main__":
    sys.exit(main())
