"""The code that README and the pages show is run, commands are read by their own parsers, links lead somewhere.

Blocks of a page are run in their order, in one namespace and in a folder that holds what pages speak of. A comment
above a block says otherwise: `<!-- run by tests/... -->` names the test that runs it, and `<!-- needs the network -->`
leaves it at syntax, imports and the names of arguments.
"""

import ast
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import pytest
import typer
import yaml
from places import CHECKOUT
from refer_trees import make_refcoco, make_rrsisd
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import noise, save
from typer.main import get_command

import hf_refseg
from hf_refseg import load_refseg
from hf_refseg.commands.table import read_options
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.papers import read_paper
from hf_refseg.training.options import find_data_class, parse_options
from hf_refseg.training.recipe_files import find_recipe
from hf_refseg_cli import app

PAGES = [CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((CHECKOUT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"(?:<!-- (?P<marker>.*?) -->\n\n)?^(?P<indent> *)```(?P<kind>\w*)\n(?P<code>.*?)^ *```$", re.M | re.S
)
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(#[^)\s]+)?\)")
NETWORK, RUN_BY = "needs the network", "run by "
# A command as it stands in a line: behind what starts several processes, and in the quotes of a shell.
COMMAND = re.compile(r"(?:^|\s)(?:hf-refseg|-m hf_refseg_cli)(?=\s|$)(.*)")
# A script of the checkout and what stands behind it, in a block or in a sentence.
SCRIPT = re.compile(r"python ((?:benchmarks|examples)/\w+\.py)([^`\n#|]*)")
# What takes long of a block, and what takes its place here.
SHORTER = {"num_workers=4": "num_workers=0"}


class Block(NamedTuple):
    """A block of code, where it begins, and what the comment above it says."""

    page: Path
    line: int
    kind: str
    code: str
    marker: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(CHECKOUT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.marker != NETWORK and not self.marker.startswith(RUN_BY)


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, each.start("kind")) + 1, each["kind"], each["code"], each["marker"] or "")
        for each in BLOCK.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.kind == "python"]


def commands() -> Iterator[tuple[str, list[str]]]:
    """The arguments of each command of ours, with the place of its block."""
    for block in BLOCKS:
        # What is generated from the files of the papers is compared with them.
        if block.kind == "bash" and block.page.name != "papers.md":
            for line in block.code.replace("\\\n", " ").splitlines():
                for rest in COMMAND.findall(line):
                    # A quote that began before the command ends behind it.
                    rest = rest.removesuffix("'") if rest.count("'") % 2 else rest
                    yield block.place, shlex.split(rest, comments=True)


COMMANDS = list(commands())


# --- Python --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages speak of: models, a photograph, a video, data sets as downloaded and prepared, predictions."""
    root = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        save(Path("runs/demo"), tiny_lavt(), tiny_processor())
        noise(50, 40).save("runs/demo/example.png")
        Path("MODEL").symlink_to("runs/demo", target_is_directory=True)
        noise(50, 40).save("photo.jpg")
        # A video may be a folder of frames as well.
        Path("clip.mp4").mkdir()
        for number in range(2):
            noise(32, 32).save(f"clip.mp4/{number}.jpg")
        make_refcoco(Path("data"))
        make_rrsisd(Path("data"))
        prepare_dataset("refcoco", "data", "data/refcoco_parquet", num_proc=1)
        # As if it were on the Hub.
        Path("user").mkdir()
        Path("user/refcoco").symlink_to("../data/refcoco_parquet", target_is_directory=True)
        # A recipe of somebody.
        Path("my_recipe.yaml").write_text(find_recipe("lavt_refcoco").read_text(encoding="utf-8"))
        rows = load_refseg("refcoco", "data", splits=["val"])["val"]
        answers = [
            {"image_id": row["image_id"], "sent_id": each["sent_id"], "mask": row["mask"]}
            for row in rows
            for each in row["sentences"]
        ]
        lines = [{"format": "hf_refseg-predictions", "version": 1}, *answers]
        Path("predictions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


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


# --- Commands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({arguments[0] for _, arguments in COMMANDS}))
def test_commands_of_pages_are_read_by_their_parsers(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    for place, arguments in COMMANDS:
        if arguments[0] == name:
            try:
                read_command(arguments)
            except (typer.Exit, typer.BadParameter, ValueError, OSError, KeyError) as error:
                pytest.fail(f"{place}: {' '.join(arguments)}: {error}")


def read_command(arguments: list[str]) -> None:
    """Reads a command's arguments as the command itself does, and runs nothing."""
    command, context = get_command(app), None
    while hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(name, list(arguments))
    given = context.params.get("arguments")
    if given and name == "train":
        read_training(given)
    elif given and name == "table":
        paper, *rest = given
        (number, *rest) = rest or [None]
        table = read_paper(paper).table(number)
        options, further = read_options(rest)
        assert options.dataset is None or options.dataset in table.datasets(), options.dataset
        assert {*(options.rows or ())} <= {row.name for row in table.rows}
        if further:
            read_training(["lavt_refcoco", *further])


def read_training(arguments: list[str]) -> None:
    parse_options([*arguments, "--use_cpu", "--bf16", "false"], find_data_class(arguments), "")


def test_make_targets_of_pages_are_there() -> None:
    targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.M)
    named = {
        (block.place, target)
        for block in BLOCKS
        if block.kind == "bash"
        for target in re.findall(r"^ *make ([a-z-]+)", block.code, re.M)
    }
    assert [each for each in sorted(named) if each[1] not in targets] == [] and len(named) > 8


def test_scripts_of_pages_are_there_and_have_the_options() -> None:
    named = [
        (page.name, script, re.findall(r"(?<=\s)--[\w-]+", options))
        for page in PAGES
        for script, options in SCRIPT.findall(page.read_text(encoding="utf-8").replace("\\\n", " "))
    ]
    wrong = []
    for page, script, options in named:
        code = (CHECKOUT / script).read_text(encoding="utf-8")
        # Others hand all options on to `hf-refseg train`.
        if "add_argument(" in code:
            wrong += [(page, script, option) for option in options if f'"{option}"' not in code]
    assert wrong == [] and len(named) > 20


def test_data_in_blocks_can_be_read() -> None:
    found = {"json": 0, "yaml": 0}
    for block in BLOCKS:
        if block.kind in found:
            found[block.kind] += 1
            read = json.loads if block.kind == "json" else yaml.safe_load
            for part in block.code.splitlines() if block.kind == "json" else [block.code]:
                assert isinstance(read(part), dict), block.place
    assert min(found.values()) > 0 and len(PYTHON) > 10 and len(COMMANDS) > 60


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
