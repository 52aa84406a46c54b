"""Runs Python code in a fresh process, with hf_refseg importable from the checkout or hidden as if not installed."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from places import CHECKOUT

HIDE_PACKAGE = """
import sys

class HiddenPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_refseg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, HiddenPackage())
"""


def run_python(*code: str, cwd: Path, env: Mapping[str, str] | None = None, hide_package: bool = False) -> str:
    """Runs the pieces of `code`, each dedented, one after the other in `cwd`; returns what they printed.

    The process is offline, its caches lie in `cwd`, unless `env` says otherwise. `hide_package=True` makes
    `import hf_refseg` fail as on a machine without it. Raises `AssertionError` with the process's output if it fails.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {
        **inherited,
        "HF_HOME": str(cwd / "hf_home"),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": "" if hide_package else str(CHECKOUT),
        **(env or {}),
    }
    pieces = [HIDE_PACKAGE, *code] if hide_package else code
    script = "\n".join(textwrap.dedent(piece) for piece in pieces)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
