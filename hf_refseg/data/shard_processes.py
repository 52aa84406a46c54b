"""Shards of a prepared data set written by several processes, which import no torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from datasets import Dataset

WRITER = Path(__file__).with_name("shard_writer.py")


def write_in_processes(shards: Mapping[Path, Dataset], num_proc: int) -> Iterator[int]:
    """Writes shards as `write_shard` does, and gives the rows of each in order; raises the first error in order.

    Forks would do the same work, but each would come to hold what this process has imported. Where this process ends,
    they do, whatever they are at.

    Raises:
        ChildProcessError: one of the processes was ended.
    """
    executor = ThreadPoolExecutor(num_proc)
    with ExitStack() as running:
        # Last, when its threads wait for no process any more: an interruption waits for no shard.
        running.callback(executor.shutdown, cancel_futures=True)
        idle: SimpleQueue[_ShardProcess] = SimpleQueue()
        for _ in range(num_proc):
            idle.put(running.enter_context(_ShardProcess()))

        def write(shard: Dataset, path: Path) -> int:
            process = idle.get()
            try:
                return process.write(shard, path)
            finally:
                idle.put(process)

        try:
            yield from executor.map(write, shards.values(), shards)
        except Exception:
            # What the others have begun is finished, and kept.
            executor.shutdown(cancel_futures=True)
            raise


class _ShardProcess:
    """A process that writes one shard at a time, and ends with its context."""

    def __enter__(self) -> _ShardProcess:
        # Without the folder of the program among those that modules are looked for in; it is told which those are.
        command = [sys.executable, "-I", str(WRITER)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        # As both are pipes.
        assert self._process.stdin is not None and self._process.stdout is not None
        self._jobs, self._answers = self._process.stdin, self._process.stdout
        with _naming_end():
            self._send((sys.path, list(sys.modules["hf_refseg"].__path__), Image.MAX_IMAGE_PIXELS))
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        # What it was not sent any more is flushed at the end.
        with suppress(OSError), self._process:
            pass

    def write(self, shard: Dataset, path: Path) -> int:
        """The rows that were written; raises what the process did, of which the cause says where it did."""
        with _naming_end():
            self._send((shard, path))
            rows, error, place = pickle.load(self._answers)
        if error is not None:
            raise error from RuntimeError(f"In a process that writes shards:\n{place}")
        return rows

    def _send(self, message: Any) -> None:
        pickle.dump(pickle.dumps(message), self._jobs)
        self._jobs.flush()


@contextmanager
def _naming_end() -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise ChildProcessError(
            "A process that wrote shards was ended from outside, perhaps for lack of memory. Start the same command "
            "again, with num_proc=1 if need be: what is finished is kept."
        ) from error
