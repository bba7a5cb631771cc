"""Experts on a mapped file, which another process finds again by the file's name."""

from pathlib import Path

import torch

from worker.kept.files import TensorFile
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm

FORM = "form"  # of a file's `about`: that of its tensors


class MappedExperts(CpuExperts):
    """Nothing of it is in memory of its own but biases."""

    def __init__(
        self, file: TensorFile, up_bias: torch.Tensor | None = None, down_bias: torch.Tensor | None = None
    ) -> None:
        """Raises NoKernels."""
        self.path = str(file.path)
        super().__init__(ExpertsForm.of_json(file.about[FORM]), file.numbers(), up_bias, down_bias)

    def bind(self) -> None:
        """As CpuExperts; maps the file if it is not yet. Raises OSError or BrokenMemory where it has changed."""
        if "tensors" not in vars(self):
            self.tensors = TensorFile(Path(self.path)).numbers()
        super().bind()

    @property
    def num_numbers(self) -> int:
        """The parameters of all experts."""
        form, num_experts = self.form, len(self.tensors["up.codes"])
        return num_experts * sum(matrix.num_out * matrix.num_in for matrix in (form.up, form.down))
