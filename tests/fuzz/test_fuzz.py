"""Any input gives the right result or one clear error, within limits of memory and time and inside its own folder.

`FUZZ_MINUTES=30` goes on for so long, with new seeds; `FUZZ_SEED=5` runs the cases of one of them again.

Hypothesis is imported where it is used: processes that run other tests import this file as well.
"""

import os
import random
import sys
import time
from collections.abc import Iterator

import pytest
from isolation import Worker

# How many cases of each target, so that all together take about ten seconds on one core: those that read whole
# data sets and checkpoints take long. `make fuzz` finds more.
CASES = {
    "refcoco": 20,
    "refclef": 10,
    "grefcoco": 10,
    "refer": 20,
    "prepared": 20,
    "ref_youtube_vos": 20,
    "ref_davis17": 15,
    "ref_davis17_release": 12,
    "a2d_sentences": 25,
    "jhmdb_sentences": 20,
    "phrasecut": 20,
    "jhmdb_sentences_release": 12,
    "metadata": 25,
    "metadata_csv": 15,
    "labels": 20,
    "phrases": 10,
    "coco": 25,
    "labelme": 25,
    "label_studio": 25,
    "predictions": 15,
    "results": 40,
    "picture": 100,
    "masks": 180,
    "processor": 120,
    "post_processing": 60,
    "checkpoint": 15,
}
ROUND = 200

pytestmark = [
    pytest.mark.slow_process,
    pytest.mark.skipif(sys.platform != "linux", reason="limits of address space and /proc are Linux's"),
]


@pytest.fixture(scope="session")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with Worker(tmp_path_factory.mktemp("fuzz")) as started:
        yield started


def test_every_target_is_fuzzed() -> None:
    from mutations import STRATEGIES

    assert CASES.keys() == STRATEGIES.keys()


@pytest.mark.parametrize("target", CASES)
def test_fuzz(target: str, worker: Worker) -> None:
    minutes, chosen = os.environ.get("FUZZ_MINUTES"), os.environ.get("FUZZ_SEED")
    if minutes is None and chosen is None:
        check(target, worker, CASES[target], number=0)
        return
    end = time.monotonic() + float(minutes or 0) * 60 / len(CASES)
    number = int(chosen or random.getrandbits(32))
    check(target, worker, ROUND, number)
    while chosen is None and time.monotonic() < end:
        number += 1
        check(target, worker, ROUND, number)


def check(target: str, worker: Worker, cases: int, number: int) -> None:
    """Runs so many cases, which follow from the seed `number`."""
    from hypothesis import HealthCheck, Phase, given, seed, settings
    from mutations import STRATEGIES

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[target])
    def run(case: object) -> None:
        outcome = worker.run(target, case)
        assert outcome.kind != "fault", outcome.text

    try:
        run()
    except AssertionError:
        print(f"Reproduce with: FUZZ_SEED={number} {sys.executable} -m pytest tests/fuzz -k {target}")
        raise
