"""The code that README and the pages show is run, links lead somewhere.

Blocks of a page are run in their order, in one namespace and in a folder that holds what pages speak of. A comment
above a block says otherwise: `<!-- run by tests/... -->` names the test that runs it, and `<!-- needs the network -->`
leaves it at syntax, imports and the names of arguments.
"""

import ast
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import yaml
from page_folder import draw_page_folder
from pages import BLOCK, BLOCKS, NETWORK, PAGES, RUN_BY, Block
from places import CHECKOUT

import hf_refseg

LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]+)?\)")
# What takes long of a block, and what takes its place here.
SHORTER = {"num_workers=4": "num_workers=0"}
PYTHON = [block for block in BLOCKS if block.kind == "python"]


# --- Python --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_page_folder(tmp_path_factory.mktemp("pages"))


@pytest.mark.parametrize(
    "page", dict.fromkeys(block.page for block in PYTHON if block.is_run), ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    namespace: dict = {"__name__": "page"}
    for block in PYTHON:
        if block.page == page and block.is_run:
            code = block.code
            for long, short in SHORTER.items():
                code = code.replace(long, short)
            exec(compile("\n" * block.line + code, block.page, "exec"), namespace)


@pytest.mark.parametrize("block", [block for block in PYTHON if not block.is_run], ids=lambda block: block.place)
def test_code_that_is_not_run_here_is_run_elsewhere_or_has_names_that_there_are(block: Block) -> None:
    if block.marker == NETWORK:
        check_names(block.code)
    else:
        test = CHECKOUT / block.marker.removeprefix(RUN_BY)
        assert block.page.name in test.read_text(encoding="utf-8")


def check_names(code: str) -> None:
    """Raises where imported names do not exist, or a call of one has an argument of a name that it does not take."""
    tree, known = ast.parse(code), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            known |= {each.asname or each.name: getattr(module, each.name) for each in node.names}
        elif isinstance(node, ast.Import):
            for each in node.names:
                module = importlib.import_module(each.name)
                known[each.asname or each.name.split(".")[0]] = module
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        first, *rest = ast.unparse(call.func).split(".")
        if first in known and all(name.isidentifier() for name in rest):
            called = known[first]
            for name in rest:
                called = getattr(called, name)
            names = {keyword.arg: None for keyword in call.keywords}
            inspect.signature(called).bind_partial(*call.args, **names)


def test_names_that_do_not_exist_are_seen() -> None:
    check_names("from hf_refseg import load_refseg\nload_refseg('refcoco', data_dir='data')")
    for code in (
        "from hf_refseg import load_refsegs",
        "from hf_refseg import load_system\nload_system.now()",
        "from hf_refseg import segment_video\nsegment_video(None, windows=3)",
    ):
        with pytest.raises((ImportError, AttributeError, TypeError)):
            check_names(code)


def test_data_in_blocks_can_be_read() -> None:
    found = {"json": 0, "yaml": 0}
    for block in BLOCKS:
        if block.kind in found:
            found[block.kind] += 1
            read = json.loads if block.kind == "json" else yaml.safe_load
            for part in block.code.splitlines() if block.kind == "json" else [block.code]:
                assert isinstance(read(part), dict), block.place
    assert min(found.values()) > 0 and len(PYTHON) > 10


# --- Links and navigation --------------------------------------------------------------------------------------------


def test_links_lead_to_files_and_sections() -> None:
    wrong = []
    for page in PAGES:
        text = BLOCK.sub("", page.read_text(encoding="utf-8"))
        for name, section in LINK.findall(text):
            target = page.parent / name if name else page
            if not target.is_file() or (section and section[1:] not in sections_of(target)):
                wrong.append(f"{page.relative_to(CHECKOUT)}: {name}{section}")
    assert wrong == []


def sections_of(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_navigation_has_every_page_once() -> None:
    def pages_in(part: object) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        for each in part if isinstance(part, list) else part.values() if isinstance(part, dict) else ():
            yield from pages_in(each)

    listed = sorted(pages_in(yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    docs = CHECKOUT / "docs"
    there = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    assert listed == sorted([*there, "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])


def test_the_api_pages_have_every_public_name() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "docs" / "api").glob("*.md"))
    places = re.findall(r"^::: (hf_refseg\.\S+)\.(\w+)$", text, re.M)
    # What runs without torch is imported from its module.
    public = [(module, name) for module, name in places if module != "hf_refseg.onnx"]
    assert sorted(name for _, name in public) == sorted(hf_refseg.__all__) and len(places) == len(public) + 1
    assert all(getattr(importlib.import_module(module), name) is getattr(hf_refseg, name) for module, name in public)


@pytest.mark.parametrize("page", sorted((CHECKOUT / "docs" / "methods").glob("*.md")), ids=lambda page: page.stem)
def test_pages_of_methods_name_classes_functions_and_fields_that_there_are(page: Path) -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "modeling").glob("*.py"))
    spans = re.findall(r"`([A-Za-z]\w+(?:\.\w+)?)(?:: [\w{}]+)?`", BLOCK.sub("", page.read_text(encoding="utf-8")))
    # Options of `hf-refseg train` are named there as well.
    options = (CHECKOUT / "hf_refseg" / "training" / "arguments.py").read_text(encoding="utf-8")
    missing = {name for span in spans for name in span.split(".") if not re.search(rf"\b{name}\b", code + options)}
    assert missing - {"swinv2_tiny_window8_256"} == set()
    assert len(spans) > 3


def test_the_readme_is_a_front_page() -> None:
    lines = (CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert "make demo" in "\n".join(lines[:12]) and "make test" in "\n".join(lines[:12])
