"""omni backup, omni restore: the data folder's queue, store and files, copied while the service runs or not."""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import click

from cli.audit import audited_if_kept
from cli.terminal import CallersPath, json_option, show_json, show_note
from common.process.data_folder import FolderRefused, take
from common.settings import Settings

QUEUE, STORE, FILES = "appendonlydir", "omni.db", "files"
MANIFEST = "appendonly.aof.manifest"
HELD = "backup"  # beside Valkey's files, for as long as a backup copies them
TRIES = 20
ELSEWHERE = MappingProxyType(
    {
        QUEUE: "REDIS_URL leads to a server of its own",
        STORE: "OMNI_STORE_URL leads to PostgreSQL",
        FILES: "OMNI_FILES_URL leads to no folder",
    }
)  # why a part is on no disk of ours


@click.command()
@click.argument("folder", type=CallersPath())
@json_option
@click.pass_context
def backup(context: click.Context, folder: Path, as_json: bool) -> None:
    """Copy queue, keys, store and files into a new FOLDER. The service may run. It holds prompts: keep it closed."""
    settings: Settings = context.obj["settings"]()
    data = settings.redis.data_dir.resolve()
    if folder.exists():
        raise click.ClickException(f"{folder} exists; name a new folder.")
    if not data.is_dir():
        raise click.ClickException(f"OMNI_DATA_DIR={data} does not exist; name the service's own folder.")
    with audited_if_kept(settings, "service.backup", str(folder)):
        copied = copied_into(folder, settings, data)
    if as_json:
        show_json({"folder": str(folder), "copied": copied})
    else:
        click.echo("\n".join([*copied, f"backed up in {folder}; `omni restore {folder}` brings it back"]))


def copied_into(folder: Path, settings: Settings, data: Path) -> list[str]:
    """What was copied, in words. The folder is there whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True, mode=0o700)
        # the queue first: an older queue with a newer store does nothing twice, the reverse would lack answers
        places = places_of(settings, data)
        copied = [
            copy_queue(places[QUEUE], part), copy_store(places[STORE], part), copy_files(places[FILES], part),
        ]  # fmt: skip
        part.rename(folder)
    except (OSError, sqlite3.Error) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise click.ClickException(f"nothing was backed up: {error}") from None
    return copied


@click.command()
@click.argument("folder", type=CallersPath())
@json_option
@click.pass_context
def restore(context: click.Context, folder: Path, as_json: bool) -> None:
    """Put a backup's FOLDER where the settings have its parts. Stop the service first, and empty these places."""
    settings: Settings = context.obj["settings"]()
    data = settings.redis.data_dir.resolve()
    places = places_of(settings, data)
    found = [name for name in places if (folder / name).exists()]
    if not found:
        raise click.ClickException(f"{folder} is no backup: it has none of {QUEUE}, {STORE} and {FILES}.")
    if lost := [name for name in found if places[name] is None]:
        raise click.ClickException(
            f"{folder / lost[0]} has no place here: {ELSEWHERE[lost[0]]}. Unset that, or remove it."
        )
    if old := [str(place) for place in places.values() if place is not None and place.exists()]:
        raise click.ClickException(f"{' and '.join(old)} is there already; move it away first.")
    try:
        lock_fd = take(data)
    except FolderRefused as error:
        raise click.ClickException(str(error)) from None
    try:
        for name in found:
            (place := places[name] or data).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy(folder / name, place)
        note_restore(settings, folder)
    except OSError as error:
        raise click.ClickException(f"the restore is not whole ({error}); empty {data}, and try again.") from None
    finally:
        os.close(lock_fd)
    if as_json:
        show_json({"folder": str(data), "restored": found})
    else:
        click.echo(f"restored {', '.join(found)} into {data}; start the service")


def places_of(settings: Settings, data: Path) -> dict[str, Path | None]:
    """Where the service looks for each part; None for a part that is on no disk of ours."""
    store, files = settings.store_url, settings.files_url
    is_folder = files.startswith("file://") or "://" not in files
    return {
        QUEUE: None if settings.redis.given_url else data / QUEUE,
        STORE: Path(store.removeprefix("sqlite:///")) if store.startswith("sqlite") else None,
        FILES: Path(files.removeprefix("file://")) if is_folder else None,
    }


def note_restore(settings: Settings, folder: Path) -> None:
    """In the audit log that was restored: before, there is none that would stay."""
    try:
        with audited_if_kept(settings, "service.restore", str(folder)):
            pass
    except click.ClickException as error:
        show_note(f"The restore is whole, but not in the audit log: {error.message}")


def copy_queue(queue: Path | None, target: Path) -> str:
    if queue is None:
        return f"queue and keys: not copied, {ELSEWHERE[QUEUE]}"
    if queue.exists():
        with held(queue) as folder:
            copy(folder, target / QUEUE)
    return f"queue and keys: {size_of(target / QUEUE)}"


@contextmanager
def held(queue: Path) -> Iterator[Path]:
    """A folder with the files of Valkey's manifest under second names, which stay when a rewrite removes the first.

    The last file may grow meanwhile; it is read up to its last whole command.
    """
    folder = queue / HELD
    shutil.rmtree(folder, ignore_errors=True)  # of a backup that was killed
    try:
        for _ in range(TRIES):
            if hold_files(queue, folder):
                yield folder
                return
        raise OSError(f"Valkey has replaced its files {TRIES} times meanwhile; try again")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def hold_files(queue: Path, folder: Path) -> bool:
    """False when they were replaced meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    manifest = queue / MANIFEST
    if not (text := manifest.read_text() if manifest.exists() else ""):
        return True  # nothing was written yet
    kept = [line for line in text.splitlines() if not line.endswith("type h")]  # h: history, about to be removed
    for name in re.findall(r"^file (\S+)", "\n".join(kept), re.MULTILINE):
        try:
            (folder / name).hardlink_to(queue / name)
        except FileNotFoundError:
            return False
    (folder / MANIFEST).write_text("".join(f"{line}\n" for line in kept))
    return manifest.read_text() == text


def copy_store(path: Path | None, target: Path) -> str:
    if path is None:
        return f"store: not copied, {ELSEWHERE[STORE]} (pg_dump copies it)"
    if path.exists():
        with closing(sqlite3.connect(path)) as store, closing(sqlite3.connect(target / STORE)) as copied:
            store.backup(copied)
        (target / STORE).chmod(0o600)
    return f"store: {size_of(target / STORE)}"


def copy_files(files: Path | None, target: Path) -> str:
    if files is None:
        return f"files: not copied, {ELSEWHERE[FILES]}"
    if files.exists():
        copy(files, target / FILES)
    return f"files: {size_of(target / FILES)}"


def copy(source: Path, target: Path) -> None:
    """A file, or a folder of files, some of which may be removed meanwhile."""
    if source.is_file():
        shutil.copy2(source, target)
        return
    target.mkdir(mode=0o700)
    for path in source.iterdir():
        with suppress(FileNotFoundError):
            copy(path, target / path.name)


def size_of(path: Path) -> str:
    """In MB, of a file or of all in a folder."""
    paths = path.rglob("*") if path.is_dir() else [path]
    num_bytes = sum(found.stat().st_size for found in paths if found.is_file())
    return f"{num_bytes / 1e6:.1f} MB"
