"""A slice of DeepSeek-V3.2's shape with its experts in host memory, for bench.gpu: random weights, made in place."""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import transformers

from bench.gpu_bench import Bench
from bench.gpu_model import CHANGE, WEIGHT_SIZE
from common.process.machine_memory import available_bytes
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm, lay_out
from worker.kernels.experts.host_work import HostWork, host_work, num_threads
from worker.kernels.experts.layer import has_experts, matrix_names
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.experts.ram import RamExperts
from worker.kernels.experts.streamed import StreamedExperts
from worker.kernels.experts.swap import use_experts
from worker.kernels.heap import use_large_pages
from worker.kernels.packed.encodings import dense_weights, fp8_block_weights, int4_weights
from worker.kernels.packed.weights import Weights

NUM_LAYERS = 16
NUM_DENSE = 1  # of them
NUM_DRAWN = 4  # experts with numbers of their own; the others are copies, each in memory of its own
MEMORY_SHARE = 0.75  # of what is free, for experts
FORMS: dict[str, Callable[[torch.Tensor], Weights]] = {
    "int4": lambda weight: int4_weights(weight, 128 if weight.shape[1] >= 256 else 32),
    "fp8": fp8_block_weights,
    "bf16": dense_weights,
}
V3 = {
    "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256, "num_experts_per_tok": 8,
    "first_k_dense_replace": NUM_DENSE, "num_hidden_layers": NUM_LAYERS,
}  # fmt: skip
SMALL_V3 = {
    "vocab_size": 512, "hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 64,
    "num_attention_heads": 4, "num_key_value_heads": 4, "n_routed_experts": 16, "num_experts_per_tok": 4,
    "first_k_dense_replace": 1, "num_hidden_layers": 3, "q_lora_rank": 32, "kv_lora_rank": 32, "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8, "v_head_dim": 16, "n_group": 4, "topk_group": 2,
}  # fmt: skip
INDEXER = {"index_n_heads": 4, "index_head_dim": 32, "index_topk": 64}  # of the small one


class InPlace:
    """A stream of no device, for a rehearsal: what is put runs at once."""

    is_recording = False

    def told(self) -> None:
        pass

    def wait(self, mark: Any) -> None:
        pass

    def mark(self) -> None:
        pass

    def meet(self, mark: Any) -> None:
        pass

    def to_host(self, host: torch.Tensor, source: torch.Tensor) -> None:
        host[: source.numel()].copy_(source.flatten())

    def to_device(self, target: torch.Tensor, host: torch.Tensor) -> None:
        target.copy_(host[: target.numel()].view(target.shape))

    def call(self, function: int, argument: int) -> None:
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)(argument)


@cache
def work_of(device: torch.device) -> HostWork:
    return host_work(device) if device.type == "cuda" else HostWork(InPlace, pins=False)


def numbers(bench: Bench) -> dict[str, int]:
    return V3 if bench.shape == "8b" else SMALL_V3


