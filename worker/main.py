"""The worker process: settings, model, registration, OmniWorker.work(). Started by common.process.supervise.

torch, and all code that needs it, is imported by functions: after prepare_process().
"""

import argparse
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from uuid import uuid4

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from common.environment import log_format, torchrun_place
from common.logs import set_up_logging
from common.model.source import check_generating, check_model
from common.process.child import EXIT_TRY_AGAIN
from common.process.listener import url_of
from common.redis.connection import connect, is_passing
from common.redis.server import memory_of, warn_of_open_redis
from common.settings import Settings, SettingsError, refuse, settings_or_exit
from common.tracing import traces_of
from common.wire import ModelCard
from worker.engine.interface import AnyEngine
from worker.jobs.heartbeat import Heartbeat, Inbox, Listener
from worker.jobs.ledger import Fenced, Ledger
from worker.jobs.omni_worker import OmniWorker
from worker.jobs.publisher import Publisher
from worker.process_setup import prepare_process
from worker.progress import KERNELS, OnProgress
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
    "worker.ranks",
    "worker.remote.loader",
    "worker.sampling.grammar",
)


def wait_for_redis(redis: "Redis") -> None:
    """Wait until Redis takes commands; log each reason once. Exits when Redis may evict our keys."""
    logged = ""
    while True:
        try:
            if fault := memory_of(redis).fault:
                refuse(fault)
            return
        except RedisError as error:
            if not is_passing(error) and not isinstance(error, AuthenticationError):
                return  # INFO is not allowed here, so its memory policy stays unknown
            if str(error) != logged:
                logged = str(error)
                logger.warning("waiting for Redis: %s", logged)
            time.sleep(0.5)


def load_engine(settings: Settings, on_progress: OnProgress) -> AnyEngine:
    """An engine for OMNI_MODEL: our own, or a client of the server that OMNI_ENGINE names."""
    from worker.configuration import engine_config
    from worker.engine.engine import Engine
    from worker.models.loader import load
    from worker.ranks import our_ranks
    from worker.remote.loader import connect_engine
    from worker.sampling.grammar import GrammarCompiler

    if settings.model.engine:
        return connect_engine(settings, on_progress)
    ranks = our_ranks(settings.model.tensor_parallel)
    ranks.join()
    config = engine_config(settings, ranks.size)
    loaded = load(settings.model.source, settings.model.names, config, on_progress)
    on_progress("kernels", KERNELS)
    compiler = GrammarCompiler(loaded.tokenizer, loaded.card.eos_token_ids, loaded.card.vocab_size)
    return Engine(loaded, config, compiler)


def load_embedder(settings: Settings, device: str, on_progress: OnProgress) -> AnyEngine:
    """An engine for OMNI_EMBEDDING_MODEL."""
    from worker.embedding.embedder import Embedder
    from worker.embedding.encoder_model import load_encoder
    from worker.models.loader import EngineConfig

    config = EngineConfig(device=device, threads=settings.model.threads)
    return Embedder(load_encoder(settings.embedding.source, settings.embedding.names, config, on_progress))


def load_and_warm_up(settings: Settings, ledger: Ledger, *, embeds: bool, device: str) -> AnyEngine:
    """The engine, ready to generate; its progress is reported in Redis. Exits with one sentence for a bad model."""
    from transformers.utils.logging import disable_progress_bar

    from worker.device import NoSuchDevice
    from worker.drafting.choose import DraftFault
    from worker.load_failure import give_up
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
        engine = load_embedder(settings, device, on_progress) if embeds else load_engine(settings, on_progress)
        engine.warm_up(on_progress)
    except NoSuchDevice as error:
        refuse(f"{'--device ' if embeds else 'OMNI_DEVICE='}{device if embeds else settings.model.device}: {error}")
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


def retried(ask: Callable[[], object]) -> None:
    """Repeat a call until Redis answers: a loaded model is worth keeping."""
    while True:
        try:
            ask()
            return
        except RedisError as error:
            if not is_passing(error):
                raise
            time.sleep(0.2)


