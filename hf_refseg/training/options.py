"""Options from a recipe and from the command line, as objects of the classes of arguments; and how a script ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from accelerate import PartialState
from transformers import HfArgumentParser, TrainingArguments
from transformers.debug_utils import DebugOption

from ..messages import EXPECTED_ERRORS, message_of
from ..modeling.messages_refseg import nearest_names
from .arguments import ModelArguments, RefSegTrainingArguments
from .data_arguments import ImageDataArguments, VideoDataArguments, to_mapping
from .recipe_files import dataset_names, find_recipe, holds_videos, read_recipe

# Options that are mappings: the command line replaces single entries of the recipe's.
MAPPINGS = ("config", "dataset_options", "image_data")
# Shows Trainer's options as well, which are many.
HELP_TRAINER = "--help_trainer"
SCRIPT_USAGE = "%(prog)s [RECIPE] [--option value ...]"
DataArguments = TypeVar("DataArguments", bound=ImageDataArguments | VideoDataArguments)


def parse_options(
    arguments: Sequence[str], data_class: type[DataArguments], description: str, usage: str = SCRIPT_USAGE
) -> tuple[ModelArguments, DataArguments, RefSegTrainingArguments]:
    """Options from the command line, then from the recipe (the first argument, if it is no option), then defaults.

    Mappings of the command line, such as `config`, replace single entries of the recipe's; the value null unsets an
    option.

    Args:
        arguments: those of the command line.
        data_class: what names the data.
        description: the beginning of the help.
        usage: its first line.

    Raises:
        ValueError: a recipe that is no mapping, an option that does not exist, or null for one that needs a value.
        FileNotFoundError: no such recipe.
    """
    groups = (ModelArguments, data_class, RefSegTrainingArguments)
    parser = build_parser(groups, description, usage, all_options=HELP_TRAINER in arguments)
    names = [option.name for group in groups for option in fields(group) if option.init]
    given, unset = take_unset(arguments, names)
    recipe: dict[str, Any] = {}
    if names_recipe(given):
        recipe = read_recipe(path := find_recipe(given.pop(0)))
        check_names(path, recipe, names)
    recipe |= dict.fromkeys(unset)
    require_values(recipe, groups)
    parser.set_defaults(**recipe)
    *parsed, unknown = parser.parse_args_into_dataclasses(args=given, return_remaining_strings=True)
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


def take_unset(arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments without the options, of those with `names`, whose value is null; and the names of these."""
    kept, unset = [], []
    following = iter(zip_longest(arguments, arguments[1:], arguments[2:], fillvalue="--"))
    for argument, value, after in following:
        option, equals, same = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        is_null = same == "null" if equals else value == "null" and after.startswith("--")
        if not (option.startswith("--") and name in names and is_null):
            kept.append(argument)
            continue
        unset.append(name)
        if not equals:
            next(following)
    return kept, unset


def require_values(recipe: dict[str, Any], groups: tuple[type, ...]) -> None:
    """Raises ValueError where an option is null that always has a value."""
    hints = {name: hint for group in groups for name, hint in get_type_hints(group).items()}
    wrong = [name for name, value in recipe.items() if value is None and type(None) not in get_args(hints[name])]
    if wrong:
        raise ValueError(f"{wrong[0]} is null, but always has a value: leave it out, or give it one.")


def build_parser(groups: tuple[type, ...], description: str, usage: str, all_options: bool) -> HfArgumentParser:
    """Takes the options of all groups; its help names all of them, or those of this library alone."""
    parser = HfArgumentParser(
        groups,
        usage=usage,
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


def check_names(path: Path, recipe: dict[str, Any], names: Sequence[str]) -> None:
    """Raises ValueError where a recipe has an option that does not exist."""
    unknown = [name for name in recipe if name not in names]
    if unknown:
        hint = nearest_names(unknown, names) or f"; --help and {HELP_TRAINER} list all options."
        raise ValueError(f"{path}: there is no option {', '.join(unknown)}{hint}")


def find_data_class(arguments: Sequence[str]) -> type[ImageDataArguments] | type[VideoDataArguments]:
    """The class of arguments for the data that the command line, or the recipe, names: images or videos."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--dataset_name", "--dataset-name", nargs="+", default=[])
    names = parser.parse_known_args(list(arguments))[0].dataset_name
    if not names and names_recipe(arguments):
        names = dataset_names(read_recipe(find_recipe(arguments[0])))
    return VideoDataArguments if any(map(holds_videos, names)) else ImageDataArguments


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
