"""Runs Python code in a process of its own, with hf_refseg importable from a checkout or hidden as if not installed.

The process is a fork of one that has imported what most of them need and has done nothing else: imports take most of
the time of a fresh process. Those with and without our package are forks of one that has imported all else. Where
imports are what a test is about, `run_new_python` starts without any.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from places import CHECKOUT

# Forks of a process that has imported large packages which read nothing of the environment.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch.distributed.fsdp", "torch.export", "torchvision", "scipy.optimize", "pandas", "pyarrow.parquet"]
)
FORKED = multiprocessing.get_context("fork")
# What is imported beside those, of others and of ours.
OTHERS = ("transformers.models.auto", "transformers.pipelines", "transformers.trainer", "datasets", "peft", "timm")
OURS = ("hf_refseg", "hf_refseg.data.prepare", "hf_refseg.evaluation.evaluator", "hf_refseg.training.recipes")
# The variables that are read on import; the folder of caches is one of them, and has to be the same link each time.
READ_ON_IMPORT = ("HF_", "TRANSFORMERS_")
HOME, TOKEN = "HF_HOME", "HF_TOKEN"
# Set in the environment: PyTorch's own kernels in the place of oneDNN's.
WITHOUT_ONEDNN = "TESTS_WITHOUT_ONEDNN"
TIMEOUT = 300  # seconds
# Where modules lie that are not ours, before a test adds its own. A new process is told: its own path begins with what
# that of this one is by then, such as with the folder of code from the Hub.
FOLDERS = tuple(f"{CHECKOUT}{os.sep}{folder}" for folder in ("tests", "examples", "benchmarks"))
ELSEWHERE = [path for path in sys.path if path and path != str(CHECKOUT) and not path.startswith(FOLDERS)]


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
    *code: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    package: Path | None = CHECKOUT,
    imports: Sequence[str] | None = None,
    exit_status: int = 0,
) -> str:
    """Runs the pieces of `code`, each dedented, one after the other in `cwd`; returns what they printed.

    The process is offline, its caches lie in `cwd`, unless `env` says otherwise. `package` is the checkout that
    hf_refseg is imported from; with None, `import hf_refseg` fails as on a machine without it. `imports` are the
    modules that the process begins with, by default those that most need. Raises `AssertionError` with the process's
    output if it ends otherwise than with `exit_status`.
    """
    script = "\n".join(textwrap.dedent(piece) for piece in code)
    (done,) = _run_together(script, [_environment(cwd, env)], cwd, package, imports)
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
    environments = [_environment(cwd, {**rank, "OMP_NUM_THREADS": "1"}) for rank in ranks]
    return _run_together(script, environments, cwd, CHECKOUT)


def run_new_python(code: str, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """As `run_python`, in a process that has imported nothing at all."""
    environment = _environment(cwd, {"PYTHONPATH": str(CHECKOUT), **(env or {})})
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _environment(cwd: Path, changes: Mapping[str, str] | None) -> dict[str, str]:
    offline = {HOME: str(cwd / "hf_home"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return _inherited() | offline | dict(changes or {})


def _inherited() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(READ_ON_IMPORT)}


class Job(NamedTuple):
    """What one process is to run, and where."""

    script: str
    cwd: str
    environment: dict[str, str]
    output: Path
    errors: Path


def _run_together(
    script: str,
    environments: Sequence[Mapping[str, str]],
    cwd: Path,
    package: Path | None,
    imports: Sequence[str] | None = None,
) -> list[Finished]:
    """The same script in a process for each of the environments, which differ in nothing that is read on import."""
    read = {name: value for name, value in environments[0].items() if name.startswith(READ_ON_IMPORT)}
    home, _ = read.pop(HOME), read.pop(TOKEN, None)
    template = _template(package, frozenset(read.items()), None if imports is None else tuple(imports))
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            Job(
                script, str(cwd), dict(environment), Path(folder, f"{number}-output"), Path(folder, f"{number}-errors")
            )
            for number, environment in enumerate(environments)
        ]
        statuses = template.run(jobs, Path(home))
        printed = [[file.read_text(encoding="utf-8") for file in (job.output, job.errors)] for job in jobs]
    return [Finished(status, *texts) for status, texts in zip(statuses, printed, strict=True)]


class Branch(NamedTuple):
    """What a fork of a template is to be: where it imports hf_refseg from, or that it cannot, and what it imports."""

    package: Path | None
    imports: Sequence[str]


class Template:
    """A process that has imported everything and runs jobs in forks of itself, until this one ends.

    Args:
        connection: to the process.
        process: its number.
        folder: holds the link that is its folder of caches.
    """

    def __init__(self, connection: Connection, process: int, folder: tempfile.TemporaryDirectory) -> None:
        self.connection, self.process, self.folder = connection, process, folder
        self.home = home_in(folder)
        # Before multiprocessing waits for the process.
        atexit.register(self.connection.close)

    def run(self, jobs: Sequence[Job], home: Path) -> list[int | None]:
        """The exit statuses of the jobs, which run at once; `home` is their folder of caches."""
        home.mkdir(parents=True, exist_ok=True)
        self.home.unlink(missing_ok=True)
        self.home.symlink_to(home)
        self.connection.send(jobs)
        return self.connection.recv()

    def fork(self, branch: Branch) -> Template:
        """A template that has imported more than this one."""
        connection, theirs = PROCESSES.Pipe()
        self.connection.send(branch)
        send_handle(self.connection, theirs.fileno(), self.process)
        theirs.close()
        return Template(connection, self.connection.recv(), self.folder)


def home_in(folder: tempfile.TemporaryDirectory) -> Path:
    return Path(folder.name, "hf_home")


@lru_cache
def _template(package: Path | None, read: frozenset[tuple[str, str]], imports: tuple[str, ...] | None) -> Template:
    """One with a package or without; `read` as for `_template_of_others`, `imports` as for `run_python`."""
    if imports is None:
        return _template_of_others(read, OTHERS).fork(Branch(package, OURS if package else ()))
    return _template_of_others(read, ()).fork(Branch(package, imports))


@lru_cache
def _template_of_others(read: frozenset[tuple[str, str]], imports: tuple[str, ...]) -> Template:
    """One that is started, and has imported nothing of ours.

    `read` are the variables that are read on import, without the folder of caches and the token.
    """
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    connection, theirs = PROCESSES.Pipe()
    environment = {**_inherited(), **dict(read), HOME: str(home_in(folder))}
    process = PROCESSES.Process(target=_serve, args=(theirs, ELSEWHERE, environment, imports))
    process.start()
    theirs.close()
    return Template(connection, process.pid, folder)


def _serve(
    connection: Connection, elsewhere: Sequence[str], environment: Mapping[str, str], imports: Sequence[str]
) -> None:
    """What a template does that is started."""
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = elsewhere
    _import(imports)
    _answer(connection)


def _serve_branch(connection: Connection, branch: Branch) -> None:
    """What a template does that is the fork of another one."""
    if branch.package is None:
        sys.meta_path.insert(0, HiddenPackage())
    else:
        sys.path.insert(0, str(branch.package))
    _import(branch.imports)
    _answer(connection)


def _import(names: Sequence[str]) -> None:
    # Nothing that is imported becomes garbage.
    gc.disable()
    for name in names:
        import_module(name)
    gc.freeze()
    gc.enable()


def _answer(connection: Connection) -> None:
    """Answers lists of jobs with their exit statuses, and branches with the number of the process that they become."""
    while True:
        try:
            asked = connection.recv()
        except EOFError:
            return
        if isinstance(asked, Branch):
            fork = FORKED.Process(target=_serve_branch, args=(Connection(recv_handle(connection)), asked))
            fork.start()
            connection.send(fork.pid)
            continue
        processes = [FORKED.Process(target=_run, args=(job,)) for job in asked]
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT)
            if process.is_alive():
                process.kill()
                process.join()
        connection.send([process.exitcode for process in processes])


def _run(job: Job) -> None:
    """What the new process does: it becomes what `python -c script` would be."""
    for number, path in enumerate((job.output, job.errors), start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(job.cwd)
    os.environ.clear()
    os.environ.update(job.environment)
    sys.path.insert(0, "")
    main = ModuleType("__main__")
    sys.modules["__main__"] = main
    exec(compile(job.script, "<string>", "exec"), main.__dict__)
