"""Scores two videos of squares, then what the command `evaluate` is told, in as many processes as there are."""

import sys
from dataclasses import asdict
from pathlib import Path

from color_videos import COLORS, ColorModel, as_dataset, color_processor, make_row

from hf_refseg.evaluation import ModelSystem, evaluate_system
from hf_refseg.evaluation.portions import join_processes
from hf_refseg.files import write_json
from hf_refseg_cli import app


def main(output: Path, *arguments: str) -> None:
    state = join_processes()
    rows = as_dataset(make_row(0, COLORS), make_row(1, COLORS[::-1]))
    system = ModelSystem(ColorModel(), color_processor())
    result = evaluate_system(system, rows, "a2d", state=state, bootstrap_samples=20, progress=False)
    if state is None or state.is_main_process:
        output.mkdir()
        write_json(output / "videos.json", {**asdict(result), "seconds": None})
    app(["evaluate", *arguments, "--output", str(output), "--save-predictions", str(output / "predictions.jsonl")])


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
