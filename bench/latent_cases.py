"""The variants of the kernels for latents that a GPU runs, at DeepSeek-V3.2's sizes; see kernel_cases.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from bench.kernel_cases import KernelCase, case_of
from worker.kernels.gpu.latent import attention, index_scores, index_writes, places, selection, writes

RANK, ROTATED, HEADS = 512, 64, 128
INDEX_HEADS, INDEX_DIM, TOPK, PAGE = 64, 128, 2048, 64


def latent_cases() -> list[KernelCase]:
    """Attention over selected and over all keys, alone and with split keys; scores of single tokens and of tiles."""
    return [
        attention_case("selected, splits"),
        attention_case("selected", is_split=False),
        attention_case("selected, 32 heads a program, splits", heads_block=32),
        attention_case("selected, 16 heads a program, splits", heads_block=16),
        attention_case("all keys, splits", is_selected=False),
        attention_case("all keys", is_selected=False, is_split=False),
        combine_case(8),
        combine_case(64),
        scores_case("a token", 1),
        scores_case("tiles", 4096),
        selection_case(),
        places_case(),
        latents_case(),
        index_keys_case(),
        index_queries_case(),
    ]


def attention_case(
    name: str, *, is_selected: bool = True, is_split: bool = True, heads_block: int = attention.HEADS_BLOCK
) -> KernelCase:
    signature = {"query": "*bf16", "latents": "*bf16", "counts": "*i32", "out": "*fp32" if is_split else "*bf16"}
    signature |= {"scale": "fp32", "query_token": "i32:16", "query_head": "i32:16"}
    signature |= dict.fromkeys(("usual_splits", "slot_row", "table_row"), "i32") | {"num_heads": "i32:16"}
    signature |= dict.fromkeys(("slots",) if is_selected else ("block_table", "token_rows"), "*i32")
    if is_split:
        signature["log_sums"] = "*fp32"
    constants = attention.launch_shape(RANK, ROTATED, torch.bfloat16, HEADS, heads_block)
    constants |= {"WIDTH": RANK + ROTATED, "RANK": RANK, "PAGE": PAGE, "IN_FLOAT32": False}
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    kernel = attention.latent_attention_kernel
    return replace(case_of(f"latents, {name}", kernel, signature, constants, num_warps), num_stages=num_stages)


def combine_case(num_splits: int) -> KernelCase:
    signature = {"parts": "*fp32", "log_sums": "*fp32", "out": "*bf16", "counts": "*i32"}
    signature |= {"num_splits": "i32", "usual_splits": "i32"}
    constants = {"RANK": RANK, "BLOCK_N": 32, "BLOCK_S": num_splits, "BLOCK_R": RANK}
    return case_of(
        f"latents, combine {num_splits} x {RANK}",
        attention.combine_latents_kernel,
        signature,
        constants,
        num_splits // 4,
    )


def scores_case(name: str, num_rows: int) -> KernelCase:
    signature = {"queries": "*fp8e4nv", "pool": "*fp8e4nv", "head_weights": "*fp32", "scales": "*fp32"}
    signature |= {"scores": "*fp32", "num_heads": "i32:16"}
    signature |= dict.fromkeys(("block_table", "query_starts", "token_rows", "token_keys"), "*i32")
    signature |= dict.fromkeys(("first", "last", "table_row", "topk"), "i32") | {"score_row": "i32:16"}
    constants = index_scores.launch_shape(INDEX_HEADS, INDEX_DIM, torch.uint8, num_rows)
    constants |= {"DIM": INDEX_DIM, "PAGE": PAGE, "WIDTH": INDEX_DIM + 4, "IN_FLOAT32": False}
    num_warps, num_stages = constants.pop("num_warps"), constants.pop("num_stages")
    case = case_of(f"index scores, {name}", index_scores.index_scores_kernel, signature, constants, num_warps)
    return replace(case, num_stages=num_stages)


def selection_case() -> KernelCase:
    signature = {"scores": "*fp32", "score_row": "i32:16"}
    signature |= dict.fromkeys(("token_rows", "token_keys", "block_table", "slots", "counts"), "*i32")
    signature |= dict.fromkeys(("first", "table_row", "slot_row"), "i32")
    constants = {"TOPK": TOPK, "PAGE": PAGE, "BLOCK": selection.BLOCK, "TAKEN_BLOCK": selection.TAKEN_BLOCK}
    return case_of("selection", selection.select_kernel, signature, constants, selection.NUM_WARPS)


def places_case() -> KernelCase:
    signature = {"query_starts": "*i32", "num_keys": "*i32", "out": "*i32", "num_seqs": "i32", "num_tokens": "i32"}
    constants = {"TOKENS": places.TOKENS, "SEQUENCES": places.SEQUENCES}
    return case_of("token places", places.token_places_kernel, signature, constants, 4)


def latents_case() -> KernelCase:
    kernel = writes.latents_kernel
    signature = {name: "i32:16" for name in kernel.arg_names if name.endswith(("_token", "_head"))}
    signature |= dict.fromkeys(("query", "latents", "norm", "pool", "out"), "*bf16")
    signature |= {"cos": "*fp32", "sin": "*fp32", "slots": "*i64", "eps": "fp32", "num_heads": "i32:16"}
    constants = writes.constants_of(RANK, ROTATED, 128, True)
    return case_of("latents, rotate and write", kernel, signature, constants, constants.pop("num_warps"))


def index_keys_case() -> KernelCase:
    signature = {"slots": "*i64", "norm": "*bf16", "norm_bias": "*bf16", "eps": "fp32", "heads": "i32"}
    return index_case("index keys", signature, {"WIDTH": INDEX_DIM + 4, "PAGE": PAGE}, 16)


def index_queries_case() -> KernelCase:
    signature = {"head_weights": "*fp32", "weights": "*fp32", "heads": "i32:16"}
    return index_case("index queries", signature, {"WIDTH": INDEX_DIM, "PAGE": 1, "eps": 0.0}, INDEX_HEADS)


def index_case(name: str, types: Mapping[str, str], sizes: Mapping[str, Any], rows: int) -> KernelCase:
    signature = {"source": "*bf16", "cos": "*fp32", "sin": "*fp32", "out": "*fp8e4nv", "scales": "*fp32"}
    signature |= {"num_rows": "i32", "source_token": "i32:16", "cos_token": "i32:16", "sin_token": "i32:16"}
    cos = torch.empty(1, ROTATED)
    constants = index_writes.constants_of(INDEX_DIM, (cos, cos), rows) | {"IN_FLOAT32": False} | dict(sizes)
    return case_of(name, index_writes.index_kernel, signature | dict(types), constants, constants.pop("num_warps"))
