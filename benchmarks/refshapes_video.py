"""Trains LAVT and video LAVT on RefShapes in motion, each for the same time, and prints what they know.

Widths and depths are equal; the 3D pixel-word attention has more parameters, how many depends on its structure. The
image method sees single frames and is scored frame by frame. "video_lavt+pretrained" spends the first quarter of its
time as an image LAVT on single frames, and starts from that. A variant is "<name>:<JSON of configuration fields>". How
many steps fit into the time is measured first. One after the other and alone on the machine: the budget is wall-clock
time.

    python benchmarks/refshapes_video.py --minutes 20
    python benchmarks/refshapes_video.py --minutes 20 --methods video_lavt 'video_lavt:{"pwam_structure": 1}'

Scores are J, F and J&F of the protocol "davis" on the test split: of all sentences, of those about motion, and of
those about attributes, which a single frame answers. Lines of JSON go to `--output`, so that an interrupted table goes
on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import yaml
from budget import steps_that_fit
from json_lines import read_lines, write_line

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.evaluation import evaluate_model, video_scores, with_shuffled_sentences
from hf_refseg.modeling.inference_refseg import WHOLE_VIDEO, segment_video
from hf_refseg.training.recipe_files import find_recipe, read_recipe
from hf_refseg.training.recipes import run_recipe

PRETRAINED = "+pretrained"
PRETRAINED_SHARE = 0.25
KINDS = {"all": "", "motion": "-motion", "attribute": "-attribute"}
TIMED_VIDEOS, TIMED_PASSES = 5, 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="time to train each model")
    parser.add_argument("--methods", nargs="+", default=["lavt", f"video_lavt{PRETRAINED}"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/refshapes_video_table"))
    parser.add_argument("--output", type=Path, default=Path("runs/refshapes_video_table/table.jsonl"))
    return parser.parse_args()


def recipe_of(method: str) -> dict:
    """The recipe of a method, with what stands behind its name: other fields of the configuration."""
    name, _, fields = method.partition(":")
    recipe = read_recipe(find_recipe(f"{name.removesuffix(PRETRAINED)}_refshapes_video"))
    recipe["config"] |= json.loads(fields or "{}")
    return recipe


def starting_from(recipe: dict, image_model: Path) -> dict:
    """The recipe of a video method with the start from an image LAVT in the place of random weights."""
    window_frames = recipe["config"]["backbone_config"]["window_size"][0]
    names = ("attn_implementation", "loss_type", "pwam_structure")
    kept = {name: recipe["config"][name] for name in names if name in recipe["config"]}
    return {
        **{name: value for name, value in recipe.items() if name not in ("tokenizer_name_or_path", "image_size")},
        "model_name_or_path": str(image_model),
        "config": {**kept, "num_window_frames": window_frames},
    }


def write_recipe(recipe: dict, seed: int, folder: Path) -> list[str]:
    """The arguments that run the recipe, without anything on the way."""
    quiet = {"eval_strategy": "no", "save_strategy": "no", "test_splits": ["val"], "pictures": 0, "disable_tqdm": True}
    path = folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**recipe, **quiet, "seed": seed, "resume_from_checkpoint": "never"}))
    return [str(path)]


def train(options: list[str], folder: Path, seconds: float) -> dict:
    """Trains for so many seconds; returns the number of steps, and the seconds it took."""
    steps = steps_that_fit([*options, "--max_test_videos", "1"], folder.parent / "timing", seconds)
    report = run_recipe([*options, "--output_dir", str(folder), "--max_steps", str(steps)])
    return {"steps": steps, "seconds": round(report["training"]["train_runtime"])}


def train_and_score(method: str, seed: int, arguments: argparse.Namespace) -> dict:
    label = "".join(character if character.isalnum() else "_" for character in f"{method}_{seed}")
    folder, seconds = arguments.folder / label, 60 * arguments.minutes
    recipe, efforts = recipe_of(method), []
    videos = load_refseg("refshapes_video", **recipe["dataset_options"])["test"]
    if method.partition(":")[0].endswith(PRETRAINED):
        image_model = arguments.folder / f"{label}_images"
        options = write_recipe(recipe_of("lavt"), seed, image_model)
        efforts.append(train(options, image_model, PRETRAINED_SHARE * seconds))
        recipe, seconds = starting_from(recipe, image_model), (1 - PRETRAINED_SHARE) * seconds
    efforts.append(train(write_recipe(recipe, seed, folder), folder, seconds))
    model = AutoModelForReferringSegmentation.from_pretrained(folder)
    processor = RefSegProcessor.from_pretrained(folder)
    records = evaluate_model(model, processor, videos, bootstrap_samples=0).records
    shuffled = evaluate_model(model, processor, with_shuffled_sentences(videos), bootstrap_samples=0)
    scores = {
        kind: video_scores([record for record in records if record["sent_id"].endswith(ending)], "davis")
        for kind, ending in KINDS.items()
    }
    return {
        "method": method,
        "seed": seed,
        **{f"{kind} {name}": round(values[name], 2) for kind, values in scores.items() for name in ("J&F", "J", "F")},
        "shuffled J&F": round(shuffled.metrics["J&F"], 2),
        "milliseconds per frame": round(1000 * seconds_per_frame(model, processor, videos), 2),
        "parameters": model.num_parameters(),
        "steps": sum(effort["steps"] for effort in efforts),
        "seconds": sum(effort["seconds"] for effort in efforts),
        "minutes": arguments.minutes,
        "threads": arguments.threads,
    }


def seconds_per_frame(model: torch.nn.Module, processor: RefSegProcessor, videos) -> float:
    """The median over passes of the time for a frame and one sentence, from images to masks."""
    clips = [row["frames"] for row in videos.select(range(TIMED_VIDEOS))]
    texts = [row["referents"][0]["sentences"][0]["raw"] for row in videos.select(range(TIMED_VIDEOS))]
    durations = []
    for _ in range(TIMED_PASSES + 1):
        start = time.perf_counter()
        for clip, text in zip(clips, texts, strict=True):
            for _ in segment_video(model, processor, clip, [text], window=WHOLE_VIDEO):
                pass
        durations.append((time.perf_counter() - start) / sum(map(len, clips)))
    return statistics.median(durations[1:])


def print_table(rows: list[dict]) -> None:
    """The table in Markdown; several seeds of a method give means and standard deviations."""
    names = [*(f"{kind} J&F" for kind in KINDS), "shuffled J&F", "milliseconds per frame", "steps", "seconds"]
    print("\n| refshapes_video | " + " | ".join([*names, "parameters"]) + " |")
    print("| --- " * (len(names) + 2) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        runs = [row for row in rows if row["method"] == method]
        cells = []
        for name in names:
            values = [run[name] for run in runs]
            deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{deviation}")
        print(f"| {method} | " + " | ".join([*cells, f"{runs[0]['parameters'] / 1e6:.1f} M"]) + " |")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = read_lines(arguments.output)
    done = {(row["method"], row["seed"], row["minutes"]) for row in rows}
    for method in arguments.methods:
        for seed in arguments.seeds:
            if (method, seed, arguments.minutes) in done:
                continue
            rows.append(train_and_score(method, seed, arguments))
            write_line(rows[-1], arguments.output)
    print_table([row for row in rows if row["minutes"] == arguments.minutes])


if __name__ == "__main__":
    main()
