"""Runs `hf-refseg` in this process, and tells what it printed or the one line that it failed with."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from hf_refseg_cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def output_of(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def error_of(*arguments: object) -> str:
    """The one line with which the command fails."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    *before, last = result.stderr.splitlines()
    assert last.startswith("Error: ")
    assert not any("Traceback" in line or line.startswith("Error: ") for line in before), result.stderr
    return last.removeprefix("Error: ")
