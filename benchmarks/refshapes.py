"""Trains methods from random weights on RefShapes, each for the same time, and prints a table of what they learned.

A method is a recipe `examples/recipes/<name>_refshapes.yaml`; a variant of it is "<name>:<JSON of configuration
fields>". How many steps fit into the time is measured first, in a short run that is thrown away, so that the learning
rate ends where its schedule says. One after the other and alone on the machine: the budget is wall-clock time.

    python benchmarks/refshapes.py --minutes 10
    python benchmarks/refshapes.py --minutes 3 --methods lavt 'lavt:{"language_pathway": false}' --seeds 0 1 2

Each run's folder holds its model, pictures and metrics.json. Lines of JSON go to `--output`, so that an interrupted
table goes on where it was; the table is that of all its lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from budget import steps_that_fit
from json_lines import read_lines, write_line

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.evaluation import evaluate_model, with_shuffled_sentences
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.options import parse_options
from hf_refseg.training.recipe_files import RECIPES
from hf_refseg.training.recipes import run_recipe

METHODS = sorted(path.stem.removesuffix("_refshapes") for path in RECIPES.glob("*_refshapes.yaml"))
SCORES = ("oIoU", "mIoU", "Pr@0.5", "N-acc", "T-acc")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time to train each model")
    parser.add_argument("--methods", nargs="+", default=METHODS, help="recipes, or variants of them")
    parser.add_argument("--datasets", nargs="+", default=["refshapes", "grefshapes"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/refshapes_table"))
    parser.add_argument("--output", type=Path, default=Path("runs/refshapes_table/table.jsonl"))
    return parser.parse_args()


def options_of(method: str, dataset: str, seed: int) -> list[str]:
    """The recipe of a method and its options; expressions without a target ask for the presence head."""
    name, _, fields = method.partition(":")
    config = json.loads(fields or "{}")
    if dataset == "grefshapes":
        config["presence_head"] = True
    evaluation = ["--eval_strategy", "no", "--save_strategy", "no", "--test_splits", "val", "--pictures", "0"]
    options = ["--dataset_name", dataset, "--config", json.dumps(config), "--seed", str(seed), *evaluation]
    return [f"{name}_refshapes", *options, "--resume_from_checkpoint", "never", "--disable_tqdm", "true"]


def train_and_score(method: str, dataset: str, seed: int, arguments: argparse.Namespace) -> dict:
    label = "".join(character if character.isalnum() else "_" for character in f"{method}_{dataset}_{seed}")
    folder = arguments.folder / label
    options = options_of(method, dataset, seed)
    steps = steps_that_fit([*options, "--max_test_images", "1"], arguments.folder / "timing", 60 * arguments.minutes)
    report = run_recipe([*options, "--output_dir", str(folder), "--max_steps", str(steps)])
    model = AutoModelForReferringSegmentation.from_pretrained(folder)
    processor = RefSegProcessor.from_pretrained(folder)
    _, data_arguments, _ = parse_options([*options, "--output_dir", str(folder)], ImageDataArguments, __doc__)
    val = load_refseg(dataset, **data_arguments.dataset_options)["val"]
    # Moving the sentences of no target elsewhere says nothing about reading.
    targets = val.filter(lambda no_target: not no_target, input_columns="no_target").flatten_indices()
    shuffled = evaluate_model(model, processor, with_shuffled_sentences(targets), bootstrap_samples=0, batch_size=64)
    scores = report["splits"]["val"]["metrics"]
    return {
        "method": method,
        "dataset": dataset,
        "seed": seed,
        **{name: round(scores[name], 2) for name in SCORES if name in scores},
        "shuffled oIoU": round(shuffled.metrics["oIoU"], 2),
        "parameters": model.num_parameters(),
        "steps": steps,
        "seconds": round(report["training"]["train_runtime"]),
        "minutes": arguments.minutes,
        "threads": arguments.threads,
    }


def print_table(rows: list[dict]) -> None:
    """A table per data set in Markdown; several seeds of a method give mean and standard deviation."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        of_dataset = [row for row in rows if row["dataset"] == dataset]
        names = [name for name in (*SCORES, "shuffled oIoU") if name in of_dataset[0]]
        print(f"\n| {dataset} | " + " | ".join([*names, "parameters", "steps", "seconds"]) + " |")
        print("| --- " * (len(names) + 4) + "|")
        for method in dict.fromkeys(row["method"] for row in of_dataset):
            runs = [row for row in of_dataset if row["method"] == method]
            scores = [spread([run[name] for run in runs]) for name in names]
            size = f"{runs[0]['parameters'] / 1e6:.1f} M"
            effort = [str(round(statistics.mean(run[name] for run in runs))) for name in ("steps", "seconds")]
            print(f"| {method} | " + " | ".join([*scores, size, *effort]) + " |")


def spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_lines(arguments.output)
    done = {(row["method"], row["dataset"], row["seed"], row["minutes"]) for row in rows}
    for dataset in arguments.datasets:
        for method in arguments.methods:
            for seed in arguments.seeds:
                if (method, dataset, seed, arguments.minutes) in done:
                    continue
                rows.append(train_and_score(method, dataset, seed, arguments))
                write_line(rows[-1], arguments.output)
    print_table([row for row in rows if row["minutes"] == arguments.minutes])


if __name__ == "__main__":
    main()
