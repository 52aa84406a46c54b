"""What the fuzz tests hold against a case: each thing that no input may make the library do."""

import os
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

import isolation
import pytest
from isolation import Child, Outcome
from targets import Target

from hf_refseg.data.rows import DataFormatError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of address space and /proc are Linux's")


def name_nothing(case: object, work: Path) -> None:
    raise DataFormatError("it is damaged")


def take_memory(case: object, work: Path) -> None:
    bytearray(3 * 2**30)


def never_end(case: object, work: Path) -> None:
    while True:
        pass


def crash(case: object, work: Path) -> None:
    os.abort()


def write_outside(case: object, work: Path) -> None:
    (work.parent / "elsewhere.txt").write_text("mine")


def remove_outside(case: object, work: Path) -> None:
    (work / ".." / "outside" / "secret.txt").unlink()


def read_secret(case: object, work: Path) -> None:
    (work / ".." / "outside" / "secret.txt").read_text()


def start_program(case: object, work: Path) -> None:
    subprocess.run(["true"])


def connect(case: object, work: Path) -> None:
    with socket.socket() as opened:
        opened.connect_ex(("127.0.0.1", 9))


def run_alone(target: Target, work: Path) -> Outcome:
    child = Child({"it": target}, work)
    outcome = child.run("it", None)
    child.end()
    return outcome


@pytest.mark.slow_process
@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (take_memory, "MemoryError"),
        (never_end, r"SIGXCPU: it took too long[\s\S]*never_end"),
        (crash, r"SIGABRT: it crashed[\s\S]*crash"),
        (write_outside, "elsewhere.txt"),
        (remove_outside, "os.remove"),
        (read_secret, "secret.txt"),
        (start_program, "subprocess.Popen"),
        (connect, "socket.connect"),
        (name_nothing, "names none of"),
        (lambda case, work: {}["key"], "KeyError"),
    ],
)
def test_a_case_that_misbehaves_is_a_fault(run, reason, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(isolation, "CPU_SECONDS", 0)
    for name in ("work", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    target = Target(run, None, (DataFormatError,), lambda case: ["picture.png"])
    outcome = run_alone(target, tmp_path / "work")
    assert outcome.kind == "fault" and re.search(reason, outcome.text), outcome.text


def test_a_case_that_stays_in_its_folder_is_right(tmp_path) -> None:
    for name in ("work", "outside"):
        (tmp_path / name).mkdir()
    target = Target(lambda case, work: (work / "new").write_text("mine"), None, ())
    assert run_alone(target, tmp_path / "work").kind == "right"


def test_many_cases_share_a_process_and_each_may_take_as_long(tmp_path) -> None:
    for name in ("work", "outside"):
        (tmp_path / name).mkdir()

    def tell(case: float, work: Path) -> None:
        while time.process_time() < case:
            pass
        (work / "told").write_text(f"{os.getpid()} {resource.getrlimit(resource.RLIMIT_CPU)[0]}")

    child, told = Child({"it": Target(tell, None, ())}, tmp_path / "work"), []
    for seconds in (1.01, 0):
        assert child.run("it", seconds).kind == "right"
        told.append((tmp_path / "work" / "told").read_text().split())
    child.end()
    (first, limit), (second, later_limit) = told
    assert first == second and int(later_limit) == int(limit) + 1
