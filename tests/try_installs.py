"""Installs the sdist and the wheel outside the checkout for several versions of Python, and tries the command line.

`make test-pythons` runs it. uv makes the environments, of interpreters that it finds or downloads, with the newest
versions of what is needed. Nothing of the checkout or of the Hub is within reach of what is tried.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
PRINT_FOLDER = "import importlib.util; print(importlib.util.find_spec('hf_refseg').submodule_search_locations[0])"
REQUIRE_MASK = "from PIL import Image; assert Image.open('masks/example_1_the-leftmost-shape.png').getbbox()"
TOLD = ("python", "transformers", "torch")


def main() -> None:
    """Tries each archive with each Python; ends with an error where one cannot be installed or a command fails."""
    pythons = sys.argv[1:] or sys.exit("Name versions of Python, or interpreters: python tests/try_installs.py 3.10")
    failed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(folder, "uv", "build", "--quiet", "--out-dir", folder / "archives", CHECKOUT)
        archives = [*folder.glob("archives/*.tar.gz"), *folder.glob("archives/*.whl")]
        for python, archive in ((python, archive) for python in pythons for archive in archives):
            start = time.monotonic()
            try:
                versions = try_install(python, archive, folder / "elsewhere")
            except subprocess.CalledProcessError as error:
                failed.append(f"{archive.name} with {python}")
                print(f"{failed[-1]} fails: {error}\n{error.stdout}{error.stderr}", flush=True)
            else:
                print(f"{archive.name} works with {versions} ({time.monotonic() - start:.0f} s)", flush=True)
            shutil.rmtree(folder / "elsewhere")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def try_install(python: str, archive: Path, folder: Path) -> str:
    """Installs an archive into a new environment in `folder` and runs its commands; returns versions in words.

    Raises:
        subprocess.CalledProcessError: it cannot be installed, or a command fails or writes no mask.
    """
    work, environment = folder / "work", folder / "environment"
    work.mkdir(parents=True)
    own_python, hf_refseg = environment / "bin" / "python", environment / "bin" / "hf-refseg"
    run(work, "uv", "venv", "--quiet", "--python", python, environment)
    run(work, "uv", "pip", "install", "--quiet", "--python", own_python, archive)
    run(work, hf_refseg, "--help")
    versions = dict(line.split(maxsplit=1) for line in run(work, hf_refseg, "info").splitlines())
    package = Path(run(work, own_python, "-c", PRINT_FOLDER).strip())
    shutil.copy(package / "refshapes_demo" / "example.png", work)
    predict = (hf_refseg, "predict", "refshapes-demo", "example.png")
    run(work, *predict, "--text", "the leftmost shape", "--output", "masks")
    run(work, own_python, "-c", REQUIRE_MASK)
    return ", ".join(f"{name} {versions[name]}" for name in TOLD)


def run(folder: Path, *command: str | Path) -> str:
    """What a command prints that runs in `folder`, without variables that lead elsewhere, and offline for the Hub."""
    elsewhere = ("PYTHON", "HF_", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(elsewhere)}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf_home")}
    return subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
