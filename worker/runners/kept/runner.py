"""Keeps the weights of a proven runner, and makes the same runner on them: here, and in the process after this one."""

import logging
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import Any

import torch

from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.spec import LatentSpec
from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kept.tensors import BrokenMemory, KeptTensors, TensorWriter
from worker.kernels.forms import NoForm, Parts, form_of, made_of
from worker.kernels.fused import PackedBefore
from worker.models.experts.stored import put_products
from worker.models.kept.state import KeptFault, put_state, state_form
from worker.models.loader import LoadedModel
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.latent.native import NativeLatentRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.layer_survey import LayerSurvey, cache_to_try
from worker.runners.micro_batches import MicroBatches
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.probe import (
    Expected,
    Unsupported,
    compared,
    logits_after,
    probe_sequence,
    probe_tokens,
    use_paged_attention,
)
from worker.state.kv_cache import LayerShape

logger = logging.getLogger(__name__)

RUNNERS = MappingProxyType(
    {kind.__name__: kind for kind in (DecoderRunner, NativeDecoderRunner, LatentRunner, NativeLatentRunner)}
)
MAX_DEVIATION = 1e-3  # of the logits' spread, from those that were computed when the weights were kept
NUM_CHECKED = 4  # tokens whose logits are compared
PROBE = "probe"  # the name of these logits


def keep_runner(loaded: LoadedModel, runner: ModelRunner, layers: LayerSurvey, num_parameters: int) -> ModelRunner:
    """The runner on kept memory, where a successor finds its weights; `runner` itself where they cannot be kept.

    The weights are moved: `runner` can no longer run if another one is returned. Raises KeptFault.
    """
    kept, model, parts = loaded.kept, loaded.model, Parts()
    assert kept is not None
    try:
        if not isinstance(runner, DecoderRunner) or type(runner) not in RUNNERS.values():
            raise NoForm(f"the weights of a {type(runner).__name__} are not kept")
        made = runner.made if isinstance(runner, LatentRunner) else runner.products
        about = {
            "runner": type(runner).__name__,
            "products": [form_of(each, f"products.{at}", parts) for at, each in enumerate(made)],
            "state": state_form(model, parts),
            "layers": [
                {
                    "layer": layer,
                    **{
                        what: form_of_fields(each, f"{what}s.{layer}", parts)
                        for what, each in (("shape", shape), ("spec", spec))
                    },
                }
                for layer, (shape, spec) in layers.found.items()
            ],
            "num_layers": layers.num_layers,
            "num_parameters": num_parameters,
            "card": asdict(loaded.card),
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "num_threads": torch.get_num_threads(),
            "num_passes": loaded.num_passes,
        }
        parts.add(PROBE, checked_logits(runner, model), lambda: None)
        writer = TensorWriter(kept.keep, kept.name, parts.tensors, about)
    except (NoForm, OSError) as reason:
        logger.info("the weights are not kept for a successor: %s", reason)
        return runner
    for name in list(parts.tensors):
        writer.put(name, parts.tensors.pop(name))
        parts.releases.pop(name)()
    found = writer.finish()
    put_state(model, about["state"], found)
    return proven_on(found, loaded, layers)


def restored_runner(loaded: LoadedModel) -> tuple[ModelRunner, LayerSurvey, int]:
    """The runner that another process has proven, how its layers attend, and the model's number of parameters.

    Raises KeptFault.
    """
    assert loaded.kept is not None and loaded.kept.found is not None
    found = loaded.kept.found
    layers = LayerSurvey(loaded.card.max_model_len, num_layers=found.about["num_layers"])
    for each in found.about["layers"]:
        shape, spec = (made_of(each[what], found) for what in ("shape", "spec"))
        layers.found[each["layer"]] = LayerShape(**shape), (LatentSpec if "rank" in spec else AttentionSpec)(**spec)
    use_paged_attention(loaded.model)
    return proven_on(found, loaded, layers), layers, found.about["num_parameters"]


def proven_on(found: KeptTensors, loaded: LoadedModel, layers: LayerSurvey) -> ModelRunner:
    """Raises KeptFault where the runner does not compute what it did when its weights were kept."""
    about, model = found.about, loaded.model
    cache = cache_to_try(loaded, layers, NUM_CHECKED + 1)
    products = PackedBefore(made_of(form, found) for form in about["products"])
    try:
        maker = LatentAttention if layers.is_of_latents else PagedAttention
        runner = RUNNERS[about["runner"]](model, cache, layers.specs, maker, products)
        if isinstance(runner, NativeDecoderRunner) and loaded.num_passes > 1:
            runner.micro_batches = MicroBatches(loaded.num_passes)
        compared(checked_logits(runner, model), Expected(found[PROBE][0], MAX_DEVIATION))
        put_products(model, runner.products)
    except Unsupported as reason:
        raise KeptFault(f"kept weights do not compute what they did: {reason}") from reason
    except (OSError, BrokenMemory) as fault:  # of experts in files
        raise KeptFault(f"what belongs to kept weights is gone: {fault}") from fault
    return runner


def checked_logits(runner: ModelRunner, model: Any) -> torch.Tensor:
    """[1, vocab], after one pass, which reads all weights once: as long as a step takes."""
    prompt = probe_tokens(model)[:NUM_CHECKED].tolist()
    return logits_after(runner, [probe_sequence(prompt)], next_id=0, chunks=(NUM_CHECKED,))


def form_of_fields(thing: LayerShape | AttentionSpec, name: str, parts: Parts) -> Any:
    return form_of({each.name: getattr(thing, each.name) for each in fields(thing)}, name, parts)
