"""RefShapes is the same, byte by byte, in every process: nothing hangs on the order of a set."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import CHECKOUT, SUPPORT

from hf_refseg.datasets_scripts.refshapes import make_rows
from hf_refseg.datasets_scripts.refshapes_video import make_row


def digests_of_rows(seed: int) -> dict[str, str]:
    """A digest of the rows of each generated data set, pictures included."""
    rows = {
        name: [row for index in range(12) for row in make_rows(name, seed, "train", index, 64)]
        for name in ("refshapes", "refshapes+", "grefshapes")
    }
    rows["refshapes_video"] = [make_row(seed, "train", index, 64, 8) for index in range(8)]
    return {
        name: hashlib.sha256(json.dumps(each, default=bytes.hex).encode()).hexdigest() for name, each in rows.items()
    }


@pytest.mark.slow_process
def test_same_seed_gives_the_same_bytes_in_another_process() -> None:
    program = "import json, test_refshapes_seeds as here; print(json.dumps(here.digests_of_rows(seed=4)))"
    path = os.pathsep.join(map(str, (Path(__file__).parent, SUPPORT, CHECKOUT)))
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    here, others = digests_of_rows(seed=4), digests_of_rows(seed=5)
    assert json.loads(done.stdout) == here
    assert all(here[name] != others[name] for name in here)
