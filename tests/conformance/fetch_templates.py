"""Chat templates of real models, out of the source package of llama-cpp-python: `fetch_templates.py FOLDER`.

pip asks a source package for its metadata before it hands it over, and this one's build backend takes half a minute to
install and run. A backend that only says the name and the version stands in for it.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements" / "templates.txt"
TEMPLATES = "/models/templates/"
BACKEND = """
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    info = Path(folder) / "llama_cpp_python-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: llama_cpp_python\\nVersion: {version}\\n")
    return info.name
"""


def download(folder: Path) -> Path:
    """The package's archive, checked against the hash in the requirements."""
    backend = folder / "backend" / "scikit_build_core"
    backend.mkdir(parents=True)
    (backend / "__init__.py").touch()
    (backend / "build.py").write_text(BACKEND.format(version=version()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "-r", str(REQUIREMENTS)]
    env = os.environ | {"PYTHONPATH": str(backend.parent)}
    subprocess.run([*pip, *options, "-d", str(folder)], check=True, env=env)
    [archive] = folder.glob("*.tar.gz")
    return archive


def version() -> str:
    [line] = (line for line in REQUIREMENTS.read_text().splitlines() if "==" in line)
    return line.split("==")[1].split()[0]


def unpack(archive: Path, folder: Path) -> int:
    """The number of templates that were written to the folder."""
    num_written = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            if TEMPLATES in member.name and member.name.endswith(".jinja") and (source := tar.extractfile(member)):
                (folder / Path(member.name).name).write_bytes(source.read())
                num_written += 1
    return num_written


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        if not unpack(download(Path(scratch)), target):
            sys.exit("the package has no templates")
