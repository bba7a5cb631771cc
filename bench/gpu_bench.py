"""What the sections of bench.gpu share: the sizes of a run, the device, and one engine that is built at first use."""

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from bench.gpu_model import CONTEXT, as_loaded, random_model
from bench.gpu_report import Report, measured_in
from bench.roofline import READ_BYTES, read_bandwidth, weight_bytes
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig


@dataclass(frozen=True)
class Sizes:
    """Of a run at one of gpu_model.SHAPES."""

    context: int  # tokens before a measured decode step
    batches: tuple[int, ...]
    few: tuple[int, int]  # batches of the comparisons: fp8, drafts, the profile
    steps: int  # timed, of each batch
    long: tuple[tuple[int, int], ...]  # (sequences, tokens of context)
    prompt: int  # tokens, for the time to the first token
    answer: int
    streams: Mapping[int, int]  # callers in a closed loop -> requests
    arriving: tuple[int, ...]  # tokens of a prompt that comes while others decode
    block_bytes: int  # of the bandwidth's blocks
    max_num_seqs: int
    max_model_len: int


SIZES: Mapping[str, Sizes] = MappingProxyType(
    {
        "8b": Sizes(
            context=1024,
            batches=(1, 8, 32, 64),
            few=(1, 32),
            steps=40,
            long=((1, 32768), (32, 8192)),
            prompt=512,
            answer=128,
            streams=MappingProxyType({1: 2, 8: 16, 32: 64, 64: 128, 256: 256}),
            arriving=(512, 8192),
            block_bytes=8 * 2**30,
            max_num_seqs=256,
            max_model_len=CONTEXT,
        ),
        "tiny": Sizes(
            context=24,
            batches=(1, 3),
            few=(1, 2),
            steps=3,
            long=((1, 40),),
            prompt=16,
            answer=4,
            streams=MappingProxyType({1: 1, 2: 2}),
            arriving=(40,),
            block_bytes=2**20,
            max_num_seqs=4,
            max_model_len=128,
        ),
    }
)


# runners of our kernels, and their attention
BEST = MappingProxyType(
    {"TritonDecoderRunner": "KernelAttention.of_rows", "TritonLatentRunner": "KernelLatentAttention.of_rows"}
)


@dataclass
class Start:
    """Seconds of a start, stage by stage."""

    stages: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    def ends(self, stage: str) -> None:
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self.began
        self.began = now


class Bench:
    """One process's model shape, device and report, and the engine that its sections share."""

    def __init__(self, shape: str, device: torch.device, report: Report, import_s: float = 0.0) -> None:
        self.shape, self.device, self.report = shape, device, report
        self.sizes = SIZES[shape]
        self.import_s = import_s
        self.start = Start()
        self._engine: Engine | None = None
        self._failure: Exception | None = None
        self.weights = 0.0  # bytes that a step reads, in bf16

    @property
    def engine(self) -> Engine:
        """In bf16, of the whole shape. A build that failed is not tried again: it takes half a minute."""
        if self._failure is not None:
            raise RuntimeError(f"no engine: {self._failure}") from self._failure
        if self._engine is None:
            try:
                self._engine = self._first_engine()
            except Exception as failure:
                self._failure = failure
                raise
        return self._engine

    def _first_engine(self) -> Engine:
        self.start = Start()
        model = self.model()
        self.weights = weight_bytes(model, "")
        self.start.ends("weights made")
        return self.engine_of(model, self.start, max_num_seqs=self.sizes.max_num_seqs)

    def read_bandwidth(self) -> float:
        """Bytes per second, as the section `bandwidth` measured; else of a block that fits beside an engine."""
        measured = measured_in(self.report.out).get("bandwidth/read GB/s")
        if measured is not None:
            return measured * 1e9
        return read_bandwidth(self.device, min(self.sizes.block_bytes, READ_BYTES))

    def model(self, num_layers: int | None = None) -> Any:
        made = random_model(self.shape, self.device, torch.bfloat16, num_layers)
        self.synchronize()
        return made

    def engine_of(self, model: Any, start: Start | None = None, **settings: Any) -> Engine:
        """An engine that is warm, and the report told whether it runs as it should."""
        start = start or Start()
        engine = Engine(as_loaded(model, self.device, self.sizes.max_model_len), EngineConfig(**settings))
        start.ends("engine built: probe, choice of products")
        engine.warm_up(lambda stage, share: start.ends(f"until {stage}"))
        self.synchronize()
        self.report.fallback = why_fallback(engine)
        if self.report.fallback:
            self.report.say(f"FALLBACK ({self.report.fallback})\n")
        return engine

    def release(self) -> None:
        """Free the shared engine, for a section that needs the memory for another."""
        self._engine = None
        self.free()

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def why_fallback(engine: Engine) -> str:
    """Empty if the engine replays recorded steps of our kernels."""
    runner: Any = engine.runner
    name = type(runner).__name__
    if name not in BEST:
        return name
    if runner.attend_with.__qualname__ != BEST[name]:
        return f"{name} with {runner.attend_with.__qualname__}"
    return "" if recorded_steps(engine) else f"{name} without recorded steps"


def recorded_steps(engine: Engine) -> list[Any]:
    """RecordedSteps of the engine's runner, smallest first."""
    recordings: Any = getattr(engine.runner, "recordings", None)
    return list(recordings.steps) if recordings is not None else []
