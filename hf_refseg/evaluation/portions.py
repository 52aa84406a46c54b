"""Portions of an evaluation: fixed runs of images or videos, shared among processes, and kept when they are done."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ..files import PARTIAL, OutputError, begin_folder, find_write_fault
from ..messages import BadInputError, short_text

logger = logging.getLogger(__name__)

MANIFEST = "evaluation.json"
CUT_OFF = "a run that is cut off would"
# Of so many portions at a time the findings go from process to process.
GATHERED = 64
# A process that is done waits for the slowest one; a launcher ends it where another one fails.
LONGEST_WAIT = timedelta(days=7)

Key = TypeVar("Key")
# What is found about the images or videos of a portion, in their order: of each what JSON has types for.
Findings = list[dict[str, Any]]


def join_processes(device: str | None = None) -> PartialState | None:
    """The processes that torchrun or accelerate started, of which this is one; None where it was started alone.

    Args:
        device: where each is to run: `"cpu"`, or None = each has an accelerator of its own, if there are any.

    Raises:
        ValueError: several processes are to share one accelerator.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    if device not in (None, "cpu"):
        raise ValueError(f"Each of several processes takes a device of its own: leave out '{device}', or choose cpu.")
    on_cpu = device == "cpu" or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)


def leave_processes(state: PartialState | None) -> bool:
    """Ends what joins the processes; returns whether this is the first one, which writes what all have found."""
    if state is None:
        return True
    # Its threads may not outlive the interpreter.
    state.destroy_process_group()
    return state.is_main_process


def in_portions(keys: Iterable[Key], size: int) -> Iterator[list[Key]]:
    """The keys in runs of `size`, of which the last one may be shorter."""
    keys = iter(keys)
    while portion := list(islice(keys, size)):
        yield portion


class KeptPortions:
    """The findings about finished portions, line by line in the files of a folder; each process writes one of its own.

    A line that a killed process has not finished does not count.

    Args:
        folder: may hold files of earlier processes. None = what is found goes to a file that nobody else sees.

    Raises:
        BadInputError: a line is damaged.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        # File, and where in it the line begins and how long it is.
        self._places: dict[int, tuple[IO[bytes], int, int]] = {}
        self._files = ExitStack()
        for path in sorted(folder.glob("*.jsonl")) if folder else ():
            self._index(path)
        self._own = self._files.enter_context(_open_own(folder))

    def _index(self, path: Path) -> None:
        file, begin = self._files.enter_context(path.open("rb")), 0
        for line in file:
            if line.endswith(b"\n"):
                self._places[_parse(line, path)[0]] = file, begin, len(line)
            begin += len(line)

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def numbers(self) -> list[int]:
        """Which portions are finished, in ascending order."""
        return sorted(self._places)

    def keep(self, number: int, findings: Findings) -> None:
        """Writes what was found about a portion; on a full disk it is there as long as this process is."""
        line = json.dumps([number, findings], separators=(",", ":")).encode() + b"\n"
        try:
            begin = _append(self._own, line)
        except OSError as error:
            reason = find_write_fault(error)
            if reason is None:
                raise
            if self.folder is not None:
                logger.warning("%s cannot be written (%s): %s go on from here.", self.folder, reason, CUT_OFF)
            self._own = io.BytesIO()
            begin = _append(self._own, line)
        self._places[number] = self._own, begin, len(line)

    def read(self, number: int) -> Findings:
        """What was found about a finished portion."""
        file, begin, length = self._places[number]
        file.seek(begin)
        return json.loads(file.read(length))[1]

    def close(self) -> None:
        """Closes the files, which stay."""
        self._files.close()


def _open_own(folder: Path | None) -> IO[bytes]:
    """A new file without a buffer, which would try to write again what found no room."""
    if folder is None:
        return tempfile.TemporaryFile(buffering=0)
    return (folder / f"{uuid.uuid4().hex}.jsonl").open("x+b", buffering=0)


def _append(file: IO[bytes], line: bytes) -> int:
    """Writes a line behind all others; returns where it begins."""
    begin, rest = file.seek(0, os.SEEK_END), memoryview(line)
    while rest:
        rest = rest[file.write(rest) :]
    return begin


def _parse(line: bytes, path: Path) -> tuple[int, Findings]:
    try:
        number, findings = json.loads(line)
        if type(number) is not int or not isinstance(findings, list):
            raise TypeError(f"a portion is a number with a list, not {short_text(number)}")
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInputError(f"{path} is damaged. Delete the folder {path.parent}, and start again.") from error
    return number, findings


@contextmanager
def keeping_portions(folder: Path | None, inputs: Mapping[str, Any]) -> Iterator[KeptPortions]:
    """A context with what is finished of an evaluation; without a folder, or room in it, nothing of it stays.

    Raises:
        BadInputError: the folder holds what was found with other inputs, or is damaged.
        OSError: it cannot be made.
    """
    try:
        has_room = folder is not None and _begin(folder, inputs)
        with closing(KeptPortions(folder if has_room else None)) as kept:
            yield kept
    finally:
        if folder is not None:
            _remove_unless_used(folder)


def _begin(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Begins a folder, or goes on with one; returns whether there is room. Raises as `keeping_portions`."""
    try:
        before, now = begin_folder(folder / MANIFEST, inputs)
    except OutputError as error:
        logger.warning("%s cannot be written (%s): %s begin anew.", folder, find_write_fault(error), CUT_OFF)
        return False
    if before or now:
        raise BadInputError(
            f"{folder} holds an unfinished evaluation with {short_text(before)}, not with {short_text(now)}. "
            "Finish that one, or delete the folder to begin anew."
        )
    return True


