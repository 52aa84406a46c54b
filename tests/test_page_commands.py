"""The commands that README and the pages show are read by their own parsers, and run.

A page's commands of ours are run in their order, on few pictures, in a folder that holds what pages speak of, but for
those that other tests run, those that train a new model, and those below a comment `<!-- needs the network -->`.
Targets of `make` and scripts are looked up.
"""

import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import datasets
import pytest
import typer
from page_folder import draw_page_folder
from pages import BLOCKS, PAGES
from places import CHECKOUT
from typer.main import get_command
from typer.testing import CliRunner

from hf_refseg.commands.table import read_options
from hf_refseg.papers import read_paper
from hf_refseg.training.options import find_data_class, parse_options
from hf_refseg_cli import app

# A command as it stands in a line: behind what starts several processes, and in the quotes of a shell.
COMMAND = re.compile(r"(?:^|\s)(?:hf-refseg|-m hf_refseg_cli)(?=\s|$)(.*)")
# A script of the checkout and what stands behind it, in a block or in a sentence.
SCRIPT = re.compile(r"python ((?:benchmarks|examples)/\w+\.py)([^`\n#|]*)")
# Commands and options that are not run here, and the tests that run them.
ELSEWHERE = {
    "--probes": "tests/evaluation/test_predictions.py",
    "--push-to-hub": "tests/commands/test_cli.py",
    "--training-memory": "tests/test_training_memory.py",
    "--verify": "tests/commands/test_cli.py",
    "convert": "tests/test_own_data.py",
    "demo": "tests/demo/test_demo_command.py",
    "grefshapes": "tests/test_shipped.py",
    "merge": "tests/training/test_adapters.py",
}
# What is added to commands that take long.
QUICK = {
    "train": shlex.split("--use_cpu --max_steps 1 --pictures 0 --report_to none --image_size 64"),
    "evaluate": ["--max-images", "2"],
    "label": ["--minimum-score", "0", "--keep-no-target"],
    "preview": ["--rows", "2"],
}


def commands() -> Iterator[tuple[str, list[str]]]:
    """The arguments of each command of ours, with the place of its block."""
    for block in BLOCKS:
        # What is generated from the files of the papers is compared with them.
        if block.kind == "bash" and block.page.name != "papers.md":
            for line in block.lines:
                for rest in COMMAND.findall(line):
                    # A quote that began before the command ends behind it.
                    rest = rest.removesuffix("'") if rest.count("'") % 2 else rest
                    yield block.place, shlex.split(rest, comments=True)


COMMANDS = list(commands())
# Each row of papers.md is run by tests/papers, all of own_data.md by tests/test_own_data.py.
RUN_ELSEWHERE = ("papers.md", "own_data.md")
# What a cluster runs begins with its shell.
RUN = [
    block
    for block in BLOCKS
    if block.kind == "bash"
    and block.page.name not in RUN_ELSEWHERE
    and block.is_run
    and not block.code.startswith("#!")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_page_folder(tmp_path_factory.mktemp("pages"))


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


@cache
def command_line() -> Any:
    return get_command(app)


def read_command(arguments: list[str]) -> None:
    """Reads a command's arguments as the command itself does, and runs nothing."""
    command, context = command_line(), None
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


@pytest.mark.parametrize("page", list(dict.fromkeys(block.page for block in RUN)), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    shutil.copytree(folder, here, symlinks=True)
    monkeypatch.chdir(here)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for block in RUN:
        for line in block.lines if block.page == page else ():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "hf-refseg" and is_run(arguments):
                result = CliRunner().invoke(app, [*arguments, *QUICK.get(arguments[0], [])])
                assert result.exit_code == 0, f"{block.place}: {line}: {result.output}"


def is_run(arguments: list[str]) -> bool:
    if not ELSEWHERE.keys().isdisjoint(arguments):
        return False
    if arguments[0] == "train":
        # New models begin with encoders from the Hub, or train for minutes.
        return "--list" in arguments or "--model_name_or_path" in arguments
    if arguments[0] == "table":
        return "--dataset" not in arguments
    if arguments[0] == "export":
        return "torch" in arguments or find_spec("onnxruntime") is not None
    return True


@pytest.mark.parametrize("word", ELSEWHERE)
def test_what_is_not_run_here_is_run_elsewhere(word: str) -> None:
    assert f'"{word}"' in (CHECKOUT / ELSEWHERE[word]).read_text(encoding="utf-8")


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
