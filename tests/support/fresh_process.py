"""Runs Python code in a fresh process, with hf_refseg importable from the checkout or hidden as if not installed.

The process is a copy of one that has imported PyTorch and other large packages that read nothing of the environment:
they take most of the time of a fresh process.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from places import CHECKOUT

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.export", "torchvision", "scipy.optimize", "pandas", "pyarrow.parquet"]
)
TIMEOUT = 300  # seconds
# Where modules lie that are not ours, before a test adds its own.
OURS = [str(CHECKOUT), *(f"{CHECKOUT}{os.sep}{folder}" for folder in ("tests", "examples", "benchmarks"))]
ELSEWHERE = [path for path in sys.path if path and path != OURS[0] and not path.startswith(tuple(OURS[1:]))]


class HiddenPackage:
    """Makes `import hf_refseg` fail as on a machine without it."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "hf_refseg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


class Finished(NamedTuple):
    """How a process ended, negative where a signal ended it, and what it printed."""

    exit_status: int
    output: str
    errors: str


def run_python(
    *code: str, cwd: Path, env: Mapping[str, str] | None = None, hide_package: bool = False, exit_status: int = 0
) -> str:
    """Runs the pieces of `code`, each dedented, one after the other in `cwd`; returns what they printed.

    The process is offline, its caches lie in `cwd`, unless `env` says otherwise. `hide_package=True` makes
    `import hf_refseg` fail as on a machine without it. Raises `AssertionError` with the process's output if it ends
    otherwise than with `exit_status`.
    """
    script = "\n".join(textwrap.dedent(piece) for piece in code)
    (done,) = _run_together(script, [_environment(cwd, env)], cwd, hide_package)
    assert done.exit_status == exit_status, f"exit status {done.exit_status}\n{done.output}\n{done.errors}"
    return done.output


def run_program(program: Path, *arguments: str, cwd: Path, processes: int = 1) -> list[Finished]:
    """Runs a Python file, in one process or in several at once that find each other as those of torchrun do."""
    script = (
        f"import runpy, sys\nsys.argv = {[str(program), *arguments]!r}\nsys.path.insert(0, {str(program.parent)!r})\n"
        f"runpy.run_path({str(program)!r}, run_name='__main__')"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), **meeting} if processes > 1 else {}
    ranks = [dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)) | world if world else {} for rank in range(processes)]
    return _run_together(script, [_environment(cwd, {**rank, "OMP_NUM_THREADS": "1"}) for rank in ranks], cwd, False)


def run_new_python(code: str, cwd: Path) -> str:
    """As `run_python`, in a process that has imported nothing at all."""
    environment = _environment(cwd, {"PYTHONPATH": str(CHECKOUT)})
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _run_together(
    script: str, environments: Sequence[Mapping[str, str]], cwd: Path, hide_package: bool
) -> list[Finished]:
    """The same script in a process for each of the environments."""
    paths = ["", *([] if hide_package else [str(CHECKOUT)]), *ELSEWHERE]
    started, finished = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, environment in enumerate(environments):
            streams = [str(Path(folder, f"{number}-{name}")) for name in ("output", "errors")]
            arguments = (script, str(cwd), dict(environment), streams, paths, hide_package)
            started.append((PROCESSES.Process(target=_run, args=arguments), streams))
            started[-1][0].start()
        for process, streams in started:
            process.join(TIMEOUT)
            if process.is_alive():
                process.kill()
                process.join()
            printed = (Path(stream).read_text(encoding="utf-8") for stream in streams)
            finished.append(Finished(process.exitcode, *printed))
    return finished


def _environment(cwd: Path, changes: Mapping[str, str] | None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    offline = {"HF_HOME": str(cwd / "hf_home"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return inherited | offline | dict(changes or {})


def _run(
    script: str, cwd: str, environment: dict[str, str], streams: list[str], paths: list[str], hide_package: bool
) -> None:
    """What the new process does: it becomes what `python -c script` would be."""
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = paths
    if hide_package:
        sys.meta_path.insert(0, HiddenPackage())
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(script, "<string>", "exec"), main.__dict__)
