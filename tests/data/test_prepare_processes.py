"""`prepare_dataset` in several processes: the same files and errors as in one, and none outlives a kill."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import datasets
import pytest
from PIL import Image
from places import FIXTURES

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.data.shard_processes import _ShardProcess

GOLDEN = FIXTURES / "refer_api"
# Only reached where something hangs.
SECONDS = 20
WRITE = _ShardProcess.write


pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="what processes start and load is asked of Linux"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("processes")


def prepare(output: Path, cache: Path, num_proc: int, tree: Path = GOLDEN) -> Path:
    return prepare_dataset("refcoco", tree, output, max_shard_rows=5, cache_dir=cache, num_proc=num_proc)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.parquet")}


def copy_with_cache(tmp_path: Path) -> tuple[Path, dict[str, list[Path]]]:
    """A copy of the tree whose rows are in its cache already, and the images of each split."""
    tree = tmp_path / "tree"
    shutil.copytree(GOLDEN, tree)
    dataset = load_refseg("refcoco", tree, cache_dir=tree / "cache").cast_column("image", datasets.Image(decode=False))
    return tree, {split: [Path(image["path"]) for image in rows["image"]] for split, rows in dataset.items()}


def test_several_processes_write_what_one_writes(cache, tmp_path, monkeypatch, capsys) -> None:
    one = prepare(tmp_path / "one", cache, 1)
    written, libraries = [], []

    def note_process(process: _ShardProcess, shard: datasets.Dataset, path: Path) -> int:
        rows = WRITE(process, shard, path)
        written.append(process._process.pid)
        libraries.append(Path(f"/proc/{process._process.pid}/maps").read_text())
        return rows

    monkeypatch.setattr(_ShardProcess, "write", note_process)
    capsys.readouterr()
    several = prepare(tmp_path / "several", cache, 2)
    assert files_of(several) == files_of(one) and len(files_of(one)) == 10
    assert len(written) == 10 and len(set(written)) == 2 and os.getpid() not in written
    # It would take several times as much memory as all else.
    assert all("arrow" in each and "torch" not in each for each in libraries)
    assert "35/35" in capsys.readouterr().err


def test_a_process_has_the_limit_of_pixels_of_the_one_that_started_it(cache, tmp_path, monkeypatch) -> None:
    rows = load_refseg("refcoco", GOLDEN, cache_dir=cache)["val"]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with _ShardProcess() as process, pytest.raises(DataFormatError, match="exceeds limit of 14 pixels") as error:
        process.write(rows, tmp_path / "val.parquet")
    assert "in verify_image" in str(error.value.__cause__)


def test_the_first_bad_image_is_the_error_of_several_processes(cache, tmp_path) -> None:
    tree, images = copy_with_cache(tmp_path)
    for path in images["testA"]:
        path.write_bytes(b"")
    with pytest.raises(DataFormatError, match=r"is damaged or no image.*Download it again") as error:
        prepare(tmp_path / "output", tree / "cache", 2, tree)
    assert str(images["testA"][0]) in str(error.value) and "\n" not in str(error.value)
    assert {name.split("-")[0] for name in files_of(tmp_path / "output")} >= {"train", "val"}
    assert not list(tmp_path.glob("output/**/*.partial"))


def with_pipes(tmp_path: Path) -> tuple[Path, set[Path]]:
    """A copy of the tree, of whose images nobody comes to an end, and these images; the whole ones lie beside them."""
    tree, images = copy_with_cache(tmp_path)
    paths = {path for paths in images.values() for path in paths}
    for path in paths:
        path.rename(f"{path}.whole")
        # Who reads it waits for somebody to write it.
        os.mkfifo(path)
    return tree, paths


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, as in a process that was started from a terminal; pytest's workers ignore it."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.slow_process
def test_an_interruption_waits_for_no_shard(interruptible, tmp_path) -> None:
    tree, paths = with_pipes(tmp_path)
    ended, ended_here = threading.Event(), []
    with held_open(paths) as is_read:

        def interrupt() -> None:
            assert await_true(lambda: len(is_read()) > 0)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            # Where the interruption waits, it would do so for ever.
            if not ended.wait(SECONDS):
                ended_here.extend(children_of(os.getpid()))
                for worker in ended_here:
                    os.kill(int(worker.name), signal.SIGKILL)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "output", tree / "cache", 2, tree)
        ended.set()
        thread.join()
    assert ended_here == []


@pytest.mark.slow_process
def test_a_killed_run_leaves_no_process_that_writes(cache, tmp_path) -> None:
    tree, paths = with_pipes(tmp_path)
    fork = multiprocessing.get_context("fork")
    run = fork.Process(target=prepare, args=(tmp_path / "output", tree / "cache", 2, tree))
    run.start()
    with held_open(paths) as is_read:
        assert await_true(lambda: len(is_read()) == 2)
        workers = children_of(run.pid)
        run.kill()
        run.join(SECONDS)
        assert len(workers) == 2
        assert await_true(lambda: not any(worker.exists() for worker in workers))
    for path in paths:
        Path(f"{path}.whole").replace(path)
    prepare(tmp_path / "output", tree / "cache", 1, tree)
    assert len(files_of(tmp_path / "output")) == 10


@contextmanager
def held_open(pipes: Iterable[Path]) -> Iterator[Callable[[], Iterable[Path]]]:
    """A function that tells which of the named pipes others read; they find nothing there, and no end."""
    opened = {}

    def is_read() -> Iterable[Path]:
        for path in pipes:
            # Raised where nobody has opened it for reading.
            with suppress(OSError):
                opened[path] = opened.get(path) or os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        return opened.keys()

    try:
        yield is_read
    finally:
        for number in opened.values():
            os.close(number)


def await_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not (is_true := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return is_true


def children_of(process: int) -> list[Path]:
    """The folders in `/proc` of the processes that one has started."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return [Path("/proc", child) for thread in threads for child in (thread / "children").read_text().split()]


def test_a_process_that_was_ended_is_an_error_that_says_so(cache, tmp_path, monkeypatch) -> None:
    def end(process: _ShardProcess, shard: datasets.Dataset, path: Path) -> int:
        process._process.kill()
        return WRITE(process, shard, path)

    monkeypatch.setattr(_ShardProcess, "write", end)
    with pytest.raises(ChildProcessError, match=r"ended from outside.*num_proc=1.*is kept"):
        prepare(tmp_path / "output", cache, 2)


def test_a_number_of_processes_is_one_at_least(cache, tmp_path) -> None:
    with pytest.raises(ValueError, match="num_proc is 0; choose at least 1"):
        prepare(tmp_path / "output", cache, 0)
