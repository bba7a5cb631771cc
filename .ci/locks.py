"""The lists `requirements*.txt` name our direct dependencies; the lock files pin every package with its hashes.

    requirements.lock         runs the service, all but torch
    requirements-torch.lock   torch as PyPI has it, with the CUDA libraries that it needs on Linux
    requirements-cpu.lock     torch's CPU build, a tenth of that, for machines without a GPU
    requirements-dev.lock     tests and checks
    requirements-traces.lock  OpenTelemetry
    requirements-docs.lock    the documents as a site, in an environment of its own

Commands: `check` compares lists and locks offline, `relock` follows a changed list and moves nothing else, `move` takes
the newest releases into lists and locks. A pin whose comment begins with "held:" is never moved.
"""

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PIN = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
OF_TORCH = re.compile(r"torch|triton|nvidia-.+|cuda-.+")
UV = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--no-header"]
HEADER = "# Made by `make lock` from {made_from}; not edited by hand.\n"
RUN, TORCH, CPU = "requirements.lock", "requirements-torch.lock", "requirements-cpu.lock"
LISTS = ("requirements.txt", "requirements-dev.txt", "requirements-traces.txt", "requirements-docs.txt")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(text: str) -> dict[str, str]:
    return {normal(name): version for name, version in PIN.findall(text)}


def blocks(lock: str) -> Iterator[tuple[str, str]]:
    """Each package's name and its lines: the pin, the hashes, and who needs it."""
    for block in re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE):
        if found := PIN.match(block):
            yield normal(found[1]), block


def difference(listed: str, name: str, wanted: str | None, locked: str | None) -> str:
    if locked is None:
        return f"{listed} lists {name} {wanted}, but its lock does not"
    return (
        f"{listed} lists {name} {wanted}, but its lock {locked}" if wanted else f"only the lock of {listed} has {name}"
    )


def lock_of(folder: Path, listed: str) -> str:
    names = (RUN, TORCH) if listed == "requirements.txt" else (listed.replace(".txt", ".lock"),)
    return "".join(path.read_text() for name in names if (path := folder / name).exists())


def faults(folder: Path) -> Iterator[str]:
    """Where lists and locks differ, one sentence each."""
    for listed in LISTS:
        wanted, lock = pins((folder / listed).read_text()), lock_of(folder, listed)
        locked = pins(lock)
        direct = {name for name, block in blocks(lock) if re.search(rf" -r {re.escape(listed)}$", block, re.MULTILINE)}
        for name in sorted(wanted.keys() | direct):
            if wanted.get(name) != locked.get(name):
                yield difference(listed, name, wanted.get(name), locked.get(name))
        yield from (f"{name} has no hash" for name, block in blocks(lock) if "--hash=sha256:" not in block)
    torch = pins((folder / "requirements.txt").read_text()).get("torch")
    if pins((folder / CPU).read_text()).get("torch") != f"{torch}+cpu":
        yield f"{CPU} is not for torch {torch}"


def compiled(folder: Path, listed: str, *options: str, preferred: str = "") -> str:
    """The lock of one list, at the versions of `preferred` where they still fit."""
    with tempfile.NamedTemporaryFile("w+", suffix=".lock") as output:
        output.write(preferred)
        output.flush()
        subprocess.run([*UV, listed, *options, "--output-file", output.name], cwd=folder, check=True, stdout=sys.stderr)
        return Path(output.name).read_text()


def write_locks(folder: Path, is_upgrade: bool) -> None:
    for listed in LISTS:
        preferred = "" if is_upgrade else lock_of(folder, listed)
        bounds = [] if listed == "requirements.txt" else [f"--constraints={name}" for name in (RUN, TORCH)]
        lock = compiled(folder, listed, "--generate-hashes", *bounds, preferred=preferred)
        header = HEADER.format(made_from=listed)
        if bounds:  # torch stays the one that is installed
            own = pins((folder / listed).read_text())
            kept = [block for name, block in blocks(lock) if name in own or not OF_TORCH.fullmatch(name)]
            (folder / listed).with_suffix(".lock").write_text(header + "".join(kept))
            continue
        of_torch = {name: OF_TORCH.fullmatch(name) is not None for name, _ in blocks(lock)}
        (folder / RUN).write_text(header + "".join(block for name, block in blocks(lock) if not of_torch[name]))
        (folder / TORCH).write_text(header + "".join(block for name, block in blocks(lock) if of_torch[name]))
        write_cpu_lock(folder, pins(lock)["torch"])


def write_cpu_lock(folder: Path, torch: str) -> None:
    """The CPU build as pip's sources have it for this Python; without one, make installs what PyPI has."""
    if pins((folder / CPU).read_text() if (folder / CPU).exists() else "").get("torch") == f"{torch}+cpu":
        return
    line = f"torch=={torch}+cpu"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    with tempfile.TemporaryDirectory() as wheels:
        done = subprocess.run([*pip, f"--dest={wheels}", line], capture_output=True, text=True)
        for wheel in Path(wheels).iterdir():
            line += f" \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"
    if done.returncode:
        print(f"{line}: no such build is known to pip here; {CPU} has no hash and is not used", file=sys.stderr)
    (folder / CPU).write_text(HEADER.format(made_from="requirements.txt") + line + "\n")


def move_lists(folder: Path) -> None:
    """Write the newest releases that fit together into the lists, except where a pin is held."""
    texts = {listed: (folder / listed).read_text() for listed in LISTS}
    loose = [
        line if "# held:" in line else PIN.sub(r"\1", line) for text in texts.values() for line in text.splitlines()
    ]
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as wanted:
        wanted.write("\n".join(loose))
        wanted.flush()
        newest = pins(compiled(folder, wanted.name, "--no-annotate"))
    for listed, text in texts.items():
        for name, version in PIN.findall(text):
            if (new := newest[normal(name)]) != version:
                print(f"{name} {version} -> {new}")
                text = re.sub(rf"^{re.escape(name)}==\S+( *)", moved(name, version, new), text, flags=re.MULTILINE)
        (folder / listed).write_text(text)


def moved(name: str, version: str, new: str) -> str:
    """The pin's line up to its comment, which stays in its column."""
    return rf"{name}=={new}" + (r"\1" if len(new) == len(version) else "  ")


def main(command: str, folder: Path) -> int:
    if command == "move":
        move_lists(folder)
    if command in ("move", "relock"):
        write_locks(folder, is_upgrade=command == "move")
    elif command != "check":
        raise SystemExit(__doc__)
    found = list(faults(folder))
    print("".join(f"{fault}; run `make relock`\n" for fault in found), end="", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).resolve().parent.parent))
