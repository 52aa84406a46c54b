"""Fine-tunes a small LAVT on real photographs, once from the weights of refshapes-demo and once from random ones.

What `make demo-transfer` runs: does a model that has seen nothing but generated scenes of shapes learn 17 photographs
sooner, and does it know more about photographs that it has not seen? Both starts have the same architecture, words,
data, order, learning rates and seeds. The photographs are dealt out into parts; each part is held out once, and for
each seed they are dealt out anew. So every photograph is scored as one that was trained on and as one that was not,
and the latter with the sentences of other photographs as well: what is left then is guessed without reading.

The photographs are a small copy of RefCOCO and RefCOCOg in the layout of the originals: the folder `refcoco_mini` in
the one that the environment variable HF_REFSEG_REAL_DATA names.

Writes runs/demo-transfer/: learning_curve.png, metrics.json with all numbers, and pictures/ of held-out photographs.
A training that was finished is kept, so that a run that was interrupted goes on with the next one.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed
from transformers.utils.logging import disable_progress_bar as disable_loading_bars

from hf_refseg import REFSHAPES_DEMO, AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.data.examples import ReferentExamples, open_image, undecoded
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.prepare import fingerprint_rows
from hf_refseg.data.vocabulary import with_words_of
from hf_refseg.evaluation import evaluate_model, predict_cases, with_shuffled_sentences
from hf_refseg.evaluation.comparison import compare_records
from hf_refseg.evaluation.record_scores import scores_of_records
from hf_refseg.files import begin_folder, hash_file, require_writable, write_json, write_picture
from hf_refseg.messages import BadInputError
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.trainer import RefSegTrainer
from hf_refseg.visualization import draw_comparison
from hf_refseg.visualization.curves import draw_panels

DATA = Path(os.environ.get("HF_REFSEG_REAL_DATA", Path(__file__).parents[2] / "shared" / "data")) / "refcoco_mini"
OUTPUT = Path("runs/demo-transfer")
STARTS = ("refshapes", "scratch")
# What is scored at each of the scored steps.
TRAINED, HELD_OUT, SHUFFLED = KINDS = ("trained on", "held out", "held out, shuffled")
PROTOCOL = "original"
# On what was trained on; how soon it is reached is told of each start.
GOAL = 80.0
# Of each training so many held-out referents are drawn.
DRAWN = 8

Records = list[dict[str, Any]]
# The records of each kind after one of the scored steps, and "step".
Scored = dict[str, Any]
# By seed, held-out part and start: seconds and what was scored, in the order of the steps.
Trainings = Mapping[tuple[int, int, str], Mapping[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What is trained.

    Attributes:
        steps: of each training.
        scored_steps: those after which is scored, the last one among them.
        parts: so many parts the photographs are dealt out into, each of which is held out once.
        seeds: of parts, weights and order.
        batch_size: referents of a step.
        learning_rate: the highest one; it rises over `warmup_steps` and falls to 0 at the end.
    """

    steps: int = 100
    scored_steps: tuple[int, ...] = (0, 10, 25, 50, 100)
    parts: int = 3
    seeds: tuple[int, ...] = (0, 1, 2)
    batch_size: int = 8
    learning_rate: float = 1e-3
    warmup_steps: int = 20

    @property
    def trainings(self) -> list[tuple[int, int, str]]:
        """Seed, number of the held-out part and start of each training."""
        return list(product(self.seeds, range(self.parts), STARTS))


class ScoreSteps(TrainerCallback):
    """Scores a model before the training and after some of its steps.

    Args:
        processor: the model's processor.
        rows: what is scored, by kind.
        steps: when.
        bar: a progress bar over all steps.
    """

    def __init__(self, processor: RefSegProcessor, rows: Mapping[str, Dataset], steps: Sequence[int], bar: tqdm):
        self.processor, self.rows, self.steps, self.bar = processor, rows, steps, bar
        self.scores: list[Scored] = []

    def on_train_begin(self, args, state, control, model: PreTrainedModel, **kwargs) -> None:
        self._score(0, model)

    def on_step_end(self, args, state, control, model: PreTrainedModel, **kwargs) -> None:
        self._score(state.global_step, model)
        self.bar.update()

    def _score(self, step: int, model: PreTrainedModel) -> None:
        if step not in self.steps:
            return
        results = {
            kind: evaluate_model(model, self.processor, rows, PROTOCOL, bootstrap_samples=0, progress=False)
            for kind, rows in self.rows.items()
        }
        self.scores.append({"step": step, **{kind: result.records for kind, result in results.items()}})


