"""Loads a model whose routed experts stand in mapped files of packed tensors. transformers reads the rest."""

import hashlib
import logging
import re
import shutil
import weakref
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from worker.kept.files import TensorFile
from worker.kept.folder import RESERVED_SHARE, SUFFIX, FileFolder
from worker.kernels.experts.layer import matrix_names
from worker.kernels.experts.mapped import MappedExperts
from worker.kernels.experts.swap import drop_matrices, use_experts
from worker.kernels.native import NoKernels
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.packed.weights import Weights
from worker.models.dtypes import dtype_for
from worker.models.experts.packing import ExpertFiles, Packer
from worker.models.experts.source import LayerSource, expert_modules, layer_sources, sources_of
from worker.models.formats.format import Format
from worker.models.formats.packing import MODELOPT_FILE
from worker.models.formats.reader import (
    UnreadTensor,
    check_numbers,
    check_plain,
    dtype_of,
    load_tensors,
    name_model,
    named_tensors,
    on_meta,
    opened,
)
from worker.models.kept.key import files_of
from worker.models.loading_reports import reports_weights
from worker.models.model_files import file_of
from worker.progress import MAPPED, OnProgress

if TYPE_CHECKING:
    from worker.models.loader import EngineConfig

logger = logging.getLogger(__name__)

CONFIGURATIONS = ("config.json", MODELOPT_FILE, "model.safetensors.index.json")  # that experts depend on
MAX_NAME = 60  # characters of a folder's name that are the model's
LEAST_NUMBERS = 2_000_000_000  # of all routed experts; fewer are packed in moments, and kept in memory
PLAIN_NAME = re.compile(r"[^\w.-]+")


def load_stored(
    family: Any,
    model_path: str,
    model_config: Any,
    form: Format | None,
    root: Path | None,
    config: "EngineConfig",
    device: torch.device,
    on_progress: OnProgress,
) -> tuple[Any, dict[str, Any]] | None:
    """The model on the CPU, whose routed experts compute from files under `root`, and from_pretrained's loading info.

    `form`: of packed weights. None without a `root`, and for models without experts, or with few or other ones. Raises
    OSError or ValueError.
    """
    if root is None:
        return None
    meta, dtype = on_meta(family, model_config), dtype_of(model_config)
    if sum(source.num_all for source in sources_of(meta).values()) < LEAST_NUMBERS:
        return None
    num_parameters = sum(parameter.numel() for parameter in meta.parameters())
    kind = dtype_for(config, device, dtype, num_parameters, is_packed=form is not None)
    packer = Packer(kind, config.quantization)
    with ExitStack() as opened_files:
        tensors = dict(opened(model_path, opened_files))
        if form is None:
            check_numbers(model_path)
        else:
            tensors = named_tensors(tensors, form, dtype)
            check_plain(tensors, form)
        sources, tensors = layer_sources(meta, tensors)
        if not sources:
            return None
        folder = opened_files.enter_context(closing(FileFolder(root, folder_name(model_path, packer))))
        try:
            files = ExpertFiles(folder, sources, packer, on_progress).complete()
        except NoKernels as reason:
            logger.warning("its experts are not packed into files: %s", reason)
            return None
        for source in sources:
            tensors |= stand_ins(source, dtype)
        with reports_weights(on_progress, MAPPED):
            model, info = load_tensors(family, model_config, tensors, dtype, device_map=None)
        name_model(model, model_path)
        modules = {name: model.get_submodule(name) for name in files}
        use_mapped(model, {module: product_on(files[name], module) for name, module in modules.items()})
    logger.info("%s: experts are mapped from %s", model_path, folder.path)
    return model, info


def folder_name(model_path: str, packer: Packer) -> str:
    """Of all that packed experts depend on but our code, whose work is compared with the files."""
    digest = hashlib.sha256(packer.name.encode())
    for name in CONFIGURATIONS:
        if (path := file_of(model_path, name)) is not None:
            digest.update(path.read_bytes())
    for line in files_of(model_path, "*.safetensors"):
        digest.update(f"{line}\0".encode())
    name = PLAIN_NAME.sub("-", Path(model_path).name)[:MAX_NAME]
    return f"{name}-{digest.hexdigest()[:12]}"


def room_on_disk(root: Path) -> int:
    """Bytes for packed experts under `root`, with those that leave for others."""
    disk = shutil.disk_usage(next(path for path in (root, *root.absolute().parents) if path.exists()))
    packed = sum(path.stat().st_size for path in root.glob(f"*/*{SUFFIX}"))
    return int(disk.free - disk.total * RESERVED_SHARE) + packed


def stand_ins(source: LayerSource, dtype: torch.dtype) -> dict[str, "StandIn"]:
    """For a module's matrices, by the names of these parameters."""
    module = source.module
    return {
        f"{source.name}.{name}": StandIn(getattr(module, name).shape, dtype, is_turned=module.is_transposed)
        for name in matrix_names(module)
    }


def product_on(file: TensorFile, module: Any) -> MappedExperts:
    """The experts of a module, which lets go of its own matrices."""
    biases = [getattr(module, f"{name}_bias").detach() for name in matrix_names(module)] if module.has_bias else []
    drop_matrices(module)
    return MappedExperts(file, *biases)


def use_mapped(model: Any, products: Mapping[Any, MappedExperts]) -> None:
    """Let these modules compute by mapped files, which nobody removes while the model lives.

    Raises FileNotFoundError where somebody has removed them.
    """
    paths = [Path(product.path) for product in products.values()]
    folder = FileFolder(paths[0].parent.parent, paths[0].parent.name)
    weakref.finalize(model, folder.close)
    folder.use()
    for path in paths:
        path.stat()
    use_experts(model, products)


def put_products(model: Any, products: Iterable[Any]) -> None:
    """Tell a model without numbers of the experts that its runner has on mapped files, in the order of layers.

    Raises FileNotFoundError.
    """
    mapped = [product for product in products if isinstance(product, MappedExperts)]
    if mapped:
        modules = [module for _, module in expert_modules(model.named_modules())]
        use_mapped(model, dict(zip(modules, mapped, strict=True)))


class StandIn(UnreadTensor):
    """In the place of experts' matrices while transformers loads: of their shape, in no memory, and not a number."""

    def __init__(self, shape: torch.Size, dtype: torch.dtype, *, is_turned: bool) -> None:
        num_experts, num_out, num_in = (shape[0], *shape[:0:-1]) if is_turned else shape
        codes = torch.zeros(1, dtype=torch.int8).expand(num_experts, num_out, num_in)
        scales = torch.full((1,), torch.nan).expand(num_experts, num_out)
        self._tensor = PackedTensor(Weights("int8", dtype, num_in, codes, scales), is_turned)

    def __getitem__(self, _: Any) -> torch.Tensor:
        return self._tensor
