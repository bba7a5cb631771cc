"""Finds out, by running it, whether a model computes the same through our paged attention as through its own.

Whatever does not (indexers, pure state-space models, position schemes that need a whole prompt at once) is run one
sequence at a time with transformers' own cache instead.
"""

from collections.abc import Sequence as Seq
from typing import Any

import torch

from common.wire import SamplingParams
from worker.attention.paged import ATTENTION_NAME, register_attention
from worker.device import check_device
from worker.runners.base import Runner
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence
from worker.state.stopping import VisibleText

PROBE_LENGTH = 12  # tokens, computed in chunks of these sizes:
PROBE_CHUNKS = (5, 6, 1)  # two of a prompt, and the first token after it
PROBE_SEQS = 2  # at once: a kernel may be right for one and wrong for the second
MAX_DEVIATION = {
    torch.float32: 1e-3,
    torch.bfloat16: 6e-2,
    torch.float16: 2e-2,
}  # of the logits' spread, root mean square


class Unsupported(Exception):
    """The model cannot run on the fast path; the message says why."""


def attending_part(model: Any) -> Any:
    """What is to attend over our cache: all of a model of text, the language model of one of images."""
    return model.get_decoder() if hasattr(model.config, "vision_config") else model


def use_paged_attention(model: Any) -> None:
    """From here on the model attends through the `paged` argument of its forward call, and only so."""
    register_attention()
    attending_part(model).set_attn_implementation(ATTENTION_NAME)


@torch.inference_mode()
def stock_logits(model: Any) -> torch.Tensor:
    """Logits [vocab] after the probe tokens, computed by the model as it came."""
    logits = model(input_ids=probe_tokens(model)[None], use_cache=False).logits[0, -1]
    expected: torch.Tensor = logits.float()
    return expected


def check_equal(runner: Runner, model: Any, expected: torch.Tensor) -> None:
    """Raises Unsupported unless `runner`, in chunks and over its cache, arrives at the expected logits."""
    tokens = probe_tokens(model).tolist()
    check_sequences(runner, [probe_sequence(tokens) for _ in range(PROBE_SEQS)], PROBE_CHUNKS, expected, model.dtype)


def check_sequences(
    runner: Runner, sequences: Seq[Sequence], chunks: Seq[int], expected: torch.Tensor, dtype: torch.dtype
) -> None:
    """The same for equal sequences, computed in these chunks; their last token comes as if it had been drawn."""
    tokens = sequences[0].token_ids
    num_blocks = runner.kv_cache.num_blocks_for(len(tokens))
    for sequence in sequences:
        sequence.token_ids = tokens[:-1]
        sequence.block_ids = runner.kv_cache.pool.allocate(num_blocks)
    try:
        logits = expected
        for num_tokens in chunks:
            logits = runner.forward([ScheduledSequence(sequence, num_tokens) for sequence in sequences])
            for sequence in sequences:
                sequence.num_computed += num_tokens
                sequence.token_ids = tokens[: max(sequence.num_computed + 1, len(tokens) - 1)]
    except Exception as error:  # any model at all may come along here
        check_device()
        raise Unsupported(f"its forward pass fails on our cache ({type(error).__name__}: {error})") from error
    finally:
        for sequence in sequences:
            runner.kv_cache.release(sequence)
            runner.forget(sequence)
    deviation = ((logits - expected).square().mean(dim=-1).sqrt().max() / expected.std()).item()
    if not deviation <= MAX_DEVIATION[dtype]:
        raise Unsupported(f"its logits differ by {deviation:.2g} of their spread")


def probe_tokens(model: Any) -> torch.Tensor:
    """[PROBE_LENGTH] token ids, all different."""
    vocab_size: int = model.config.get_text_config().vocab_size
    return torch.arange(PROBE_LENGTH, device=next(model.parameters()).device) * 7 % (vocab_size - 1) + 1


def probe_sequence(token_ids: list[int], images: tuple[str, ...] = (), images_end: int = 0) -> Sequence:
    text = VisibleText(detokenizer=None, stops=(), min_tokens=0)  # type: ignore[arg-type]  # never shown
    return Sequence(
        request_id="probe",
        index=0,
        sampling=SamplingParams(max_tokens=1, seed=0),
        token_ids=token_ids,
        num_prompt_tokens=len(token_ids),
        text=text,
        ends=frozenset(),
        cache_salt="probe",
        images=images,
        images_end=images_end,
    )
