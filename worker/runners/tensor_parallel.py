"""One model over several ranks: transformers shards it by its own plan, and our attention runs on each rank's heads.

Rank 0 schedules and samples. Before each forward pass it sends the inputs to the other ranks; all ranks compute the
pass, and the collectives inside the model add up the logits.
"""

import logging
from collections.abc import Sequence as Seq
from dataclasses import replace
from enum import IntEnum
from typing import Any

import torch
from torch import distributed

from worker.attention.paged import PagedAttention
from worker.attention.spec import AttentionSpec
from worker.device import check_device
from worker.models.dtypes import count_parameters
from worker.models.loader import EngineConfig, LoadedModel
from worker.ranks import NEVER
from worker.runners.base import AttentionMaker, ModelRunner
from worker.runners.candidates import attention_makers
from worker.runners.layer_survey import survey_layers
from worker.runners.limits import Limits, choose_limits, kv_memory_bytes
from worker.runners.probe import (
    Expected,
    Unsupported,
    check_equal,
    probe_sequence,
    stock_logits,
    use_paged_attention,
)
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence
from worker.state.step_wire import pack_rows, unpack_rows

logger = logging.getLogger(__name__)


class RankCommand(IntEnum):
    """A command of rank 0 to the other ranks."""

    STEP = 0
    ZERO = 1


class Channel:
    """RankCommands from rank 0 to all ranks. Always over gloo, because a GPU would spin while it waits."""

    def __init__(self) -> None:
        self._group: Any = distributed.new_group(backend="gloo", timeout=NEVER)

    def send(self, command: RankCommand, maker: int, numbers: Seq[int]) -> None:
        head = torch.tensor([command, maker, len(numbers)])
        distributed.broadcast(head, 0, group=self._group)
        if numbers:
            distributed.broadcast(torch.tensor(numbers), 0, group=self._group)

    def receive(self) -> tuple[RankCommand, int, list[int]]:
        head = torch.empty(3, dtype=torch.long)
        distributed.broadcast(head, 0, group=self._group)
        command, maker, length = head.tolist()
        numbers = torch.empty(length, dtype=torch.long)
        if length:
            distributed.broadcast(numbers, 0, group=self._group)
        return RankCommand(command), maker, numbers.tolist()

    def least(self, number: int) -> int:
        """The smallest of the numbers that the ranks pass."""
        shared = torch.tensor([number])
        distributed.all_reduce(shared, distributed.ReduceOp.MIN, group=self._group)
        return int(shared.item())


class SharedKVCache(KVCache):
    """A rank's part of the KV cache; rank 0's allocates for all parts."""

    channel: Channel
    is_elastic = False  # the other ranks would have to move the same blocks

    def zero(self, sequence: Sequence) -> None:
        """See KVCache.zero(). The other ranks wipe the same blocks."""
        self.channel.send(RankCommand.ZERO, 0, self.pool.exclusive(sequence.block_ids))
        super().zero(sequence)


class LeadingRunner(ModelRunner):
    """Rank 0's ModelRunner, which makes the other ranks compute the same pass."""

    takes_pending = False  # the other ranks receive token ids

    def __init__(
        self, model: Any, kv_cache: KVCache, channel: Channel, maker: int, attend_with: AttentionMaker
    ) -> None:
        super().__init__(model, kv_cache, attend_with)
        self._channel = channel
        self._maker = maker

    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner. A failure ends this process and so all ranks, because they may wait at different collectives."""
        self._channel.send(RankCommand.STEP, self._maker, pack_rows(rows))
        try:
            return super().forward(rows)
        except Exception as error:
            logger.exception("a step that is shared by several ranks failed")
            raise SystemExit(1) from error


def shared_parts(
    loaded: LoadedModel, config: EngineConfig
) -> tuple[Expected, KVCache, Limits, Channel, list[AttentionMaker]]:
    """The parts that every rank builds, in the same order. Raises ValueError for a model that cannot be shared."""
    model, channel = loaded.model, Channel()
    expected = stock_logits(model)
    try:
        layers = survey_layers(model, loaded.card.max_model_len)
        layers.check_all_attend()
    except Unsupported as reason:
        raise ValueError(f"{loaded.card.architecture} cannot run over several devices: {reason}.") from reason
    use_paged_attention(model)
    num_parameters = count_parameters(model)
    memory = channel.least(config.kv_memory_bytes or kv_memory_bytes(loaded, config, num_parameters))
    limits = choose_limits(loaded, replace(config, kv_memory_bytes=memory), layers.shapes, num_parameters)
    kv_cache = SharedKVCache(layers.shapes, limits.num_blocks, limits.block_size, loaded.dtype, loaded.device)
    kv_cache.channel = channel
    makers = [  # tried by all ranks now, because a step that fails ends them
        maker
        for maker in attention_makers(loaded.device)
        if maker is PagedAttention or channel.least(int(attends(maker, kv_cache, layers.specs, loaded.dtype)))
    ]
    return expected, kv_cache, limits, channel, makers


@torch.inference_mode()
def attends(maker: AttentionMaker, kv_cache: KVCache, specs: Seq[AttentionSpec], dtype: torch.dtype) -> bool:
    """True if this kind of attention runs on every layer. Writes nothing."""
    sequence = probe_sequence([0, 0])
    sequence.block_ids = kv_cache.pool.allocate(1)
    device = kv_cache.keys[0].device
    try:
        attention = maker(kv_cache, [ScheduledSequence(sequence, 2)], device)
        for layer_idx, (shape, spec) in enumerate(zip(kv_cache.shapes, specs, strict=True)):
            num_heads = shape.num_kv_heads if spec.sinks is None else len(spec.sinks)
            attention.attend(layer_idx, torch.zeros(2, num_heads, shape.key_dim, dtype=dtype, device=device), spec)
        check_device()
    except Exception as error:  # kernels fail in many ways
        logger.warning("not with %s: %s", maker.__qualname__, error)
        return False
    finally:
        kv_cache.free(sequence)
    return True


def leading_runner(loaded: LoadedModel, config: EngineConfig) -> tuple[ModelRunner, Limits]:
    """Rank 0's runner, after the probe has compared it with the stock model."""
    expected, kv_cache, limits, channel, makers = shared_parts(loaded, config)
    refusal = Unsupported("")
    for number, maker in enumerate(makers):
        runner = LeadingRunner(loaded.model, kv_cache, channel, number, maker)
        try:
            check_equal(runner, loaded.model, expected)
        except Unsupported as reason:
            refusal = reason
        else:
            logger.info("%d ranks share %s", distributed.get_world_size(), loaded.card.architecture)
            return runner, limits
    raise ValueError(f"{loaded.card.architecture} cannot run over several devices: {refusal}.")


@torch.inference_mode()
def follow(loaded: LoadedModel, config: EngineConfig) -> None:
    """Execute rank 0's commands until it dies."""
    _, kv_cache, _, channel, makers = shared_parts(loaded, config)
    runners = [ModelRunner(loaded.model, kv_cache, maker) for maker in makers]
    while True:
        command, maker, numbers = channel.receive()
        if command is RankCommand.STEP:
            runners[maker].forward(unpack_rows(numbers))
        else:
            kv_cache.wipe(numbers)