def _remove_unless_used(folder: Path) -> None:
    """Removes a folder in which no portion is finished."""
    # Another process may remove it just now.
    with suppress(FileNotFoundError):
        if not any(file.stat().st_size for file in folder.glob("*.jsonl")):
            forget_portions(folder)


def forget_portions(folder: Path) -> None:
    """Removes the folder of an evaluation whose result is written; another process may have done so."""
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:12]}{PARTIAL}")
    try:
        # At once: what is begun meanwhile begins anew.
        folder.rename(aside)
    except FileNotFoundError:
        return
    shutil.rmtree(aside)


class Share:
    """Which portions are for this process: of those that none has finished yet, each process takes its turn.

    Args:
        kept: what this process has found finished.
        state: the processes, or None = this one alone.
    """

    def __init__(self, kept: KeptPortions, state: PartialState | None) -> None:
        self.kept, self.state = kept, state
        held = self._gather([kept.numbers()])
        # Several processes may see the same files: the first one hands them on.
        self._before = {number for numbers in held[: self._place] for number in numbers}
        self.finished = self._before.union(*held)

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the processes."""
        return self._place == 0

    @property
    def _place(self) -> int:
        return 0 if self.state is None else self.state.process_index

    def _gather(self, objects: list[Any]) -> list[Any]:
        return objects if self.state is None else gather_object(objects)

    def choose(
        self, portions: Iterable[list[Key]], check: Callable[[int, list[Key]], None]
    ) -> Iterator[tuple[int, Key]]:
        """Number of its portion, and key, of all that this process is to look at; `check` sees the finished ones."""
        processes, turn, total = 1 if self.state is None else self.state.num_processes, 0, 0
        for number, keys in enumerate(portions):
            total += 1
            if number in self.finished:
                check(number, keys)
                continue
            if turn % processes == self._place:
                yield from ((number, key) for key in keys)
            turn += 1
        # Of fewer rows than before there is nothing that these could be about.
        for number in (number for number in self.finished if number >= total):
            check(number, [])

    def gather(self) -> Iterator[Findings]:
        """The findings of all processes in the order of the portions; each process has to go through all of them."""
        own = [number for number in self.kept.numbers() if number not in self._before]
        total = 1 + max(self._gather([own[-1] if own else -1]))
        for begin in range(0, total, GATHERED):
            numbers = range(begin, min(begin + GATHERED, total))
            here = [(number, self.kept.read(number)) for number in own if number in numbers]
            for _, findings in sorted(self._gather(here), key=lambda pair: pair[0]):
                yield findings
