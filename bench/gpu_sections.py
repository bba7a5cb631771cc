"""The sections of bench.gpu in their order, and which of them fit a budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import (
    gpu_attention,
    gpu_checks,
    gpu_drafts,
    gpu_experts,
    gpu_kernels,
    gpu_latent,
    gpu_latent_checks,
    gpu_latent_steps,
    gpu_mtp,
    gpu_packed,
    gpu_products,
    gpu_profile,
    gpu_ram,
    gpu_sampling,
    gpu_shelf,
    gpu_sparse,
    gpu_speed,
    gpu_variants,
    gpu_weights,
)
from bench.gpu_bench import Bench


@dataclass(frozen=True)
class Section:
    """Sections of one part share a process, and an engine if they use it."""

    name: str
    part: str
    title: str
    run: Callable[[Bench], None]
    seconds: float  # that it took on an H200, and its process if it is the first of its part
    rank: int  # 1 is the most valuable; where time is short, the highest are skipped first

    @property
    def uses_engine(self) -> bool:
        return self.part == "speed"


VARIANTS, RAM = "variants", "ram"  # run only if they are named

SECTIONS = (
    Section("bandwidth", "kernels", "Memory bandwidth", gpu_kernels.bandwidth, 1, 4),
    Section("elementwise checks", "kernels", "Norms, rotation, activations", gpu_kernels.elementwise_checks, 8, 3),
    Section("attention checks", "kernels", "Attention over pages", gpu_attention.checks, 26, 2),
    Section("attention times", "kernels", "Attention alone", gpu_attention.times, 2, 8),
    Section("elementwise times", "kernels", "Norms, rotation, activations alone", gpu_kernels.elementwise_times, 1, 13),
    Section("products", "kernels", "Products alone", gpu_products.products, 30, 13),
    Section("sampling alone", "kernels", "Tokens from logits alone", gpu_sampling.sampling_alone, 6, 9),
    Section("packed checks", "packed", "Products with packed weights", gpu_packed.checks, 30, 3),
    Section("packed times", "packed", "Products with packed weights alone", gpu_packed.times, 50, 10),
    Section("experts", "packed", "Experts of a sparse model", gpu_experts.experts, 35, 8),
    Section("latent checks", "latents", "Attention over latents, choice of keys", gpu_latent_checks.checks, 40, 3),
    Section("latent times", "latents", "Attention over latents alone", gpu_latent.times, 25, 8),
    Section("latent steps", "slice", "Steps of a slice of DeepSeek-V3.2", gpu_latent_steps.steps, 75, 8),
    Section("sparse", "sparse", "Sparse models of released widths", gpu_sparse.steps, 75, 6),
    Section("mtp", "mtp", "The MTP layer of a small DeepSeek-V3.2", gpu_mtp.drafts, 75, 9),
    Section("start", "speed", "Start and memory", gpu_speed.start, 25, 1),
    Section("steps", "speed", "Decode steps", gpu_speed.decode_steps, 4, 1),
    Section("profile", "speed", "Kernels of a decode step", gpu_profile.profile, 2, 2),
    Section("first token", "speed", "Time to the first token", gpu_speed.first_token, 1, 3),
    Section("mixed", "speed", "Decodes beside an arriving prompt", gpu_speed.mixed, 4, 6),
    Section("throughput", "speed", "Throughput", gpu_speed.throughput, 14, 5),
    Section("long", "speed", "Decode steps after much context", gpu_speed.long_contexts, 10, 9),
    Section("shares", "speed", "Where a step's time goes", gpu_speed.shares, 4, 7),
    Section("sampling", "speed", "Sampling", gpu_speed.sampling, 8, 14),
    Section("bf16", "bf16", "Tokens in bf16", gpu_checks.in_bf16, 14, 3),
    Section("fp8", "weights", "fp8 weights", gpu_weights.fp8, 12, 6),
    Section("int8", "weights", "int8 weights", gpu_weights.int8, 12, 11),
    Section("int4", "weights", "int4 weights", gpu_weights.int4, 20, 10),
    Section("fp8 kv", "weights", "fp8 KV cache", gpu_weights.fp8_kv, 18, 12),
    Section("drafts", "drafts", "Drafts that are accepted", gpu_drafts.drafts, 32, 7),
    Section("swaps", "shelf", "A model leaves and returns", gpu_shelf.swaps, 55, 5),
    Section(
        "swaps by torch", "shelf apart", "A model leaves and returns, by torch's allocator", gpu_shelf.by_torch, 25, 12
    ),
    Section("float32", "float32", "Tokens in float32", gpu_checks.in_float32, 18, 4),
    Section("ram link", RAM, "The way to experts in host memory", gpu_ram.link, 40, 5),
    Section("ram experts", RAM, "Experts in host memory alone", gpu_ram.experts, 60, 4),
    Section("ram steps", RAM, "Decode steps with experts in host memory", gpu_ram.steps, 200, 2),
    Section("ram hybrid", RAM, "Decode steps with some experts on the GPU too", gpu_ram.hybrid, 100, 9),
    Section("attention variants", VARIANTS, "Variants of attention", gpu_variants.attention, 240, 16),
    Section("latent variants", VARIANTS, "Variants of attention over latents", gpu_latent.variants, 40, 16),
    Section("elementwise variants", VARIANTS, "Variants of the small kernels", gpu_variants.elementwise, 60, 17),
)


def named(names: Sequence[str]) -> list[str]:
    """The names of the sections that are meant by names of sections and of parts, in their order. Raises ValueError."""
    known = {word for section in SECTIONS for word in (section.name, section.part)}
    if not known.issuperset(names):
        raise ValueError(f"unknown: {', '.join(sorted(set(names) - known))}; there are {', '.join(sorted(known))}")
    if not names:
        return [section.name for section in SECTIONS if section.part not in (VARIANTS, RAM)]
    return [section.name for section in SECTIONS if {section.name, section.part} & set(names)]


def section_of(name: str) -> Section:
    return next(section for section in SECTIONS if section.name == name)


def fitting(names: Sequence[str], seconds: float, scale: float = 1.0) -> list[str]:
    """Those that fit into so many seconds, the most valuable ones first to be taken; in the order given.

    `scale`: of the estimates, below 1 for the tiny shape.
    """
    chosen: set[str] = set()
    for section in sorted(map(section_of, names), key=lambda section: section.rank):
        if scale * section.seconds <= seconds:
            chosen.add(section.name)
            seconds -= scale * section.seconds
    return [name for name in names if name in chosen]
