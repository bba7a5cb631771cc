"""From scheduled sequences to logits: the flat inputs of a ragged step, and one forward pass over them."""

from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any, Protocol

import torch

from worker.attention.paged import Attention, PagedAttention, write_slots
from worker.device import upload
from worker.kernels.adapters.linear import CurrentSlots
from worker.kernels.adapters.low_rank import TokenSlots
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.proxies import swapped_linears
from worker.models.features import FeatureTap, StepFeatures
from worker.progress import OnProgress
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

TokenRun = tuple[int, int]  # the slot of an adapter, or 0, and a number of tokens
# Makes what _run() takes: an Attention, or, in runners over latents, attention over these.
AttentionMaker = Callable[[KVCache, Seq[ScheduledSequence], torch.device], Any]


class Runner(Protocol):
    """The engine's interface to a model: a forward pass over a step's rows, and the cache that they use."""

    kv_cache: KVCache
    takes_pending: bool  # forward() reads pending tokens from `sampled`
    takes_drafts: bool  # forward() computes drafted tokens together with the next one
    adapters: "StepAdapters | None"  # which forward() computes rows with

    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """Logits [S, vocab], float32: for each row that samples, of its last token and of each drafted one, in order.

        `sampled`: the token ids of the step in flight, on the device.
        """

    def forget(self, sequence: Sequence) -> None:
        """Drop all state of a sequence outside its KV blocks, which it has lost."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """Prepare for steps of this size. `kv_cache` is the final one."""


Run = Callable[[torch.Tensor, torch.Tensor, Attention, torch.Tensor], torch.Tensor]  # see ModelRunner._run()


class StepAdapters(Protocol):
    """The adapters of a runner's model (worker/runners/parts/adapters.py)."""

    current: CurrentSlots

    num_layouts: int  # changes when recordings of passes with adapters become void

    def of_runs(self, runs: Seq[TokenRun]) -> TokenSlots:
        """The slots of a pass over these tokens, one run after the other."""

    def of_index(self, slots: torch.Tensor) -> TokenSlots:
        """On a GPU: of a tensor [T], which a recorded step reads again each time."""

    def numbers_of(self, runs: Seq[TokenRun], size: int) -> torch.Tensor:
        """On a GPU: such a tensor, with tokens without an adapter up to `size`."""


def adapted(adapters: StepAdapters | None, runs: Seq[TokenRun]) -> AbstractContextManager[None]:
    """Within this, a pass over these tokens, one run after the other, computes each with its adapter."""
    if adapters is None or not any(slot for slot, _ in runs):
        return nullcontext()
    return adapters.current.during(adapters.of_runs(runs))


def token_runs(rows: Iterable[ScheduledSequence]) -> list[TokenRun]:
    return [(row.sequence.adapter, row.num_inputs) for row in rows]


