"""The C kernels compute what transformers' model computes; a machine without a compiler runs without them."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.worker.conftest import Bench, ModelFolder, prompt_of
from worker.kernels import native
from worker.kernels.native import NoKernels
from worker.models.loader import EngineConfig
from worker.runners.decoder import DecoderRunner
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.recorded import native as native_runner

WIDE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "one KV head for two": ("llama", WIDE),
    "one KV head for all": ("llama", WIDE | {"num_key_value_heads": 1}),
    "a KV head each": ("llama", WIDE | {"num_key_value_heads": 4}),
    "wide heads": ("llama", WIDE | {"head_dim": 96}),
    "biases": ("qwen2", WIDE),
    "normed heads": ("qwen3", WIDE),
    "a window on all layers": ("mistral", WIDE | {"sliding_window": 24}),
    "a window": ("qwen2", WIDE | {"use_sliding_window": True, "sliding_window": 24, "max_window_layers": 1}),
}
LENGTHS = (1, 16, 40, 100, 150)  # shorter and longer than a block, a chunk of keys, and a tile of queries
CONFIG = EngineConfig(max_num_seqs=8, max_step_tokens=64, threads=2)


def refuse(dtype: torch.dtype) -> None:
    raise NoKernels("there is no C compiler")


pytestmark = pytest.mark.usefixtures("kernels")


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_equal_generate_alone_and_in_a_mixed_batch(name: str, model_folder: ModelFolder) -> None:
    family, changes = MODELS[name]
    bench = Bench(model_folder(family, **changes), CONFIG)
    assert isinstance(bench.engine.runner, NativeDecoderRunner)
    for num_tokens in LENGTHS:  # staggered: some decode while others prefill
        bench.add(f"r{num_tokens}", prompt_of(num_tokens), cache_salt=str(num_tokens))
        bench.step(2)
    bench.finish()
    for num_tokens in LENGTHS:
        assert bench.token_ids(f"r{num_tokens}") == bench.generate(prompt_of(num_tokens))


def test_in_bf16_logits_are_as_close_as_those_of_torch(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("llama", **WIDE, dtype=torch.bfloat16)
    config = EngineConfig(max_num_seqs=8, max_step_tokens=64, dtype="bfloat16", threads=2)
    bench = Bench(folder, config)
    assert isinstance(bench.engine.runner, NativeDecoderRunner)
    bench.add("r", prompt_of(100), max_tokens=1, logprobs=20)
    bench.finish()
    monkeypatch.setattr(native_runner, "load_kernels", refuse)
    plain = Bench(folder, config)
    assert type(plain.engine.runner) is DecoderRunner
    plain.add("r", prompt_of(100), max_tokens=1, logprobs=20)
    plain.finish()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    exact = model(torch.tensor([prompt_of(100)])).logits[0, -1].log_softmax(-1)
    ours, theirs = (
        np.mean([abs(logprob - exact[token_id].item()) for token_id, logprob in b.deltas("r")[0].logprobs[0].top])
        for b in (bench, plain)
    )
    assert ours <= 1.5 * theirs


def test_numbers_of_rows_repeat() -> None:
    """oneDNN compiles a product for each number of rows and caches about a thousand; a layer has four."""
    sizes = [native_runner.padded(num_tokens) for num_tokens in range(1, 4097)]
    assert sizes[:64] == list(range(1, 65))
    assert len(set(sizes)) < 240
    assert all(0 <= size - num_tokens <= max(7, num_tokens / 32) for num_tokens, size in enumerate(sizes, 1))


def test_without_a_compiler_torch_computes_everything(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_runner, "load_kernels", refuse)
    bench = Bench(model_folder("llama", **WIDE), CONFIG)
    assert type(bench.engine.runner) is DecoderRunner
    bench.add("r", prompt_of(40))
    bench.finish()
    assert bench.token_ids("r") == bench.generate(prompt_of(40))


def test_a_failed_compilation_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    sources, cache = tmp_path / "sources", tmp_path / "cache"
    sources.mkdir()
    cache.mkdir()
    (sources / "broken.c").write_text("int main(")
    monkeypatch.setattr(native, "FOLDER", sources)
    monkeypatch.setattr(native, "cache_folder", lambda: cache)
    with pytest.raises(NoKernels, match="do not compile"):
        native.load_kernels(torch.float32)
    assert not list(cache.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_stays_nan(dtype: torch.dtype) -> None:
    """A failed row must be noticed, not turned into something that looks like an answer."""
    kernels = native.load_kernels(dtype)
    hidden = torch.ones(2, 32, dtype=dtype)
    hidden[0, 3] = float("nan")
    out, weight = torch.empty_like(hidden), torch.ones(32, dtype=dtype)
    kernels.add_norm(hidden.data_ptr(), None, weight.data_ptr(), out.data_ptr(), 2, 32, 1e-6)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


class Attended:
    """Two sequences through the kernels, over a pool that is NaN except for their own tokens."""

    HEADS, KV_HEADS, DIM, NUM_BLOCKS, BLOCK_SIZE = 4, 2, 96, 12, 16

    def __init__(self, dtype: torch.dtype) -> None:
        self.kernels, self.dtype = native.load_kernels(dtype), dtype
        pool = torch.full((2, self.KV_HEADS, self.NUM_BLOCKS * self.BLOCK_SIZE, self.DIM), float("nan"), dtype=dtype)
        self.keys, self.values = pool

    def write_and_attend(self, qkv: torch.Tensor, slots: list[int], items: list[tuple[int, ...]]) -> torch.Tensor:
        """[tokens, heads, dim], without rotating anything."""
        one, none = (torch.full((len(slots), self.DIM), number, dtype=self.dtype) for number in (1.0, 0.0))
        where, out = torch.tensor(slots), torch.zeros(len(slots), self.HEADS, self.DIM, dtype=self.dtype)
        pools, num_slots = (self.keys.data_ptr(), self.values.data_ptr()), self.keys.shape[1]
        self.kernels.rotate_and_write(
            qkv.data_ptr(), one.data_ptr(), none.data_ptr(), None, None, 0.0, where.data_ptr(), *pools, num_slots,
            len(slots), self.HEADS, self.KV_HEADS, self.DIM, self.DIM,
        )  # fmt: skip
        tables = np.arange(self.NUM_BLOCKS, dtype=np.int32)[::-1].copy()
        table = np.array(items, dtype=np.int32)
        self.kernels.attend(
            qkv.data_ptr(), *pools, num_slots, self.BLOCK_SIZE, tables.ctypes.data, table.ctypes.data, len(items),
            self.HEADS, self.KV_HEADS, self.DIM, self.DIM**-0.5, 0, None, out.data_ptr(),
        )  # fmt: skip
        return out

    def slot(self, first_block: int, position: int) -> int:
        block = self.NUM_BLOCKS - 1 - first_block - position // self.BLOCK_SIZE  # the table counts down
        return block * self.BLOCK_SIZE + position % self.BLOCK_SIZE

    def exact(self, qkv: torch.Tensor) -> torch.Tensor:
        """[tokens, heads, dim] of one sequence, by torch."""
        parts = qkv.float().split([self.HEADS, self.KV_HEADS, self.KV_HEADS], dim=1)
        query, key, value = (part.transpose(0, 1)[None] for part in parts)
        options: dict[str, Any] = {"is_causal": True, "enable_gqa": True}
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)[0].transpose(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 65, 95])
def test_attention_reads_only_its_own_tokens(num_tokens: int, dtype: torch.dtype) -> None:
    """Numbers left in a block by another sequence would change an answer; here they are NaN."""
    torch.manual_seed(num_tokens)
    kernels = Attended(dtype)
    qkv = torch.randn(2, num_tokens, 8, kernels.DIM).to(dtype)
    exact = [kernels.exact(own) for own in qkv]
    first, last = qkv[:, :-1].flatten(0, 1).contiguous(), qkv[:, -1].contiguous()
    slots = [[kernels.slot(6 * i, position) for position in range(num_tokens)] for i in range(2)]
    prefills = [(i * (num_tokens - 1) + at, 1, at, 6 * i) for i in range(2) for at in range(num_tokens - 1)]
    if prefills:
        kernels.write_and_attend(first, slots[0][:-1] + slots[1][:-1], prefills)
    out = kernels.write_and_attend(
        last, [slots[0][-1], slots[1][-1]], [(i, 1, num_tokens - 1, 6 * i) for i in range(2)]
    )
    for i in range(2):
        torch.testing.assert_close(out[i].float(), exact[i][-1], atol=2e-2 if dtype is torch.bfloat16 else 1e-5, rtol=0)


def test_attention_to_nan_is_nan() -> None:
    kernels = Attended(torch.float32)
    qkv = torch.randn(3, 8, kernels.DIM)
    qkv[1, 4, 0] = float("nan")  # the second token's first key
    out = kernels.write_and_attend(qkv, [kernels.slot(0, position) for position in range(3)], [(0, 3, 0, 0)])
    assert out[0].isfinite().all()
    assert out[1:, :2].isnan().all() and out[1:, 2:].isfinite().all()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a compiled library, and sources that compile at once; returns the cache folder in it."""
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "one.c").write_text("int one(void) { return 1; }\n")
    monkeypatch.setattr(native, "FOLDER", sources)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".cache" / "protocol-omni"


