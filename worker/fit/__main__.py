"""`python -m worker.fit MODEL`: prints the plans as JSON. Ends with one sentence and status 2 for no model."""

import argparse
import atexit
import gc
import json
import logging
import sys
from dataclasses import asdict, replace

from common.settings import Settings, refuse, settings_or_exit
from worker.process_setup import prepare_process, prepare_transformers


def report(
    model: str, memory: int | None, settings: Settings, ram: int | None = None, bandwidth: float | None = None
) -> dict[str, object]:
    """The model's parameters, the machine, and a plan for each quantization. Raises OSError or ValueError.

    `memory`, `ram`, `bandwidth`: bytes of a GPU, and of a machine's memory, that this one need not have, and the bytes
    a second that the cores read of that.
    """
    from worker.configuration import engine_config
    from worker.fit.checkpoint import parameters, read
    from worker.fit.plan import plans, this_machine
    from worker.fit.sparse import Asked, sparse_report
    from worker.models.experts.place import is_sparse
    from worker.models.formats.packing import check_unpacked

    checkpoint = read(model)
    machine = this_machine(settings.model.device, memory)
    config = engine_config(settings)
    check_unpacked(config.quantization, checkpoint.packing, is_sparse=is_sparse(checkpoint.model.config))
    config = replace(config, quantization=None)
    return {
        "architecture": checkpoint.model.config.model_type,
        "packing": checkpoint.packing_name,
        "parameters": parameters(checkpoint),
        "context": checkpoint.max_model_len,
        "machine": {
            "name": machine.name, "total": machine.total, "used": machine.used, "is_gpu": machine.device.type != "cpu",
        },
        "share": config.gpu_memory_utilization,
        "plans": [asdict(plan) for plan in plans(checkpoint, machine, config)],
        "sparse": sparse_report(checkpoint, machine, config, Asked(ram, bandwidth)),
    }  # fmt: skip


def main() -> int:
    prepare_process()
    parser = argparse.ArgumentParser(prog="worker.fit")
    parser.add_argument("model")
    parser.add_argument("--memory", type=int, help="bytes of a GPU that this machine need not have")
    parser.add_argument("--ram", type=int, help="bytes of memory that this machine need not have")
    parser.add_argument("--bandwidth", type=float, help="bytes a second that the cores read of that")
    args = parser.parse_args()
    settings = settings_or_exit()
    try:
        print(json.dumps(report(args.model, args.memory, settings, args.ram, args.bandwidth)))
    except Exception as error:  # files of any kind are tried here
        from worker.models.load_fault import reason

        refuse(f"{args.model}: {reason(error)}")
    return 0


if __name__ == "__main__":
    gc.disable()  # it ends in seconds, and imports leave no garbage
    atexit.register(gc.freeze)  # nor does the interpreter's end look for it
    prepare_transformers()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    sys.exit(main())
