"""Runs cases in processes of their own, with limits on memory and time and a watch on files, programs and network.

`Worker` starts a process that imports everything once. It forks for the cases, which is cheaper where one process runs
many of them: a case that takes too much memory or time, crashes or changes something is the last one of its process.
"""

from __future__ import annotations

import faulthandler
import math
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from fresh_process import PROCESSES
from places import CHECKOUT

# What one case may take: address space beyond that of the libraries, processor time, and time on the clock, which only
# something that hangs without computing reaches.
MEMORY = 2 * 2**30
CPU_SECONDS = 20
CLOCK_SECONDS = 300
# Cases of one process: what one of them changes in it, such as a cache, is not there for long.
CASES = 40
MESSAGE_CHARACTERS = 500
# Control characters, those that turn the direction of a text, halves of surrogate pairs, and separators of lines.
FORBIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Whose errors are made for users: the project's and those of transformers.
CLEAR_SOURCES = (
    *(CHECKOUT / name for name in ("hf_refseg", "modeling", "datasets_scripts")),
    *map(Path, find_spec("transformers").submodule_search_locations),
)
# Audit events that change files, and which of their arguments are paths.
CHANGES = {
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.link": (1,),
    "os.mkdir": (0,),
    "os.remove": (0,),
    "os.rename": (0, 1),
    "os.rmdir": (0,),
    "os.symlink": (1,),
    "os.truncate": (0,),
}
# The beginnings of audit events that run programs or use the network.
PROGRAMS = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.", "subprocess.")
NETWORK = ("ftplib.", "http.", "smtplib.", "socket.bind", "socket.connect", "socket.getaddrinfo", "urllib.")
# Below the folder of all cases.
STACK = "stack.txt"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Outcome:
    """How a case ended: with the "right" result, with a clear "error", or with a "fault"; `text` tells about it."""

    kind: str
    text: str = ""


class Worker:
    """The process that runs the targets of `targets.py`; a context.

    Args:
        folder: an existing one, for `work` (emptied before each case), `base` (sound files) and `outside` (files that
            no case may read or change).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Worker:
        self.connection, theirs = PROCESSES.Pipe()
        self.log = self.folder / "log.txt"
        self.process = PROCESSES.Process(target=serve, args=(theirs, self.folder, self.log), daemon=True)
        self.process.start()
        theirs.close()
        self._receive()
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()

    def run(self, target: str, case: Any) -> Outcome:
        """How a case of that target ends."""
        self.connection.send((target, case))
        return self._receive()

    def _receive(self) -> Any:
        try:
            if self.connection.poll(2 * CLOCK_SECONDS):
                return self.connection.recv()
        except (EOFError, ConnectionError):
            pass
        raise RuntimeError(f"The worker does not answer: {self.log.read_text(errors='replace')[-3000:]}")


def serve(connection: Connection, folder: Path, log: Path) -> None:
    """Answers (target, case) with an `Outcome`, until the other end of the connection is closed."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _set_environment(folder)
    with _fresh(folder / "work"):
        import targets
        import torch
    # A forked process has no threads but its own.
    torch.set_num_threads(1)
    targets.make_files(folder)
    # What is imported and computed once for sound input is then there for every case.
    for target in targets.TARGETS.values():
        with _fresh(folder / "work") as work:
            target.run(target.sound, work)
    outside = _listing(folder / "outside")
    connection.send("ready")
    child = None
    while True:
        try:
            name, case = connection.recv()
        except EOFError:
            return
        with _fresh(folder / "work") as work:
            child = child or Child(targets.TARGETS, work)
            outcome = child.run(name, case)
        if _listing(folder / "outside") != outside:
            outcome = Outcome("fault", "Files outside of the folder were changed.")
        if outcome.kind == "fault" or child.cases == CASES:
            child.end()
            child = None
        connection.send(outcome)