def main(data: Path = DATA, output: Path = OUTPUT, plan: Plan = Plan()) -> None:
    """Trains what is not there yet, and says, draws and writes what came out."""
    if not data.is_dir():
        print(
            f"Skipped: there is no folder {data}. Put refcoco_mini (RefCOCO's layout, 17 photographs) there, or name "
            "the folder that holds it in HF_REFSEG_REAL_DATA."
        )
        return
    require_writable(output)
    rows = load_photographs(data, output / "cache")
    trainings = output / "trainings"
    begin(trainings / "plan.json", rows, plan)
    done = [each for each in plan.trainings if path_of(trainings, *each).exists()]
    with tqdm(total=plan.steps * len(plan.trainings), initial=plan.steps * len(done), unit="step") as bar:
        for each in plan.trainings:
            if each not in done:
                write_json(path_of(trainings, *each), train_and_score(rows, plan, *each, output, bar))
    found = {each: json.loads(path_of(trainings, *each).read_text(encoding="utf-8")) for each in plan.trainings}
    report = summarize(rows, plan, found)
    write_json(output / "metrics.json", report)
    write_picture(output / "learning_curve.png", draw_learning(report["curves"]))
    print("\n".join(["", *report["words"]]))
    print(f"Curves: {output / 'learning_curve.png'}. Held-out photographs: {output / 'pictures'}.")


def load_photographs(data: Path, cache: Path) -> Dataset:
    """All rows of both data sets; those of one photograph lie side by side."""
    loaded = [
        load_refseg(name, data, split_by, cache_dir=cache)
        for name, split_by in (("refcoco", "unc"), ("refcocog", "google"))
    ]
    return concatenate_datasets([rows for splits in loaded for rows in splits.values()])


def begin(manifest: Path, rows: Dataset, plan: Plan) -> None:
    """Raises BadInputError where trainings in a folder are of other photographs, settings or weights."""
    content = {
        **asdict(plan),
        "photographs": fingerprint_rows({"all": rows}),
        "weights": hash_file(Path(REFSHAPES_DEMO) / "model.safetensors"),
    }
    _, differing = begin_folder(manifest, content)
    if differing:
        raise BadInputError(
            f"{manifest.parent} holds trainings with other {', '.join(differing)}: delete it to begin anew."
        )


def path_of(trainings: Path, seed: int, part: int, start: str) -> Path:
    return trainings / f"seed{seed}-part{part}-{start}.json"