def log_ready(settings: Settings, *, embeds: bool) -> None:
    if embeds:
        logger.info("Protocol OMNI serves embeddings by %s.", settings.embedding.names[0])
        return
    server, name = settings.server, settings.model.queue
    key = "sk-local" if "sk-local" in server.api_keys else "YOUR_KEY"
    logger.info(
        "Protocol OMNI serves %s. Try: curl %s/v1/chat/completions -H 'Content-Type: application/json' "
        '-H \'Authorization: Bearer %s\' -d \'{"model": "%s", "messages": [{"role": "user", "content": "Hello!"}]}\'',
        name, url_of(server.host, server.port), key, name,
    )  # fmt: skip


def run(settings: Settings, watch_fd: int, predecessor: int, *, embeds: bool, device: str) -> int:
    warn_of_open_redis(settings.redis.given_url, logger)
    redis = connect(settings.redis.url, retries=3)
    wait_for_redis(redis)
    queue = settings.embedding.names[0] if embeds else settings.model.queue
    ledger = Ledger(redis, queue, worker_name=f"omni-{uuid4().hex[:12]}")
    if predecessor:  # before the model is loaded, so that the queue's other workers continue its jobs at once
        retried(partial(ledger.bury, predecessor))
    engine = load_and_warm_up(settings, ledger, embeds=embeds, device=device)
    retried(partial(register, ledger, engine.card))
    os.write(watch_fd, f"fence {ledger.fence}\n".encode())
    inbox, traces = Inbox(engine.interrupt), traces_of(settings, "worker")
    publisher = Publisher(connect(settings.redis.url, retries=0), ledger.fence)
    worker = OmniWorker(ledger, engine, engine.card, publisher, inbox, watch_fd, traces)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, worker.stop)
    heartbeat = Heartbeat(ledger, inbox, worker.report)
    heartbeat.start()
    Listener(connect(settings.redis.url), ledger, inbox).start()
    log_ready(settings, embeds=embeds)
    try:
        worker.work()
        heartbeat.stop()
        worker.leave()
    except Fenced as error:
        logger.error("%s: this process was replaced and ends", error)
        return EXIT_TRY_AGAIN
    gc.freeze()  # the last collection over torch's objects would take seconds on a busy machine
    return 0


def main() -> int:
    prepare_process()
    for name in NEED_TORCH:
        import_module(name)
    from worker.follower import run as follow
    from worker.models.loader import import_family
    from worker.ranks import Ranks

    parser = argparse.ArgumentParser(prog="worker.main")
    parser.add_argument("--watch-fd", type=int, default=None)
    parser.add_argument("--predecessor", type=int, default=0)
    parser.add_argument("--template-fd", type=int, default=None, help="fork workers when asked on this socket")
    parser.add_argument("--embeddings", action="store_true", help="serve OMNI_EMBEDDING_MODEL")
    parser.add_argument("--device", default="cpu", help="of the encoder, with --embeddings")
    args = parser.parse_args()
    if args.template_fd is not None:
        settings = settings_or_exit()
        if not args.embeddings and not settings.model.engine:
            import_family(settings.model.source)
        args = parser.parse_args(fork_when_asked(args.template_fd), args)
    settings = settings_or_exit()
    if args.embeddings and not settings.embedding.source:
        refuse("OMNI_EMBEDDING_MODEL is not set.")
    set_up_logging(log_format())
    if (place := torchrun_place()) is not None and place[0] > 0:
        return follow(settings, Ranks(*place))
    watch_fd = args.watch_fd if args.watch_fd is not None else os.open(os.devnull, os.O_WRONLY)
    try:
        if args.embeddings:
            check_model("OMNI_EMBEDDING_MODEL", settings.embedding.source)
        else:
            check_generating(settings.model)
        return run(settings, watch_fd, args.predecessor, embeds=args.embeddings, device=args.device)
    except SettingsError as error:
        refuse(str(error))


if __name__ == "__main__":
    sys.exit(main())
