"""Options from a recipe and from the command line, as objects of the classes of arguments; and how a script ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import yaml
from accelerate import PartialState
from datasets import load_dataset_builder
from transformers import HfArgumentParser, TrainingArguments
from transformers.debug_utils import DebugOption

from ..data.catalog import DATASETS
from ..data.prepared import stored_columns
from ..files import may_be_on_hub
from ..messages import EXPECTED_ERRORS, message_of
from ..modeling.names_refseg import nearest_names
from .arguments import ModelArguments, RefSegTrainingArguments
from .data_arguments import ImageDataArguments, VideoDataArguments, to_mapping

# Options that are mappings: the command line replaces single entries of the recipe's.
MAPPINGS = ("config", "dataset_options", "image_data")
# Shows Trainer's options as well, which are many.
HELP_TRAINER = "--help_trainer"
# Installed, the recipes lie inside the package; in a checkout beside the scripts that run them.
PACKAGE = Path(__file__).parents[1]
RECIPES = next(folder for folder in (PACKAGE / "recipes", PACKAGE.parent / "examples" / "recipes") if folder.is_dir())
DataArguments = TypeVar("DataArguments", ImageDataArguments, VideoDataArguments)


def parse_options(
    arguments: Sequence[str], data_class: type[DataArguments], description: str
) -> tuple[ModelArguments, DataArguments, RefSegTrainingArguments]:
    """Options from the command line, then from the recipe (the first argument, if it is no option), then defaults.

    Mappings of the command line, such as `config`, replace single entries of the recipe's.

    Args:
        arguments: those of the command line.
        data_class: what names the data.
        description: the beginning of the help.

    Raises:
        ValueError: a recipe that is no mapping, or an option that does not exist.
        FileNotFoundError: no such recipe.
    """
    groups = (ModelArguments, data_class, RefSegTrainingArguments)
    parser = build_parser(groups, description, all_options=HELP_TRAINER in arguments)
    recipe: dict = {}
    if names_recipe(arguments):
        path = find_recipe(arguments[0])
        recipe = read_recipe(path)
        check_names(path, recipe, [option.name for group in groups for option in fields(group) if option.init])
        parser.set_defaults(**recipe)
        arguments = arguments[1:]
    *parsed, unknown = parser.parse_args_into_dataclasses(args=list(arguments), return_remaining_strings=True)
    if unknown:
        # Each name once: the parser takes it with hyphens as well.
        known = [name for action in parser._actions for name in action.option_strings if "-" not in name[2:]]
        hint = nearest_names([each.partition("=")[0] for each in unknown], known)
        raise ValueError(f"There is no option {' '.join(unknown)}{hint or f'; --help and {HELP_TRAINER} list all.'}")
    for options in parsed:
        for name in {option.name for option in fields(options)}.intersection(MAPPINGS):
            setattr(options, name, {**to_mapping(name, recipe.get(name)), **getattr(options, name)})
    model, data, training = parsed
    if model.model_type is None and model.model_name_or_path is None:
        model.model_type = data.new_model_type
    return model, data, training


def build_parser(groups: tuple[type, ...], description: str, all_options: bool) -> HfArgumentParser:
    """Takes the options of all groups; its help names all of them, or those of this library alone."""
    parser = HfArgumentParser(
        groups,
        usage="%(prog)s [RECIPE.yaml] [--option value ...]",
        description=description,
        epilog=f"{HELP_TRAINER} lists Trainer's own options as well, such as --output_dir, --max_steps, "
        "--per_device_train_batch_size, --use_cpu and --push_to_hub.",
        allow_abbrev=False,
    )
    parser.add_argument(HELP_TRAINER, action="help", help="show all options, those of Trainer as well, and exit")
    if not all_options:
        trainers = {
            option.name for option in fields(TrainingArguments)
        } - RefSegTrainingArguments.__annotations__.keys()
        for action in parser._actions:
            if action.dest in trainers:
                action.help = argparse.SUPPRESS
    return parser


def names_recipe(arguments: Sequence[str]) -> bool:
    """Whether the first of these arguments of the command line is a recipe: it is no option."""
    return bool(arguments) and not arguments[0].startswith("-")


def find_recipe(name: str) -> Path:
    """The file of a recipe, given by its path or, of those that come with the library, by its name.

    Raises:
        FileNotFoundError: there is none.
    """
    if Path(name).is_file():
        return Path(name)
    recipes = {path.stem: path for path in RECIPES.glob("*.yaml")}
    if name in recipes:
        return recipes[name]
    hint = nearest_names([Path(name).stem], recipes) or f". Those of the library: {', '.join(sorted(recipes))}."
    raise FileNotFoundError(f"There is no recipe {name}{hint}")


def read_recipe(path: Path) -> dict[str, Any]:
    """The options in the file of a recipe; raises ValueError where it is none."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no recipe, as it is no YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"{path} is no recipe: a mapping of options to values is expected.")
    return {str(name): value for name, value in recipe.items()}


def check_names(path: Path, recipe: dict[str, Any], names: Sequence[str]) -> None:
    """Raises ValueError where a recipe has an option that does not exist."""
    unknown = [name for name in recipe if name not in names]
    if unknown:
        hint = nearest_names(unknown, names) or f"; --help and {HELP_TRAINER} list all options."
        raise ValueError(f"{path}: there is no option {', '.join(unknown)}{hint}")


def find_data_class(arguments: Sequence[str]) -> type[ImageDataArguments] | type[VideoDataArguments]:
    """The class of arguments for the data that the command line, or the recipe, names: images or videos."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset_name", "--dataset-name", nargs="+")
    named = parser.parse_known_args(list(arguments))[0].dataset_name
    if named is None and names_recipe(arguments):
        named = read_recipe(find_recipe(arguments[0])).get("dataset_name")
    names = [named] if isinstance(named, str) else named or []
    return VideoDataArguments if any(map(holds_videos, map(str, names))) else ImageDataArguments


def holds_videos(name: str) -> bool:
    """Whether a data set is one of videos: by its name, or by the columns of a prepared folder."""
    if name in DATASETS:
        return DATASETS[name].kind == "video"
    if Path(name).is_dir():
        return "frames" in stored_columns(Path(name))
    return may_be_on_hub(name) and "frames" in load_dataset_builder(name).info.features


def run_script(main: Callable[[Sequence[str]], object], arguments: Sequence[str]) -> None:
    """Runs a script; what is wrong with its input ends it with exit status 1 and one line on stderr.

    A bare `--debug` among the arguments shows the traceback; with a value it is Trainer's option of this name.
    """
    kept, debug = take_debug(arguments)
    try:
        main(kept)
    except EXPECTED_ERRORS as error:
        if debug:
            raise
        sys.exit(f"Error: {message_of(error)}")
    PartialState().destroy_process_group()  # Its threads may not outlive the interpreter.


def take_debug(arguments: Sequence[str]) -> tuple[list[str], bool]:
    """The arguments without a bare `--debug`, and whether it was among them."""
    values = {option.value for option in DebugOption}
    kept = [
        argument
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue="")
        if argument != "--debug" or values.intersection(following.split())
    ]
    return kept, len(kept) < len(arguments)
