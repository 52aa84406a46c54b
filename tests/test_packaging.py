"""What is installed elsewhere: the sdist, the wheel that is built from it, and what they ask for."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
import torch
from fresh_process import CHECKOUT
from packaging.requirements import Requirement

RECIPES = {path.name: path.read_bytes() for path in (CHECKOUT / "examples" / "recipes").glob("*.yaml")}
PAPERS = CHECKOUT / "hf_refseg" / "papers"
NOT_COPIED = (".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "tests")


def build(kind: str, folder: Path, output: Path) -> Path:
    """The archive that setuptools makes of `folder`: kind "sdist" or "wheel"."""
    code = f"from setuptools.build_meta import build_{kind}; build_{kind}({str(output)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    (archive,) = output.iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout = tmp_path_factory.mktemp("checkout") / "copy"
    shutil.copytree(CHECKOUT, checkout, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return build("sdist", checkout, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return zipfile.ZipFile(build("wheel", unpacked, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


@pytest.mark.slow_process
def test_sdist_and_wheel_contain_the_recipes(sdist: Path, wheel: zipfile.ZipFile) -> None:
    with tarfile.open(sdist) as archive:
        names = {Path(name).name for name in archive.getnames() if "/examples/recipes/" in name}
    assert names == set(RECIPES) and len(RECIPES) > 10
    installed = {name for name in wheel.namelist() if name.startswith("hf_refseg/recipes/")}
    assert installed == {f"hf_refseg/recipes/{name}" for name in RECIPES}
    assert all(wheel.read(f"hf_refseg/recipes/{name}") == content for name, content in RECIPES.items())


@pytest.mark.slow_process
def test_sdist_and_wheel_contain_the_tables_of_the_papers(sdist: Path, wheel: zipfile.ZipFile) -> None:
    expected = {
        f"hf_refseg/papers/{path.relative_to(PAPERS).as_posix()}"
        for path in PAPERS.rglob("*")
        if path.suffix in (".yaml", ".json")
    }
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert "hf_refseg/papers/lavt.yaml" in expected
    assert expected <= names and expected <= set(wheel.namelist())


@pytest.mark.slow_process
def test_sdist_and_wheel_contain_the_word_lists_and_say_that_there_are_types(
    sdist: Path, wheel: zipfile.ZipFile
) -> None:
    assert "hf_refseg/py.typed" in wheel.namelist()
    name = "hf_refseg/evaluation/wording.yaml"
    with tarfile.open(sdist) as archive:
        assert name in {each.partition("/")[2] for each in archive.getnames()}
    assert wheel.read(name) == (CHECKOUT / name).read_bytes()


@pytest.mark.slow_process
def test_the_sdist_contains_what_its_pages_link_to(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {
        page: (CHECKOUT / page).read_text(encoding="utf-8") for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md")
    }
    links = {link for text in pages.values() for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    assert {*pages, *links} <= names and "SECURITY.md" in links


@pytest.mark.slow_process
def test_the_wheel_contains_every_module(wheel: zipfile.ZipFile) -> None:
    expected = {"hf_refseg_cli.py"}
    for folder in ("hf_refseg", "modeling", "datasets_scripts"):
        place = folder if folder == "hf_refseg" else f"hf_refseg/{folder}"
        modules = (path.relative_to(CHECKOUT / folder).as_posix() for path in (CHECKOUT / folder).rglob("*.py"))
        expected |= {f"{place}/{module}" for module in modules}
    assert {name for name in wheel.namelist() if name.endswith(".py")} == expected


@pytest.mark.slow_process
def test_every_requirement_names_its_lowest_version(metadata: Message) -> None:
    requirements = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    operators = {each.name: {specifier.operator for specifier in each.specifier} for each in requirements}
    assert [name for name, found in operators.items() if ">=" not in found] == []
    assert metadata["Requires-Python"] == ">=3.10"


@pytest.mark.slow_process
def test_the_wheel_segments_offline_in_an_environment_of_its_own(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """What was installed has the commands and the small model; the other packages alone are shared."""
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(f"{Path(torch.__file__).parents[1]}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "install", "-q", "--no-index"]
    subprocess.run([*pip, "--no-deps", wheel.filename], check=True)
    shutil.copy(packages / "hf_refseg" / "refshapes_demo" / "example.png", tmp_path)
    command = [environment / "bin" / "hf-refseg", "predict", "refshapes-demo", "example.png"]
    run = subprocess.run(
        [*command, "--text", "the leftmost shape", "--output", "masks"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert any(path.suffix == ".png" for path in (tmp_path / "masks").iterdir())
