"""`python -m worker.unloaded`: prints what is known of the table's models, and the machine, as JSON."""

import argparse
import atexit
import gc
import json
import logging
import sys
from dataclasses import asdict

from common.model.source import table_fault
from common.settings import Settings, settings_or_exit
from common.shelf.table import TableModel
from worker.process_setup import prepare_process, prepare_transformers


def report(settings: Settings, models: tuple[TableModel, ...], memory: int | None) -> dict[str, object]:
    """`memory`: bytes of a GPU that this machine need not have."""
    from worker.fit.plan import this_machine

    machine = this_machine(settings.model.device, memory)
    is_gpu = machine.device.type != "cpu"
    return {
        "machine": {"name": machine.name, "total": machine.total, "used": machine.used, "is_gpu": is_gpu},
        "share": settings.model.gpu_memory_utilization,
        "models": [described(settings, model, memory) for model in models],
    }


def described(settings: Settings, model: TableModel, memory: int | None) -> dict[str, object]:
    """Its card without the tokenizer, and its sizes; or the fault of its files."""
    from worker.configuration import engine_config
    from worker.fit.plan import this_machine
    from worker.models.load_fault import reason
    from worker.unloaded.cards import cold_card
    from worker.unloaded.sizes import size_of

    if fault := table_fault(model):
        return {"id": model.queue, "fault": f"{fault}."}
    own = settings.model_copy(update={"model": model.settings_over(settings.model)})
    try:
        card = cold_card(own.model)
        size = size_of(model.source, engine_config(own), this_machine(own.model.device, memory))
    except Exception as error:  # files of any kind are tried here
        return {"id": model.queue, "fault": reason(error)}
    return {
        "id": model.queue,
        "task": card.task,
        "root": card.root,
        "max_model_len": card.max_model_len,
        "architecture": card.architecture,
        "file_format": card.file_format,
        "packing": card.packing,
        "accepts_images": card.accepts_images,
        "size": card.file_bytes,
        **asdict(size),
    }


def main() -> int:
    prepare_process()
    parser = argparse.ArgumentParser(prog="worker.unloaded")
    parser.add_argument("--model", help="the id of one model; without it, all")
    parser.add_argument("--memory", type=int, help="bytes of a GPU that this machine need not have")
    args = parser.parse_args()
    settings = settings_or_exit()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    models = tuple(model for model in settings.models if args.model in (None, *model.ids))
    print(json.dumps(report(settings, models, args.memory)))
    return 0


if __name__ == "__main__":
    gc.disable()  # as worker.fit
    atexit.register(gc.freeze)
    prepare_transformers()
    sys.exit(main())