def train_and_score(
    rows: Dataset, plan: Plan, seed: int, part: int, start: str, output: Path, bar: tqdm
) -> dict[str, Any]:
    """One training: its seconds and its scores. Draws some of what was held out."""
    bar.set_description(f"seed {seed}, part {part + 1} of {plan.parts}, from {start}")
    begun = time.perf_counter()
    parts = deal_out(rows["image_id"], plan.parts, seed)
    held_out = select_images(rows, parts[part])
    trained = select_images(rows, [image for each in parts if each != parts[part] for image in each])
    set_seed(seed)
    model, processor = build_model_and_processor(start, rows)
    scored = {TRAINED: trained, HELD_OUT: held_out, SHUFFLED: with_shuffled_sentences(held_out, seed)}
    scoring = ScoreSteps(processor, scored, plan.scored_steps, bar)
    # Decoded once, as each is read in every epoch.
    photographs = {row["image_id"]: open_image(row) for row in undecoded(trained)}
    name = path_of(output, seed, part, start).stem
    trainer = RefSegTrainer(
        model=model,
        args=RefSegTrainingArguments(
            output_dir=str(output / "trainings"),
            max_steps=plan.steps,
            per_device_train_batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            warmup_steps=plan.warmup_steps,
            max_grad_norm=1.0,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        processing_class=processor,
        train_dataset=ReferentExamples(trained, seed, lambda row: photographs[row["image_id"]]),
        callbacks=[scoring],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    last = scoring.scores[-1][HELD_OUT]
    drawn = last[:: max(1, len(last) // DRAWN)][:DRAWN]
    (output / "pictures").mkdir(exist_ok=True)
    write_picture(
        output / "pictures" / f"{name}.png", draw_comparison(predict_cases(model, processor, held_out, drawn))
    )
    return {"seconds": time.perf_counter() - begun, "scores": scoring.scores}


def deal_out(image_ids: Sequence[str], parts: int, seed: int) -> list[list[str]]:
    """The images in parts, each of about as many rows: those with most rows are dealt out first, equal ones at random.

    Args:
        image_ids: that of each row.
    """
    rows_of = Counter(image_ids)
    images = sorted(rows_of)
    random.Random(seed).shuffle(images)
    images.sort(key=rows_of.__getitem__, reverse=True)
    return [images[part::parts] for part in range(parts)]


def select_images(rows: Dataset, image_ids: Sequence[str]) -> Dataset:
    return rows.select([number for number, image_id in enumerate(rows["image_id"]) if image_id in image_ids])


def build_model_and_processor(start: str, rows: Dataset) -> tuple[PreTrainedModel, RefSegProcessor]:
    """The shipped model, or one of its architecture with random weights; both know all words of both data sets.

    The embeddings of words that the shipped model knows are its own. Those of others start as in a new model: without
    `mean_resizing=False` transformers draws them around the mean of the known ones, and makes all of them equal where
    fewer words are known than an embedding has numbers.
    """
    processor = RefSegProcessor.from_pretrained(REFSHAPES_DEMO)
    sentences = (sentence["raw"] for of_row in rows["sentences"] for sentence in of_row)
    processor.tokenizer = with_words_of(processor.tokenizer, sentences)
    model = AutoModelForReferringSegmentation.from_pretrained(REFSHAPES_DEMO, dtype=torch.float32)
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    return (model if start == "refshapes" else type(model)(model.config)), processor


def summarize(rows: Dataset, plan: Plan, trainings: Trainings) -> dict[str, Any]:
    """What metrics.json holds: settings, curves, differences after the last step, and these in words."""
    curves = {kind: {start: curve_of(plan, trainings, start, kind) for start in STARTS} for kind in KINDS}
    differences = {
        kind: difference_of(plan, trainings, ("scratch", kind), ("refshapes", kind)) for kind in (TRAINED, HELD_OUT)
    }
    reading = {start: difference_of(plan, trainings, (start, SHUFFLED), (start, HELD_OUT)) for start in STARTS}
    report = {
        "plan": asdict(plan),
        "photographs": len(set(rows["image_id"])),
        "sentences": sum(map(len, rows["sentences"])),
        "every_pixel": score_of_every_pixel(rows),
        "curves": curves,
        "refshapes_less_scratch": differences,
        "held_out_less_shuffled": reading,
        "seconds": sum(training["seconds"] for training in trainings.values()),
    }
    return {**report, "words": words_on(report)}


def curve_of(plan: Plan, trainings: Trainings, start: str, kind: str) -> list[dict[str, Any]]:
    """After each scored step the oIoU of each seed, over all parts together, and the mean of the seeds."""
    curve = []
    for step in plan.scored_steps:
        by_seed = scores_by_seed(plan, trainings, start, kind, step)
        curve.append({"step": step, "mean": statistics.mean(by_seed), "by_seed": by_seed})
    return curve


def scores_by_seed(plan: Plan, trainings: Trainings, start: str, kind: str, step: int) -> list[float]:
    """The oIoU of each seed, over all parts together."""
    of_seeds = (records_of(plan, trainings, start, kind, step, [seed]) for seed in plan.seeds)
    return [scores_of_records(records, PROTOCOL)["oIoU"] for records in of_seeds]


def records_of(plan: Plan, trainings: Trainings, start: str, kind: str, step: int, seeds: Sequence[int]) -> Records:
    """The records of all parts, of some of the seeds."""
    scored = [
        scored for seed in seeds for part in range(plan.parts) for scored in trainings[seed, part, start]["scores"]
    ]
    return [record for each in scored if each["step"] == step for record in each[kind]]


def difference_of(plan: Plan, trainings: Trainings, first: tuple[str, str], second: tuple[str, str]) -> dict[str, Any]:
    """How far the oIoU of the second lies above that of the first, each a start and a kind, after the last step.

    It is clear where the seeds agree on its sign, and the 95 % interval, from drawing the photographs anew, as well.
    """
    last = plan.scored_steps[-1]
    before, after = (scores_by_seed(plan, trainings, *which, last) for which in (first, second))
    by_seed = [more - less for less, more in zip(before, after, strict=True)]
    of_all = {", ".join(which): records_of(plan, trainings, *which, last, plan.seeds) for which in (first, second)}
    (found,) = (each for each in compare_records(of_all, PROTOCOL).differences if each.score == "oIoU")
    low, high = found.interval
    return {
        "difference": statistics.mean(by_seed),
        "by_seed": by_seed,
        "interval": [low, high],
        "is_clear": min(*by_seed, low) > 0 or max(*by_seed, high) < 0,
    }


def score_of_every_pixel(rows: Dataset) -> float:
    """The oIoU of marking the whole of each photograph, whatever the sentence."""
    masks = [(decode_mask(row["mask"]), len(row["sentences"])) for row in rows.remove_columns("image")]
    return 100 * sum(count * mask.sum() for mask, count in masks) / sum(count * mask.size for mask, count in masks)


def words_on(report: Mapping[str, Any]) -> list[str]:
    """What came out, in sentences that the numbers alone decide."""
    plan, curves, differences = report["plan"], report["curves"], report["refshapes_less_scratch"]
    seeds = ", ".join(map(str, plan["seeds"]))
    lines = [
        f"{report['photographs']} photographs, {report['sentences']} sentences; of {plan['parts']} parts each was "
        f"held out once; {plan['steps']} steps of {plan['batch_size']} referents; seeds {seeds}.",
        "oIoU after the last step, the mean of the seeds, in parentheses the lowest and the highest of them:",
    ]
    for kind, difference in differences.items():
        lines.append(f"  {kind}: {', '.join(f'from {start} {spread(curves[kind][start][-1])}' for start in STARTS)}.")
        lines.append(f"    {words_on_difference(difference, 'from refshapes it is', 'than from scratch')}")
    for start in STARTS:
        before = curves[HELD_OUT][start][0]
        lines.append(f"  {HELD_OUT}, from {start}, after step {before['step']} already: {spread(before)}.")
    soon = {start: first_step(curves[TRAINED][start], GOAL) for start in STARTS}
    told = ", ".join(f"from {start} {'never' if step is None else f'by step {step}'}" for start, step in soon.items())
    lines.append(f"  {GOAL:g} on what it was trained on was reached: {told}.")
    for start, difference in report["held_out_less_shuffled"].items():
        shuffled = spread(curves[SHUFFLED][start][-1])
        lines.append(f"  {HELD_OUT}, from {start}, with the sentences of other photographs: {shuffled}.")
        lines.append(f"    {words_on_difference(difference, 'with its own sentences it is', 'than with those')}")
    lines.append(f"  Marking every pixel of each photograph would have {report['every_pixel']:.1f}.")
    return lines


def spread(point: Mapping[str, Any]) -> str:
    return f"{point['mean']:.1f} ({min(point['by_seed']):.1f} to {max(point['by_seed']):.1f})"


def words_on_difference(difference: Mapping[str, Any], what: str, than: str) -> str:
    low, high = difference["interval"]
    size = f"{difference['difference']:+.1f}, 95 % interval over photographs {low:+.1f} to {high:+.1f}"
    if not difference["is_clear"]:
        return f"No difference beyond that between seeds and photographs ({size})."
    return f"{what.capitalize()} {'higher' if difference['difference'] > 0 else 'lower'} {than} ({size})."


def first_step(curve: Sequence[Mapping[str, Any]], goal: float) -> int | None:
    """The first scored step whose mean is the goal or more."""
    return next((point["step"] for point in curve if point["mean"] >= goal), None)


def draw_learning(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> Image.Image:
    """A panel for each kind: of each start the mean of the seeds, and around it their range."""
    lines, ranges = {}, {}
    for kind, of_starts in curves.items():
        named = {f"from {start}": curve for start, curve in of_starts.items()}
        lines[kind] = {name: [(each["step"], each["mean"]) for each in curve] for name, curve in named.items()}
        ranges[kind] = {
            name: [(each["step"], min(each["by_seed"]), max(each["by_seed"])) for each in curve]
            for name, curve in named.items()
        }
    return draw_panels(lines, ranges)


if __name__ == "__main__":
    # The one bar over all steps says enough.
    disable_loading_bars()
    disable_progress_bars()
    main()
