"""RefShapes is the same, byte by byte, in every process: nothing hangs on the order of a set."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from fresh_process import run_new_python
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


# Without what the package's own `__init__` imports: no model is needed.
OTHER_PROCESS = f"""
import json, sys, types

package = types.ModuleType("hf_refseg")
package.__path__ = {[str(CHECKOUT / "hf_refseg"), str(CHECKOUT)]!r}
sys.modules["hf_refseg"] = package

import test_refshapes_seeds as here

print(json.dumps(here.digests_of_rows(seed=4)))
"""


@pytest.mark.slow_process
def test_same_seed_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    path = os.pathsep.join(map(str, (Path(__file__).parent, SUPPORT, CHECKOUT)))
    printed = run_new_python(OTHER_PROCESS, tmp_path, {"PYTHONHASHSEED": "1", "PYTHONPATH": path})
    here, others = digests_of_rows(seed=4), digests_of_rows(seed=5)
    assert json.loads(printed) == here
    assert all(here[name] != others[name] for name in here)
