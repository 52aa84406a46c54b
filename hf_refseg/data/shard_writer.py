"""The program of a process that writes shards for `shard_processes`; started by the path of this file.

Jobs come in by stdin, answers go out by stdout. Of `hf_refseg` it imports what it needs without the package around it,
which imports torch and takes half a gigabyte in each process.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import traceback
from queue import SimpleQueue
from types import ModuleType


def main() -> None:
    """Writes one shard after the other, until the process that started this one closes stdin, or is gone."""
    # It is the other process that an interruption is meant for.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints is no answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    jobs: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(jobs,), daemon=True).start()
    sys.path[:], package_path, most_pixels = pickle.loads(jobs.get())
    package = sys.modules["hf_refseg"] = ModuleType("hf_refseg")
    package.__path__ = package_path

    from PIL import Image

    from hf_refseg.data.shards import write_shard

    Image.MAX_IMAGE_PIXELS = most_pixels
    while True:
        answer: tuple[int, Exception | None, str]
        try:
            answer = (write_shard(*pickle.loads(jobs.get())), None, "")
        except Exception as error:
            answer = (0, error, traceback.format_exc())
        answers.write(pickle.dumps(answer))
        answers.flush()


def _receive(jobs: SimpleQueue[bytes]) -> None:
    """Ends this process, whatever it is writing, as soon as nobody waits for it."""
    try:
        while True:
            jobs.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