def _set_environment(folder: Path) -> None:
    for key in [key for key in os.environ if key.startswith(("HF_", "TRANSFORMERS_"))]:
        del os.environ[key]
    os.environ |= {
        "HF_HOME": str(folder / "work" / "home"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TMPDIR": str(folder / "work"),
        "TOKENIZERS_PARALLELISM": "false",
    }


class Child:
    """A copy of this process that runs cases, one after the other.

    Args:
        targets: what it runs, by name.
        work: the folder that is emptied before each case; nothing else may be changed.
    """

    def __init__(self, targets: Mapping[str, Any], work: Path) -> None:
        self.cases = 0
        self.stack = work.parent / STACK
        self.connection, theirs = Pipe()
        self.process = os.fork()
        if self.process == 0:
            try:
                self.connection.close()
                _answer(theirs, targets, work)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        theirs.close()

    def run(self, name: str, case: Any) -> Outcome:
        """How a case ends; after a fault no other one can follow."""
        self.cases += 1
        self.connection.send((name, case))
        try:
            return self.connection.recv()
        except (EOFError, ConnectionError):
            _, status = os.waitpid(self.process, 0)
            self.process = 0
        ended_by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit status {status}"
        reason = "it took too long" if ended_by in ("SIGXCPU", "SIGALRM") else "it crashed"
        return Outcome("fault", f"The process was ended by {ended_by}: {reason}.\n{self.stack.read_text()}")

    def end(self) -> None:
        """Ends the process, if no case did."""
        self.connection.close()
        if self.process:
            os.waitpid(self.process, 0)


def _answer(connection: Connection, targets: Mapping[str, Any], work: Path) -> None:
    """What a `Child` does, until the other end of the connection is closed."""
    seen: list[str] = []
    with (work.parent / STACK).open("w") as stack:
        # Where it is when it crashes or takes too long.
        faulthandler.enable(stack)
        for number in (signal.SIGXCPU, signal.SIGALRM):
            faulthandler.register(number, stack, chain=True)
        _watch(work, work.parent / "outside", seen)
        while True:
            try:
                name, case = connection.recv()
            except EOFError:
                return
            os.chdir(work)
            seen.clear()
            outcome = _run_limited(targets[name], case, work)
            if seen:
                outcome = Outcome("fault", f"It did what no input may make it do: {seen}")
            connection.send(outcome)


@contextmanager
def _fresh(work: Path) -> Iterator[Path]:
    """An empty current folder."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    os.chdir(work)
    yield work


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*"))]


def _run_limited(target: Any, case: Any, work: Path) -> Outcome:
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + CPU_SECONDS, hard))
    signal.alarm(CLOCK_SECONDS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    # What it takes to tell of an error is no longer the case's.
    try:
        target.run(case, work)
    except target.errors as error:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return _judge(error, target.names(case))
    except BaseException as error:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        return Outcome("fault", _shown_traceback(error))
    return Outcome("right")


def _watch(work: Path, outside: Path, seen: list[str]) -> None:
    """Adds to `seen` whatever is changed outside of `work`, read in `outside`, run or sent."""

    def is_in(path: Any, folder: Path) -> bool:
        return Path(os.path.realpath(os.fsdecode(path))).is_relative_to(folder)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            writes = bool(arguments[2] & WRITING) and os.fsdecode(arguments[0]) != os.devnull
            if is_in(arguments[0], outside) or (writes and not is_in(arguments[0], work)):
                seen.append(f"{event} {arguments}"[:300])
        elif event in CHANGES:
            paths = (arguments[place] for place in CHANGES[event])
            if any(isinstance(path, str | bytes | os.PathLike) and not is_in(path, work) for path in paths):
                seen.append(f"{event} {arguments}"[:300])
        elif event.startswith((*PROGRAMS, *NETWORK)):
            seen.append(f"{event} {arguments}"[:300])

    sys.addaudithook(hook)


def _judge(error: BaseException, names: Iterable[str]) -> Outcome:
    """Whether an error is clear: one line, not too long, of plain characters, which names what is wrong."""
    message = str(error)
    faults = []
    if not 0 < len(message) <= MESSAGE_CHARACTERS:
        faults.append(f"the message has {len(message)} characters")
    odd = sorted({character for character in message if unicodedata.category(character) in FORBIDDEN_CATEGORIES})
    if odd:
        faults.append(f"the message holds {odd[:5]}")
    names = list(names)
    if names and not any(name in message for name in names):
        faults.append(f"the message names none of {names}")
    raised_in = traceback.extract_tb(error.__traceback__)[-1].filename
    if not any(Path(raised_in).is_relative_to(folder) for folder in CLEAR_SOURCES):
        faults.append(f"the error is that of {raised_in}, not the project's")
    if any(isinstance(each, MemoryError) for each in _chain(error)):
        faults.append("the memory was exhausted")
    if faults:
        return Outcome("fault", f"{'; '.join(faults)}: {message[:600]!r}\n{_shown_traceback(error)}")
    return Outcome("error", f"{type(error).__name__}: {message}")


def _chain(error: BaseException | None) -> list[BaseException]:
    """The error and what it came of; an error that is raised again may have come of itself."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _shown_traceback(error: BaseException) -> str:
    """The last calls that lead to the error, and to what it came of."""
    parts = (traceback.format_exception(each, limit=-8, chain=False) for each in _chain(error))
    # Ends of surrogate pairs, which a message may hold, cannot be printed.
    return "".join(line for part in parts for line in part)[:6000].encode("ascii", "backslashreplace").decode()
