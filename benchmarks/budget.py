"""How many steps of a training fit into a time on this machine."""

from pathlib import Path

from hf_refseg.training.recipes import run_recipe

WARM_UP_STEPS, TIMED_STEPS = 20, 60


def steps_that_fit(options: list[str], folder: Path, seconds: float) -> int:
    """Steps that take so many seconds: a short run into `folder` is timed and thrown away.

    `options` are a recipe and its options, with one that keeps the scoring in the end short.
    """
    timed = {}
    for steps in (WARM_UP_STEPS, WARM_UP_STEPS + TIMED_STEPS):
        report = run_recipe([*options, "--output_dir", str(folder), "--max_steps", str(steps)])
        timed[steps] = report["training"]["train_runtime"]
    return int(seconds * TIMED_STEPS / (timed[WARM_UP_STEPS + TIMED_STEPS] - timed[WARM_UP_STEPS]))