class Experts:
    """The experts of several layers in one form, in host memory."""

    def __init__(self, bench: Bench, form: str, num_layers: int, num_experts: int | None = None) -> None:
        sizes = numbers(bench)
        self.device, self.form = bench.device, form
        self.num_experts = num_experts or sizes["n_routed_experts"]
        self.width, self.inner = sizes["hidden_size"], sizes["moe_intermediate_size"]
        self.top_k = sizes["num_experts_per_tok"]
        torch.manual_seed(1)
        drawn = [self._drawn(num_layers) for _ in range(NUM_DRAWN)]
        up, down, _ = drawn[0]
        form_of = ExpertsForm.of(up, down, Activation())
        each = sum(part.nbytes for part in drawn[0][2].values())
        self.num_layers = max(1, min(num_layers, int(MEMORY_SHARE * available_bytes()) // (each * self.num_experts)))
        self.expert_bytes = each
        self.layers = [CpuExperts(form_of, self._filled([own for *_, own in drawn])) for _ in range(self.num_layers)]

    def _drawn(self, num_layers: int) -> tuple[Weights, Weights, dict[str, torch.Tensor]]:
        dtype = torch.bfloat16
        up = torch.randn(2 * self.inner, self.width) * (WEIGHT_SIZE / self.width**0.5)
        down = torch.randn(self.width, self.inner) * (WEIGHT_SIZE / self.inner**0.5 * CHANGE / max(num_layers, 4))
        packed = FORMS[self.form](up.to(dtype)), FORMS[self.form](down.to(dtype))
        return *packed, lay_out(ExpertsForm.of(*packed, Activation()), *packed)

    def _filled(self, drawn: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        tensors = {name: part.new_empty(self.num_experts, *part.shape) for name, part in drawn[0].items()}
        for name, whole in tensors.items():
            use_large_pages(whole)
            for expert in range(self.num_experts):
                whole[expert].copy_(drawn[expert % NUM_DRAWN][name])
        return tensors

    @property
    def num_bytes(self) -> int:
        return sum(layer.num_bytes for layer in self.layers)

    def in_ram(self) -> list[RamExperts]:
        """The layers beside the device."""
        work = work_of(self.device)
        for layer in self.layers:
            layer.c_layer.num_threads = num_threads(None)
        return [RamExperts(layer, work, StreamedExperts(layer, work, self.device)) for layer in self.layers]

    def inputs(self, num_rows: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states, chosen experts, their weights, and room for the sums."""
        generator = torch.Generator(self.device).manual_seed(seed)
        hidden = torch.randn(num_rows, self.width, device=self.device, generator=generator).bfloat16()
        scores = torch.rand(num_rows, self.num_experts, device=self.device, generator=generator)
        weights, chosen = scores.softmax(-1).topk(self.top_k)
        return hidden, chosen, weights, torch.empty_like(hidden)


def configs(bench: Bench) -> Iterator[tuple[str, Any]]:
    """Families of this shape, of which the first that runs is measured: V3.2, V3, one with keys and values."""
    sizes, is_tiny = numbers(bench), bench.shape != "8b"
    common = {"max_position_embeddings": 36864, "tie_word_embeddings": False, "eos_token_id": 0, "bos_token_id": None}
    if (v32 := getattr(transformers, "DeepseekV32Config", None)) is not None:
        yield "deepseek_v32", v32(**sizes, **common, **(INDEXER if is_tiny else {}))
    yield "deepseek_v3", transformers.DeepseekV3Config(**sizes, **common)
    qwen = {name: sizes[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size")}
    yield "qwen3_moe", transformers.Qwen3MoeConfig(
        **qwen, **common, num_experts=sizes["n_routed_experts"], num_experts_per_tok=sizes["num_experts_per_tok"],
        num_attention_heads=4 if is_tiny else 64, num_key_value_heads=2 if is_tiny else 8,
        head_dim=32 if is_tiny else 128, num_hidden_layers=sizes["num_hidden_layers"], norm_topk_prob=True,
        mlp_only_layers=list(range(sizes["first_k_dense_replace"])),
    )  # fmt: skip


def sparse_model(config: Any, experts: Experts) -> Any:
    """A model whose modules of experts compute with these; it has as many layers as there are experts for."""
    config.num_hidden_layers = min(config.num_hidden_layers, experts.num_layers + NUM_DENSE)
    config.initializer_range = WEIGHT_SIZE / config.hidden_size**0.5
    with torch.device("meta"):
        kinds = {type(part) for part in family(config).modules() if has_experts(part)}
    torch.manual_seed(0)
    with without_numbers(kinds), torch.device(experts.device):
        model = family(config).eval().requires_grad_(False)
    model.model.embed_tokens.weight.normal_()
    for layer in model.model.layers:
        linears = [layer.self_attn.o_proj, *(part.down_proj for part in dense_parts(layer.mlp))]
        for linear in linears:
            linear.weight.mul_(CHANGE / len(model.model.layers))
    modules = [part for part in model.modules() if has_experts(part)]
    assert len(modules) <= experts.num_layers
    for module in modules:
        for name in matrix_names(module):
            setattr(module, name, None)
    products = experts.layers if experts.device.type == "cuda" else experts.in_ram()
    use_experts(model, dict(zip(modules, products, strict=False)))
    return model


def family(config: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def dense_parts(mlp: Any) -> Iterator[Any]:
    """The MLPs that all tokens take."""
    if not hasattr(mlp, "experts"):
        yield mlp
    elif hasattr(mlp, "shared_experts"):
        yield mlp.shared_experts


@contextmanager
def without_numbers(kinds: set[type]) -> Iterator[None]:
    """Within this, modules of these kinds are made without memory."""
    before = {kind: kind.__init__ for kind in kinds}  # type: ignore[misc]

    def on_meta(kind: type) -> Callable[..., None]:
        def init(module: Any, *args: Any, **named: Any) -> None:
            with torch.device("meta"):
                before[kind](module, *args, **named)

        return init

    for kind in kinds:
        kind.__init__ = on_meta(kind)  # type: ignore[misc]
    try:
        yield
    finally:
        for kind, init in before.items():
            kind.__init__ = init  # type: ignore[misc]


def hosted_of(engine: Any, model: Any, device: torch.device) -> HostedExperts:
    """The experts of an engine's runner; a rehearsal without a GPU has to be told of them."""
    runner = engine.runner
    if device.type != "cuda":
        found = [part.experts_product for part in model.modules() if getattr(part, "experts_product", None) is not None]
        runner.hosted = HostedExperts(found, device)
    assert runner.hosted is not None, f"{type(runner).__name__} has no experts in host memory"
    hosted: HostedExperts = runner.hosted
    return hosted
