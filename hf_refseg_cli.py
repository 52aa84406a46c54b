"""The command line `hf-refseg`: its commands, help and errors. Beside the package, whose import is slow."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

# What the help is made of, and its files in the package.
MODULES_OF_HELP = {
    "hf_refseg.commands": "commands/__init__.py",
    "hf_refseg.data.catalog": "data/catalog.py",
    "hf_refseg.shipped": "shipped.py",
}


def import_modules_of_help() -> None:
    """Imports the commands and the catalog without `hf_refseg` around them, which imports torch and transformers.

    To import a module Python looks at the package in front of the last dot alone. So the modules of the commands are
    imported as usual from then on, and `hf_refseg` when one of them asks for another module of it.
    """
    package = Path(find_spec("hf_refseg").origin).parent
    for name, file in MODULES_OF_HELP.items():
        if name not in sys.modules:
            spec = spec_from_file_location(name, package / file)
            sys.modules[name] = module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


class OneLineErrors(TyperGroup):
    """Turns the errors that bad input is expected to raise into one line on stderr and exit status 1."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except Exception as error:
            # No command has begun: help, or what Typer itself says of wrong arguments.
            if "hf_refseg" not in sys.modules:
                raise
            from hf_refseg.messages import EXPECTED_ERRORS, message_of

            if ctx.params["debug"] or not isinstance(error, EXPECTED_ERRORS):
                raise
            typer.echo(f"Error: {message_of(error)}", err=True)
            raise typer.Exit(1) from error


def print_version(wanted: bool) -> None:
    """Prints the version where it is wanted, and ends."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hf_refseg {version('hf_refseg')}")
        raise typer.Exit


def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Referring segmentation: an image or a video and a sentence in, the mask out."""


def build_app() -> typer.Typer:
    """The command line with all commands."""
    import_modules_of_help()
    from hf_refseg.commands.compare import compare
    from hf_refseg.commands.convert import app as convert_app
    from hf_refseg.commands.demo import demo
    from hf_refseg.commands.evaluate import evaluate
    from hf_refseg.commands.explain import explain
    from hf_refseg.commands.export import export
    from hf_refseg.commands.info import info
    from hf_refseg.commands.label import label
    from hf_refseg.commands.leaderboard import leaderboard
    from hf_refseg.commands.merge import merge
    from hf_refseg.commands.predict import predict
    from hf_refseg.commands.prepare import prepare
    from hf_refseg.commands.preview import preview
    from hf_refseg.commands.table import table
    from hf_refseg.commands.train import CONTEXT, train

    app = typer.Typer(
        cls=OneLineErrors,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(options)
    app.command()(predict)
    app.command()(explain)
    app.command()(demo)
    app.command()(evaluate)
    app.command()(compare)
    app.command()(leaderboard)
    app.command(context_settings=CONTEXT)(train)
    app.command(context_settings=CONTEXT)(table)
    app.command()(prepare)
    app.command()(preview)
    app.command()(label)
    app.add_typer(convert_app, name="convert")
    app.command()(merge)
    app.command()(export)
    app.command()(info)
    return app


app = build_app()

if __name__ == "__main__":
    app(prog_name="hf-refseg")