class RecordedSteps(Protocol):
    """Steps of fixed shapes that a GPU replays (worker/runners/recorded)."""

    def warm_up(
        self, runner: "ModelRunner", run: Run, max_num_seqs: int, max_model_len: int, on_progress: OnProgress
    ) -> None:
        """Record the runner's forward pass `run` for steps of this size, and run those that are not recorded once."""

    def forget(self) -> None:
        """The model has other addresses: nothing is replayed before the next warm_up()."""

    def replay(
        self, rows: Seq[ScheduledSequence], order: Seq[int], sampled: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """Logits as forward() returns them, and what _run() kept; None if no recording holds the rows.

        `order`: for each row, which are in kernel order, its place among those asked for.
        """


class ModelRunner:
    """Runs a transformers model over a flat batch, its attention replaced by PagedAttention."""

    takes_pending = takes_drafts = True
    can_be_recorded = True  # forward() is one _run()
    recordings: RecordedSteps | None = None
    adapters: StepAdapters | None = None  # set before warm_up()
    hosted: HostedExperts | None = None  # the model's experts, where they stand in host memory beside a GPU
    feature_layers: tuple[int, ...] = ()  # whose hidden states are handed over; set before warm_up()
    features: StepFeatures | None = None  # of the last step; None if it failed
    kept: torch.Tensor | None = None  # the features of the last _run(), [T, width * layers]

    def __init__(self, model: Any, kv_cache: KVCache, attend_with: AttentionMaker = PagedAttention) -> None:
        self.model = model
        self.kv_cache = kv_cache
        self.attend_with = attend_with

    def forward(self, rows: Seq[ScheduledSequence], sampled: torch.Tensor | None = None) -> torch.Tensor:
        """See Runner. Rows are computed in kernel order; their logits are returned in the order of `rows`."""
        if self.hosted is not None:
            self.hosted.between_steps()
        order = sorted(range(len(rows)), key=lambda at: kernel_order(rows[at]))
        ordered = [rows[at] for at in order]
        self.features = None
        found = self.recordings.replay(ordered, order, sampled) if self.recordings is not None else None
        if found is not None:
            logits, self.kept = found
        else:
            logits = self.unrecorded(ordered, order, sampled)
        self._hand_over(ordered)
        return logits

    def unrecorded(
        self, ordered: Seq[ScheduledSequence], order: Seq[int], sampled: torch.Tensor | None
    ) -> torch.Tensor:
        """forward() of rows in kernel order. `order`: see RecordedSteps.replay()."""
        device = self.kv_cache.keys[0].device
        paged = self.attend_with(self.kv_cache, ordered, device)
        places = torch.tensor([at for row in ordered for at in positions_of(row)])
        wanted = torch.tensor(sampled_positions(ordered, order), dtype=torch.long)
        positions, selected = upload(places, device), upload(wanted, device)
        with adapted(self.adapters, token_runs(ordered)):
            return self._run(flat_inputs(ordered, sampled, device), positions, paged, selected).float()

    def forget(self, sequence: Sequence) -> None:
        """Nothing is kept outside the KV blocks."""

    def warm_up(self, max_num_seqs: int, max_model_len: int, on_progress: OnProgress) -> None:
        """See Runner."""
        if self.recordings is not None:
            self.recordings.warm_up(self, self._run, max_num_seqs, max_model_len, on_progress)

    def recorded_attention(self, tensors: Any, max_queries: int) -> Attention:
        """Of a recorded step, whose StepTensors are buffers; see KernelAttention."""
        from worker.attention.kernel import KernelAttention

        return KernelAttention(self.kv_cache, tensors, max_queries)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Token ids [T] -> embeddings [T, width]."""
        embeddings: torch.Tensor = self.model.get_input_embeddings()(token_ids)
        return embeddings

    def project(self, normed: torch.Tensor) -> torch.Tensor:
        """Outputs of the final norm, [S, width] -> logits [S, vocab]."""
        logits: torch.Tensor = self.model.get_output_embeddings()(normed)
        return logits

    def can_continue(self, sequence: Sequence) -> bool:
        """True if the runner still holds the state of a partly computed sequence."""
        return True

    def begin(self, sequence: Sequence) -> dict[str, Any]:
        """Keyword arguments for a stock forward pass over a sequence that this runner will continue."""
        return {"use_cache": False}

    def keep(self, layer_idx: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write keys and values of a stock forward pass, [T, kv_heads, dim], to the `slots` [T] of the pools."""
        write_slots(self.kv_cache, layer_idx, slots, key, value)

    @property
    def linears(self) -> list[Any]:
        """The products that this runner computes itself, for measurements: here those that replace the model's own."""
        return swapped_linears(self.model)

    def release_weights(self) -> None:
        """Free the model's weights where this runner has its own copies. This one has none."""

    def share_weights(self) -> None:
        """As release_weights(), for a model that still has to run: its layers compute with the copies."""

    def _hand_over(self, ordered: Seq[ScheduledSequence]) -> None:
        """Set `features` to what _run() has kept of these rows."""
        if self.kept is not None:
            self.features = StepFeatures(self.kept, ordered)

    def _run(
        self, inputs: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """inputs, positions: [T]; selected: [S] of them -> logits [S, vocab]. Sets `kept` if features are wanted."""
        return self._modules({"input_ids": inputs[None]}, positions, paged, selected)

    def run_layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """Everything after the embedding: hidden states [T, width], which may be overwritten -> logits [S, vocab]."""
        return self._modules({"inputs_embeds": hidden[None]}, positions, paged, selected)

    def _modules(
        self, inputs: dict[str, torch.Tensor], positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        tap = FeatureTap(self.feature_layers, self.model.config.get_text_config().num_hidden_layers)
        with tap.hooked(self.model):
            output = self.model(
                **inputs, position_ids=positions[None], use_cache=False, paged=paged, logits_to_keep=selected
            )
        self.kept = tap.features
        logits: torch.Tensor = output.logits[0]
        return logits


def flat_inputs(rows: Seq[ScheduledSequence], sampled: torch.Tensor | None, device: torch.device) -> torch.Tensor:
    """Token ids [T] of the rows; pending ones are read from `sampled` [S], the samples of the step in flight."""
    inputs = upload(torch.tensor([token_id for row in rows for token_id in row.input_ids]), device)
    pending = pending_inputs(rows)
    if sampled is not None and pending:
        at, index = upload(torch.tensor(pending), device).unbind(1)
        inputs[at] = sampled_tokens(sampled, index)
    return inputs


def pending_inputs(rows: Seq[ScheduledSequence]) -> list[tuple[int, int]]:
    """(flat position, index among the samples of the step in flight) of each pending token."""
    stops = accumulate(row.num_inputs for row in rows)
    return [(stop - 1, row.pending) for row, stop in zip(rows, stops, strict=True) if row.pending is not None]


def sampled_tokens(sampled: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The samples at `index`. One that failed reads as token 0: its row is dropped when the samples are read."""
    return sampled[index].clamp(min=0)


def kernel_order(row: ScheduledSequence) -> tuple[bool, int]:
    """Sorts single tokens first, longest context first, so that neighbours can share a kernel call."""
    return (row.num_inputs > 1, -row.start)


def positions_of(row: ScheduledSequence) -> range:
    first = row.start + row.sequence.position_shift
    return range(first, first + row.num_inputs)


def sampled_positions(ordered: Seq[ScheduledSequence], order: Seq[int]) -> list[int]:
    """Indices of the tokens whose logits are wanted, in the order of the rows before they were sorted."""
    wanted: dict[int, list[int]] = {}
    start = 0
    for row, asked_at in zip(ordered, order, strict=True):
        stop = start + row.num_inputs
        wanted[asked_at] = list(range(start + row.num_tokens - 1, stop)) if row.samples else []
        start = stop
    return [position for asked_at in sorted(wanted) for position in wanted[asked_at]]
