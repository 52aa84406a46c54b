"""Trains the small unified LAVT with each value of `image_streams_in_training`, and scores it on images and on clips.

At inference images pass through their own encoder alone ("images"); "images, both" are the scores of the same model
where the encoder of clips is added, as in a training with "both". Clips are scored as at inference.

    python benchmarks/unified_streams.py --steps 2400 --seeds 0 1 2
    python benchmarks/unified_streams.py --steps 600 --fields '{"pwam_structure": 2}' --examples 100

Lines of JSON go to `--output`, so that an interrupted table goes on where it was; the table is that of all its lines.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from json_lines import read_lines, write_line

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.evaluation import evaluate_model
from hf_refseg.modeling.modeling_unified_lavt import BOTH, UnifiedLavtForReferringSegmentation
from hf_refseg.training.recipe_files import find_recipe, read_recipe
from hf_refseg.training.recipes import run_recipe

RECIPE = "unified_lavt_refshapes_joint"
VALUES = ("both", "single", "mixed")
SCORES = ("images oIoU", "images mIoU", "images, both oIoU", "images, both mIoU", "clips J&F")


class BothStreams(UnifiedLavtForReferringSegmentation):
    """A unified LAVT that adds up both streams at inference too."""

    def streams_of(self, image_size: tuple[int, ...]) -> tuple[str, ...]:
        return BOTH


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2400, help="steps of each training, half of them on images")
    parser.add_argument("--values", nargs="+", choices=VALUES, default=list(VALUES))
    parser.add_argument("--fields", type=json.loads, default={}, help="other fields of the configuration, as JSON")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--examples", type=int, default=200, help="images and videos that are scored")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/unified_streams"))
    parser.add_argument("--output", type=Path, default=Path("runs/unified_streams/table.jsonl"))
    return parser.parse_args()


def train_and_score(value: str, seed: int, arguments: argparse.Namespace) -> dict:
    folder = arguments.folder / f"{value}_{seed}_{arguments.steps}"
    recipe = read_recipe(find_recipe(RECIPE))
    recipe["config"] |= {**arguments.fields, "image_streams_in_training": value}
    videos = load_refseg(recipe["dataset_name"], **recipe["dataset_options"])["test"]
    images = load_refseg(recipe["image_data"]["dataset_name"], **recipe["image_data"]["dataset_options"])["test"]
    quiet = {"eval_strategy": "no", "save_strategy": "no", "pictures": 0, "disable_tqdm": True}
    # The scores in the end are computed here.
    recipe |= {**quiet, "seed": seed, "resume_from_checkpoint": "never", "test_splits": ["val"], "max_test_videos": 1}
    recipe["image_data"] |= {"test_splits": ["val"], "max_test_images": 1}
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe))
    report = run_recipe([str(path), "--output_dir", str(folder), "--max_steps", str(arguments.steps)])
    processor = RefSegProcessor.from_pretrained(folder)
    model = AutoModelForReferringSegmentation.from_pretrained(folder)
    added = BothStreams.from_pretrained(folder, image_streams_in_training="both")
    scored = {"bootstrap_samples": 0, "progress": False, "max_examples": arguments.examples}
    alone, both = (evaluate_model(each, processor, images, **scored).metrics for each in (model, added))
    clips = evaluate_model(model, processor, videos, **scored).metrics
    return {
        "value": value,
        "seed": seed,
        "steps": arguments.steps,
        **{f"images {name}": round(alone[name], 2) for name in ("oIoU", "mIoU")},
        **{f"images, both {name}": round(both[name], 2) for name in ("oIoU", "mIoU")},
        "clips J&F": round(clips["J&F"], 2),
        "seconds": round(report["training"]["train_runtime"]),
    }


def print_table(rows: list[dict]) -> None:
    """The table in Markdown; means over seeds."""
    print(f"\n| image_streams_in_training | steps | seeds | {' | '.join(SCORES)} |")
    print("| --- " * (len(SCORES) + 3) + "|")
    for value, steps in dict.fromkeys((row["value"], row["steps"]) for row in rows):
        runs = [row for row in rows if (row["value"], row["steps"]) == (value, steps)]
        cells = [f"{sum(run[name] for run in runs) / len(runs):.1f}" for name in SCORES]
        print(f"| {value} | {steps} | {len(runs)} | {' | '.join(cells)} |")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_lines(arguments.output)
    done = {(row["value"], row["seed"], row["steps"]) for row in rows}
    for seed in arguments.seeds:
        for value in arguments.values:
            if (value, seed, arguments.steps) not in done:
                rows.append(train_and_score(value, seed, arguments))
                write_line(rows[-1], arguments.output)
                print(json.dumps(rows[-1]))
    print_table(rows)


if __name__ == "__main__":
    main()
