"""`prepare_dataset` in several processes: the same files and errors as in one, and none outlives a kill."""

import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import datasets
import pytest
from places import FIXTURES

from hf_refseg.data import prepare as module
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError

GOLDEN = FIXTURES / "refer_api"
# Only reached where something hangs.
SECONDS = 20
# What is patched here has to be patched there.
FORKED = multiprocessing.get_context("fork")
WRITE_SHARD = module._write_shard

pytestmark = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="the functions that are replaced here are so in forks alone"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


def prepare(output: Path, cache: Path, num_proc: int, tree: Path = GOLDEN) -> Path:
    return prepare_dataset("refcoco", tree, output, max_shard_rows=5, cache_dir=cache, num_proc=num_proc)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}


def test_several_processes_write_what_one_writes(cache, tmp_path, monkeypatch, capsys) -> None:
    one = prepare(tmp_path / "one", cache, 1)
    written = FORKED.SimpleQueue()

    def note_process(shard: datasets.Dataset, path: Path) -> int:
        written.put(os.getpid())
        # So that the others find something to do.
        time.sleep(0.02)
        return WRITE_SHARD(shard, path)

    monkeypatch.setattr(module, "_write_shard", note_process)
    note_process.__module__, note_process.__qualname__ = module.__name__, "_write_shard"
    capsys.readouterr()
    several = prepare(tmp_path / "several", cache, 3)
    assert files_of(several) == files_of(one) and len(files_of(one)) == 10
    processes = [written.get() for _ in range(10)]
    assert len(set(processes)) > 1 and os.getpid() not in processes
    assert "35/35" in capsys.readouterr().err


def test_the_first_bad_image_is_the_error_of_several_processes(cache, tmp_path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(GOLDEN, tree)
    dataset = load_refseg("refcoco", tree, cache_dir=tree / "cache")
    paths = [row["image"]["path"] for row in dataset["testA"].cast_column("image", datasets.Image(decode=False))]
    for path in paths:
        Path(path).write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"is damaged or no image.*Download it again") as error:
        prepare(tmp_path / "output", tree / "cache", 2, tree)
    assert paths[0] in str(error.value) and "\n" not in str(error.value)
    assert {name.split("-")[0] for name in files_of(tmp_path / "output")} >= {"train", "val"}
    assert not list(tmp_path.glob("output/**/*.partial"))


@pytest.mark.slow_process
def test_a_killed_run_leaves_no_process_that_holds_its_folder(cache, tmp_path, monkeypatch) -> None:
    started = FORKED.SimpleQueue()

    def hang(shard: datasets.Dataset, path: Path) -> int:
        started.put(os.getpid())
        time.sleep(10 * SECONDS)
        return 0

    hang.__module__, hang.__qualname__ = module.__name__, "_write_shard"
    monkeypatch.setattr(module, "_write_shard", hang)
    run = FORKED.Process(target=prepare, args=(tmp_path / "output", cache, 2))
    run.start()
    workers = [started.get() for _ in range(2)]
    run.kill()
    run.join(SECONDS)
    monkeypatch.undo()
    again = FORKED.Process(target=prepare, args=(tmp_path / "output", cache, 1))
    again.start()
    again.join(SECONDS)
    # What is still there would stay for ever.
    for process in (again.pid, *workers):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    assert again.exitcode == 0 and len(files_of(tmp_path / "output")) == 10


@pytest.mark.slow_process
def test_a_process_that_was_ended_is_an_error_that_says_so(cache, tmp_path, monkeypatch) -> None:
    def end(shard: datasets.Dataset, path: Path) -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    end.__module__, end.__qualname__ = module.__name__, "_write_shard"
    monkeypatch.setattr(module, "_write_shard", end)
    with pytest.raises(ChildProcessError, match=r"ended from outside.*num_proc=1.*is kept"):
        prepare(tmp_path / "output", cache, 2)


def test_a_number_of_processes_is_one_at_least(cache, tmp_path) -> None:
    with pytest.raises(ValueError, match="num_proc is 0; choose at least 1"):
        prepare(tmp_path / "output", cache, 0)
