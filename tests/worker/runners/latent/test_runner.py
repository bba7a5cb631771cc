"""Logits and selected keys of models over latents are transformers' own, in float32: alone, in batches, in chunks."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers.models.deepseek_v32.modeling_deepseek_v32 import DeepseekV32Indexer

from tests.worker.conftest import prompt_of
from tests.worker.runners.latent.models import YARN, runner_of, steps, stock, stock_model
from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.selection import Selected
from worker.runners.choose import Unsupported
from worker.runners.latent.runner import LatentRunner
from worker.runners.latent.survey import survey_latents

TOPK = 16
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "V3": ("deepseek_v3", {}),
    "V3 with yarn": ("deepseek_v3", {"rope_parameters": YARN}),
    "queries without latents, rotated by halves": ("deepseek_v3", {"q_lora_rank": None, "rope_interleave": False}),
    "V3.2": ("deepseek_v32", {"index_topk": TOPK}),
    "V3.2 with yarn": ("deepseek_v32", {"index_topk": TOPK, "rope_parameters": YARN}),
    "GLM 4.7 Flash": ("glm4_moe_lite", {}),
    "GLM 5": ("glm_moe_dsa", {"index_topk": TOPK}),
    "GLM 5.2, where layers choose keys for those after them": (
        "glm_moe_dsa",
        {"index_topk": TOPK, "num_hidden_layers": 4, "indexer_types": ["full", "shared", "full", "shared"]},
    ),
    "V2": ("deepseek_v2", {"topk_method": "group_limited_greedy", "routed_scaling_factor": 16.0}),
    "V2 Lite, with yarn": ("deepseek_v2", {"q_lora_rank": None, "n_group": None, "rope_parameters": YARN}),
}
LENGTHS = (120, TOPK + 4, 61, 9)  # tokens: far beyond the selected ones, around them, and fewer
MOST = 1e-4  # of logits whose spread is 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [200, 23])
@torch.inference_mode()
def test_logits_of_every_step_are_those_of_the_stock_model(name: str, chunk: int) -> None:
    family, changes = MODELS[name]
    model = stock_model(family, **changes)
    texts = [prompt_of(length) for length in LENGTHS]
    expected = [stock(model, text) for text in texts]
    runner = runner_of(model)
    num_compared = 0
    for batch in ([0], [0, 1, 2, 3]):
        for at, position, logits in steps(runner, [texts[each] for each in batch], chunk, num_decoded=6):
            torch.testing.assert_close(logits, expected[batch[at]][position], atol=MOST, rtol=0)
            num_compared += 1
    assert num_compared == (1 + len(LENGTHS)) * 7


@torch.inference_mode()
def test_keys_that_are_not_selected_matter() -> None:
    """The control of the test above: all keys, or one more of them, give other logits."""
    text = prompt_of(60)
    expected = stock(stock_model("deepseek_v32", index_topk=TOPK), text)[-1]
    for topk in (TOPK + 1, 100):
        runner = runner_of(stock_model("deepseek_v32", index_topk=topk))
        *_, (_, _, logits) = steps(runner, [text], 200, num_decoded=0)
        assert (logits - expected).abs().max() > 100 * MOST


@contextmanager
def choices_of_stock(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, torch.Tensor]]:
    """Within this, the keys [T, topk] that the stock model's layers choose, by layer."""
    found: dict[int, torch.Tensor] = {}
    forward = DeepseekV32Indexer.forward

    def noted(self: Any, *args: Any, **named: Any) -> torch.Tensor:
        chosen: torch.Tensor = forward(self, *args, **named)
        found[self.layer_idx] = chosen[0]
        return chosen

    with monkeypatch.context() as patched:
        patched.setattr(DeepseekV32Indexer, "forward", noted)
        yield found


class NotingAttention(LatentAttention):
    """Notes the positions that are selected for the last token of each group."""

    found: dict[tuple[int, int], set[int]]

    def select(self, layer_idx: int, *args: Any) -> Selected | None:
        selected = super().select(layer_idx, *args)
        for group in self.groups if selected is not None else ():
            assert selected is not None and group.batch == 1
            blocks = group.blocks if isinstance(group.blocks, slice) else group.blocks.tolist()
            ids = list(range(blocks.start, blocks.stop)) if isinstance(blocks, slice) else blocks
            slots = selected.slots[group.stop - 1, : selected.counts[group.stop - 1]].tolist()
            places = {ids.index(slot // 16) * 16 + slot % 16 for slot in slots}
            self.found[layer_idx, int(group.query_positions[0, -1])] = places
        return selected


@pytest.mark.parametrize("length", [TOPK + 1, TOPK + 2, 100])
@torch.inference_mode()
def test_the_selected_keys_are_those_of_the_stock_model(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = stock_model("deepseek_v32", index_topk=TOPK), prompt_of(length)
    with choices_of_stock(monkeypatch) as expected:
        stock(model, text)
    monkeypatch.setattr(NotingAttention, "found", found := {}, raising=False)
    for _ in steps(runner_of(model, NotingAttention), [text], 7, num_decoded=3):
        pass
    compared = {key for key in found if key[1] >= TOPK}
    assert {layer for layer, _ in compared} == {0, 1} and length - 1 in {position for _, position in compared}
    for layer, position in compared:
        assert found[layer, position] == set(expected[layer][position].tolist())


def test_models_with_other_parts_are_refused() -> None:
    model = stock_model("deepseek_v3")
    model.model.layers[1].self_attn.more = torch.nn.Linear(2, 2)
    with pytest.raises(Unsupported, match="more"):
        runner_of(model)
    assert survey_latents(stock_model("llama"), 512, torch.float32) is None


@torch.inference_mode()
def test_the_cache_holds_latents_and_index_keys_of_the_released_form() -> None:
    for family, in_16_bits in (("deepseek_v3", 24 * 2), ("deepseek_v32", 24 * 2 + 16 + 4)):
        model = stock_model(family)
        layers = survey_latents(model, 512, torch.bfloat16)
        assert layers is not None and layers.is_of_latents
        assert {shape.token_bytes(torch.bfloat16) for shape in layers.shapes} == {in_16_bits}
    assert isinstance(runner_of(model), LatentRunner)
