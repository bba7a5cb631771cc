"""Downloads a hub model's weights into the hub's cache and reports progress. transformers fetches the small files."""

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from huggingface_hub import DryRunFileInfo, hf_hub_download, is_offline_mode, snapshot_download
from tqdm.auto import tqdm
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from worker import progress
from worker.progress import OnProgress

logger = logging.getLogger("omni.worker")

DOWNLOADED = 0.9  # the share of a start that a download takes


def downloaded(model: str, on_progress: OnProgress) -> OnProgress:
    """Fetch the weights of a hub model that are not in the cache. Returns the `on_progress` for the rest of the start.

    Without a download (a folder or file, offline, or all of it cached) that is `on_progress` itself.
    """
    if Path(model).exists() or is_offline_mode():
        return on_progress
    try:
        missing = [file for file in weights_of(model) if file.will_download]
        if not missing:
            return on_progress
        count = ByteCount(sum(file.file_size or 0 for file in missing), on_progress)
        names = [file.filename for file in missing]
        snapshot_download(model, allow_patterns=names, tqdm_class=bars_for(count))
    except Exception as error:  # transformers meets the same fault, and its error is explained
        logger.warning("the download of %s failed: %s", model, error.__cause__ or error)
        return on_progress
    return lambda what, share: on_progress(what, DOWNLOADED + (1 - DOWNLOADED) * share)


def weights_of(model: str) -> list[DryRunFileInfo]:
    """The weights that from_pretrained will read: one file, or those of the index; none without safetensors."""
    heads = {file.filename: file for file in files_named(model, [SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME])}
    if SAFE_WEIGHTS_NAME in heads:
        return [heads[SAFE_WEIGHTS_NAME]]
    if not heads:
        return []
    index = json.loads(Path(hf_hub_download(model, SAFE_WEIGHTS_INDEX_NAME)).read_text())
    return files_named(model, sorted(set(index["weight_map"].values())))


def files_named(model: str, names: list[str]) -> list[DryRunFileInfo]:
    """Those of the named files that the repository has, with their size and whether they are cached."""
    return list(snapshot_download(model, allow_patterns=names, dry_run=True, tqdm_class=bars_for(None)))


class ByteCount:
    """Bytes received, of a known total. Several progress bars count the same bytes, so the largest count is right."""

    def __init__(self, total: int, on_progress: OnProgress) -> None:
        self.total = total
        self._on_progress = on_progress
        self._done = 0
        self._reported_at = -math.inf
        self._report()

    def reached(self, num_bytes: int) -> None:
        if num_bytes <= self._done or self._done == self.total:
            return
        self._done = min(num_bytes, self.total)
        if time.monotonic() - self._reported_at >= progress.PAUSE_S or self._done == self.total:
            self._reported_at = time.monotonic()
            self._report()

    def _report(self) -> None:
        name, unit = ("GB", 1e9) if self.total >= 1e9 else ("MB", 1e6)
        what = f"download, {self._done / unit:.1f} of {self.total / unit:.1f} {name}"
        self._on_progress(what, DOWNLOADED * self._done / max(1, self.total))


def bars_for(count: ByteCount | None) -> type[Any]:
    """A class of progress bars for huggingface_hub that draw nothing and report their bytes to `count`."""

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.counts_bytes = options.get("unit") == "B"
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            with self.get_lock():
                self.n += n or 0
            if count is not None and self.counts_bytes:
                count.reached(int(self.n))

    return Bar
