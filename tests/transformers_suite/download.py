"""Fetches transformers' own test classes, which only its source distribution ships; see `make test-transformers`."""

import subprocess
import sys
import tarfile
from pathlib import Path

import transformers

FOLDER = Path(__file__).parents[2] / "build" / f"transformers-{transformers.__version__}"
TESTS = FOLDER / "tests"
# What transformers' tests import beyond what the library itself needs.
FURTHER_PACKAGES = FOLDER / "packages"
# transformers' own package of tests has it, the source distribution does not.
LAST_FILE = TESTS / "__init__.py"


def is_there() -> bool:
    """Whether `download` has done its work for the installed version."""
    return LAST_FILE.is_file()


def download() -> None:
    """Puts the test classes of the installed version into `TESTS`, and what they need beside them."""
    pip("install", "--upgrade", "--no-deps", "--target", str(FURTHER_PACKAGES), "parameterized")
    # pip builds the metadata of the archive, in an environment of its own, even where it only fetches it.
    source = f"transformers=={transformers.__version__}"
    pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(FOLDER), source)
    with tarfile.open(FOLDER / f"{FOLDER.name}.tar.gz") as archive:
        for subject in ("modeling", "processing", "image_processing", "configuration"):
            member = archive.getmember(f"{FOLDER.name}/tests/test_{subject}_common.py")
            archive.extract(member.replace(name=f"tests/test_{subject}_common.py"), FOLDER, filter="data")
    LAST_FILE.touch()


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__" and not is_there():
    download()
