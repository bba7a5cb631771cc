"""The files of a model: in its folder, or in the hub's cache."""

from pathlib import Path

from huggingface_hub import try_to_load_from_cache


def file_of(model_path: str, name: str) -> Path | None:
    """A file of the model's folder, or of its place in the hub's cache; None if it is not there."""
    if Path(model_path).exists():
        path = Path(model_path) / name
        return path if path.is_file() else None
    cached = try_to_load_from_cache(model_path, name)
    return Path(cached) if isinstance(cached, str) else None