def test_a_library_that_others_may_write_to_is_compiled_again(home: Path) -> None:
    library = native.compiled(())
    assert library.parent == home
    made = library.stat()
    assert native.compiled(()).stat().st_ino == made.st_ino
    library.chmod(0o777)
    assert native.compiled(()).stat().st_ino != made.st_ino
    assert library.stat().st_mode & 0o777 == 0o600
    library.unlink()
    library.symlink_to("/etc/passwd")
    assert not native.compiled(()).is_symlink()


def test_a_folder_that_others_may_write_to_is_not_used(home: Path) -> None:
    home.mkdir(parents=True)
    home.chmod(0o777)
    library = native.compiled(())
    assert library.parent != home and not library.parent.stat().st_mode & 0o077
    assert list(home.iterdir()) == []


def test_without_a_home_the_kernels_are_compiled_for_this_process(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HOME", "/dev/null")
    library = native.compiled(())
    assert library.exists() and library.parent != home and "Set HOME" in caplog.text


@pytest.mark.parametrize("owner, is_ours", [("us", True), ("root", True), ("another", False)])
def test_only_files_of_this_user_and_root_are_trusted(
    home: Path, monkeypatch: pytest.MonkeyPatch, owner: str, is_ours: bool
) -> None:
    library = native.compiled(())
    found = list(os.stat(library))
    found[stat.ST_UID] = {"us": os.geteuid(), "root": 0, "another": os.geteuid() + 1}[owner]
    monkeypatch.setattr(Path, "stat", lambda path, follow_symlinks=True: os.stat_result(found))
    assert native.is_only_ours(library) == is_ours
