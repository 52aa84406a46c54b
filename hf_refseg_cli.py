"""The command line `hf-refseg`: its commands, help and errors. Beside the package, whose import is slow."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

COMMANDS = "hf_refseg.commands"


def import_commands_alone() -> None:
    """Imports the package of the commands without `hf_refseg` around it, which imports torch and transformers.

    To import a module Python looks at the package in front of the last dot alone. So the modules of the commands are
    imported as usual from then on, and `hf_refseg` when one of them asks for another module of it.
    """
    if COMMANDS in sys.modules:
        return
    folder = Path(find_spec("hf_refseg").origin).with_name("commands")
    spec = spec_from_file_location(COMMANDS, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[COMMANDS] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[COMMANDS])


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
    import_commands_alone()
    from hf_refseg.commands.convert import app as convert_app
    from hf_refseg.commands.evaluate import evaluate
    from hf_refseg.commands.explain import explain
    from hf_refseg.commands.info import info
    from hf_refseg.commands.merge import merge
    from hf_refseg.commands.predict import predict
    from hf_refseg.commands.prepare import prepare

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
    app.command()(evaluate)
    app.command()(prepare)
    app.add_typer(convert_app, name="convert")
    app.command()(merge)
    app.command()(info)
    return app


app = build_app()

if __name__ == "__main__":
    app(prog_name="hf-refseg")
