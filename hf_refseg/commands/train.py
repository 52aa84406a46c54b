"""`hf-refseg train`: recipes, run by name or path, and listed."""

from __future__ import annotations

from typing import Annotated

import typer

# What follows the recipe is read by the library, whose options are too many for Typer and slow to import.
CONTEXT = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RECIPE [--option value]",
            help="Name of a recipe of the library, or a YAML file, and options that go before those of the recipe.",
            show_default=False,
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes of the library, and end.")] = False,
) -> None:
    """Train and score a model as a recipe says, on images or videos, and write it with its card.

    `hf-refseg train RECIPE --help` lists the options, `--help_trainer` those of Trainer as well; the value null unsets
    one. A run that was cut off goes on from its newest checkpoint. On several GPUs: torchrun --nproc_per_node N -m
    hf_refseg_cli train RECIPE, or accelerate launch -m hf_refseg_cli train RECIPE.
    """
    if show_list:
        typer.echo(list_recipes())
        return
    if not arguments or arguments[0].startswith("-"):
        raise typer.BadParameter("Name a recipe first; --list shows those of the library.", param_hint="RECIPE")
    from accelerate import PartialState

    from ..training.recipes import run_recipe

    run_recipe(arguments, usage="hf-refseg train RECIPE [--option value ...]")
    PartialState().destroy_process_group()  # Its threads may not outlive the interpreter.


def list_recipes() -> str:
    """A table of the recipes of the library: name, method, data, and what for."""
    from ..messages import align
    from ..training.recipe_files import RECIPES, describe_recipe

    rows = [(path.stem, *describe_recipe(path)) for path in sorted(RECIPES.glob("*.yaml"))]
    return align([("recipe", "method", "data", "what for"), *rows])
