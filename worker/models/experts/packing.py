"""Packs a model's routed experts into files, once, by all cores; from then on they are mapped."""

import errno
import logging
from collections.abc import Mapping
from collections.abc import Sequence as Seq
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch

from common.process.machine_memory import total_bytes
from worker.kept.files import TensorFile, TensorFileWriter
from worker.kept.folder import FileFolder
from worker.kept.tensors import BrokenMemory
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm, can_lay_out, lay_out
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.experts.mapped import FORM
from worker.kernels.native import NoKernels
from worker.kernels.quantized import Quantization
from worker.models.experts.source import LayerSource
from worker.models.experts.threads import threads
from worker.progress import MAPPED, WEIGHTS, ByteProgress, OnProgress

logger = logging.getLogger(__name__)

MAX_DEVIATION = 0.02  # of a product's largest number; rounding to bf16 makes 0.004
ATTEMPTS = 3  # to have all files whole
NUM_CHECKED = 3  # tokens of the product that is compared
RESERVED_BYTES = 2**31  # of memory, for all else
BYTES_IN_PASSING = 16  # that packing takes for each number of an expert
PACKING, READING = WEIGHTS, (WEIGHTS + MAPPED) / 2  # where they begin, of a start's progress


@dataclass(frozen=True, slots=True)
class FirstPiece:
    """The form of a layer's experts, and the tensors of the first."""

    form: ExpertsForm
    tensors: Mapping[str, torch.Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.tensors.values())

    def without_numbers(self) -> "FirstPiece":
        return FirstPiece(self.form, {name: part.to("meta") for name, part in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class Packer:
    """How experts are packed: to compute in `dtype`, as they are in the checkpoint or quantized."""

    dtype: torch.dtype
    quantization: Quantization | None

    @property
    def name(self) -> str:
        return f"{self.dtype} {self.quantization.name if self.quantization else ''}"

    def first(self, source: LayerSource) -> FirstPiece:
        """Raises NoKernels where no kernel reads such experts, ValueError where they are damaged."""
        up, down = source.read(0, self.dtype, self.quantization)
        if not isinstance(source.activate, Activation):
            raise NoKernels("no kernel computes the activation of its experts")
        if not (can_lay_out(up) and can_lay_out(down)):
            raise NoKernels(f"no kernel reads experts of {up.kind} in groups of {up.group}")
        form = ExpertsForm.of(up, down, source.activate)
        return FirstPiece(form, lay_out(form, up, down))

    def piece(self, form: ExpertsForm, source: LayerSource, expert: int) -> Mapping[str, torch.Tensor]:
        """The tensors of one expert."""
        return lay_out(form, *source.read(expert, self.dtype, self.quantization))

    def check(self, form: ExpertsForm, source: LayerSource) -> None:
        """Raises ValueError where the first expert of a layer does not compute what its weights stand for."""
        up, down = (weights.map_parts(first_of) for weights in source.read(0, self.dtype, self.quantization))
        hidden = torch.linspace(-1, 1, NUM_CHECKED * up.num_in, dtype=self.dtype).view(NUM_CHECKED, -1)
        chosen, ones = torch.zeros(NUM_CHECKED, 1, dtype=torch.long), torch.ones(NUM_CHECKED, 1)
        found, expected = torch.empty_like(hidden), torch.empty_like(hidden)
        tensors = {name: part[None] for name, part in self.piece(form, source, 0).items()}
        CpuExperts(form, tensors)(hidden, chosen, ones, found)
        LoopedExperts(ExpertLayer(up, down, None, None, source.activate))(hidden, chosen, ones, expected)
        if not (found - expected).abs().max() <= MAX_DEVIATION * expected.abs().max():
            raise ValueError(f"the packed experts of {source.name} do not compute what they should")


class ExpertFiles:
    """A folder with a file for each layer of a model."""

    def __init__(self, folder: FileFolder, sources: Seq[LayerSource], packer: Packer, on_progress: OnProgress) -> None:
        self._folder = folder
        self._sources = sources
        self._packer = packer
        self._on_progress = on_progress

    def complete(self) -> dict[str, TensorFile]:
        """The file of each layer, whole and in memory. Those that are missing are packed first.

        Raises NoKernels for experts that are not packed this way, OSError where the disk is too small, and ValueError
        where memory is, or for experts that cannot be read.
        """
        found: Exception | None = None
        for _ in range(ATTEMPTS):
            try:
                return self._complete()
            except (BrokenMemory, FileNotFoundError) as fault:  # damaged, or removed meanwhile
                logger.warning("packing experts again: %s", fault)
                found = fault
        raise OSError(
            f"files in {self._folder.path} are damaged or gone as soon as they are written ({found}). Check that disk, "
            "or set OMNI_DATA_DIR to a folder on another one."
        ) from found

    def _complete(self) -> dict[str, TensorFile]:
        self._folder.use()
        files = self._found()
        if files is None:
            with self._folder.filling(lambda: self._on_progress("waiting for a process that packs", WEIGHTS)):
                self._fill()
            files = self._found()
            if files is None:
                raise FileNotFoundError("files that were packed are gone")
        check_memory(sum(file.num_bytes for file in files.values()))
        self._read(list(files.values()))
        return files

    def _found(self) -> dict[str, TensorFile] | None:
        """The file of each layer; None if one is missing, or if packing gives something else than they have."""
        files = {source.name: file for source in self._sources if (file := self._folder.file(source.name)) is not None}
        return files if len(files) == len(self._sources) and self._is_as_packed(files) else None

    def _is_as_packed(self, files: Mapping[str, TensorFile]) -> bool:
        """Whether packing gives one expert as its file has it: our code may have changed."""
        source = next(source for source in self._sources if source.name in files)
        checked(files[source.name], 0)
        kept, piece = files[source.name].numbers(), self._packer.first(source)
        return files[source.name].about[FORM] == piece.form.as_json() and all(
            name in kept and part.dtype == kept[name].dtype and torch.equal(part, kept[name][0])
            for name, part in piece.tensors.items()
        )

    def _fill(self) -> None:
        files = {source.name: file for source in self._sources if (file := self._folder.file(source.name)) is not None}
        if files and not self._is_as_packed(files):
            self._folder.empty()
            files = {}
        missing = [source for source in self._sources if source.name not in files]
        firsts = {source.name: self._packer.first(source).without_numbers() for source in missing}
        num_bytes = sum(firsts[source.name].num_bytes * source.num_experts for source in missing)
        check_memory(num_bytes + sum(file.num_bytes for file in files.values()))
        try:
            self._pack(missing, firsts, num_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._folder.no_room(num_bytes) from error
            raise

    def _pack(self, missing: Seq[LayerSource], firsts: Mapping[str, FirstPiece], num_bytes: int) -> None:
        progress = ByteProgress("packing experts", num_bytes, (PACKING, READING), self._on_progress)
        with ExitStack() as writers, threads(self._sources[0].num_numbers * BYTES_IN_PASSING) as pool:
            opened = []
            with self._folder.making_room(num_bytes):
                for source in missing:
                    tensors = firsts[source.name].tensors
                    forms = {name: part.expand(source.num_experts, *part.shape) for name, part in tensors.items()}
                    about = {FORM: firsts[source.name].form.as_json()}
                    opened.append(TensorFileWriter(self._folder.path_of(source.name), forms, about))
                    writers.callback(opened[-1].close)
            for source, writer in zip(missing, opened, strict=True):
                for expert in range(source.num_experts):
                    pool.do(partial(self._put, writer, firsts[source.name].form, source, expert), progress.add)
            pool.finish(progress.add)

    def _put(self, writer: TensorFileWriter, form: ExpertsForm, source: LayerSource, expert: int) -> int:
        """The number of bytes that were written."""
        if expert == 0:
            self._packer.check(form, source)
        return writer.put(expert, self._packer.piece(form, source, expert))

    def _read(self, files: Seq[TensorFile]) -> None:
        """Bring files into memory that are on the disk only, and check them; of others, the first piece.

        Raises BrokenMemory when all are read; damaged ones are removed.
        """
        faults: dict[str, str] = {}

        def read(file: TensorFile, piece: int) -> int:
            try:
                return checked(file, piece)
            except BrokenMemory as fault:
                faults[file.path.name] = str(fault)
                return 0

        pieces = [(file, piece) for file in files for piece in range(1 if file.is_checked else file.num_pieces)]
        num_bytes = sum(file.num_bytes // file.num_pieces for file, _ in pieces)
        progress = ByteProgress("reading experts", num_bytes, (READING, MAPPED), self._on_progress)
        with threads() as pool:
            for file, piece in pieces:
                pool.do(partial(read, file, piece), progress.add)
            pool.finish(progress.add)
        if faults:
            raise BrokenMemory("; ".join(faults.values()))
        for file in files:
            file.stamp()


def checked(file: TensorFile, piece: int) -> int:
    """The bytes that were read. Raises BrokenMemory for a damaged file, which is removed."""
    try:
        return file.check(piece)
    except BrokenMemory:
        file.path.unlink(missing_ok=True)
        raise


def check_memory(num_bytes: int) -> None:
    """Raises ValueError where experts of this size, packed, are more than all memory."""
    if (lacking := num_bytes + RESERVED_BYTES - total_bytes()) > 0:
        raise ValueError(
            f"its experts take {num_bytes / 2**30:,.1f} GiB of memory, and this machine has "
            f"{total_bytes() / 2**30:,.1f}: {lacking / 2**30:,.1f} GiB are missing. Set OMNI_QUANTIZE=int4, choose a "
            "smaller model, or add memory."
        )


def first_of(part: torch.Tensor) -> torch.Tensor:
    """[...] -> [1, ...], of one expert."""
    return part[None]
