"""Trains a small LAVT on RefShapes from random weights and shows what it learned; what `make demo` runs.

Which number format is the fastest depends on the processor. So it first times a few training steps in float32 and
bfloat16, with either kernel of attention; with the fastest of them it trains as many steps as fit into ten minutes,
and fewer where the machine turns out slower.

Writes runs/demo/: scenes.png at once, what is trained on; pictures of predictions after half a minute of training;
in the end model, processor, model card, metrics.json, predictions.png with image, sentence, truth and prediction side
by side, and example.png, an image to try the model on. A run that was interrupted goes on from its
newest checkpoint, as it was planned.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch.optim.lr_scheduler import LambdaLR
from transformers import AutoModel, AutoProcessor, PrinterCallback, TrainerCallback, set_seed
from transformers.trainer_callback import TrainerControl, TrainerState

from hf_refseg import load_refseg
from hf_refseg.data.preview import preview_dataset
from hf_refseg.evaluation import evaluate_model, with_shuffled_sentences
from hf_refseg.files import require_writable, write_json, write_picture
from hf_refseg.training.arguments import RefSegTrainingArguments
from hf_refseg.training.building import build_model_and_processor
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.image_data import ImageData
from hf_refseg.training.options import parse_options
from hf_refseg.training.recipes import build_trainer, train_recipe

RECIPE = Path(__file__).parent / "recipes" / "lavt_refshapes.yaml"
OUTPUT = Path("runs/demo")
MINUTES = 10.0
# The rest of the time goes into checkpoints, evaluations and scores.
SHARE_OF_TRAINING = 0.85
# Drawn at the start.
SCENES = 12
VARIANTS = [(precision, attention) for precision in ("float32", "bfloat16") for attention in ("eager", "sdpa")]
TIMED_STEPS = 5
# Variants are timed in turns, and the quicker time of each counts: something else may have needed the processor.
ROUNDS = 2
# So often the time that a training took is compared with its plan.
STEPS_BETWEEN_LOOKS = 10


@dataclass(frozen=True)
class Plan:
    """How to train on this machine.

    `precision` is "float32" or "bfloat16", `attention` "eager" or "sdpa"; `seconds_per_step` has those of each pair
    that was timed, by its name.
    """

    precision: str
    attention: str
    steps: int
    seconds_per_step: dict[str, float]

    @property
    def seconds(self) -> float:
        """What all steps take, as they were timed."""
        return self.steps * self.seconds_per_step[f"{self.precision}, {self.attention}"]

    @property
    def arguments(self) -> list[str]:
        """The options of the recipe that follow from it; half way is the first of two evaluations and checkpoints."""
        steps, half = str(self.steps), str(self.steps // 2)
        chosen = variant_arguments(self.precision, self.attention)
        return [*chosen, "--max_steps", steps, "--eval_steps", half, "--save_steps", half]

    def describe(self) -> str:
        times = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.seconds_per_step.items())
        return (
            f"Seconds for a training step on this machine: {times}.\n"
            f"So {self.steps} steps are trained in {self.precision} with {self.attention} attention."
        )


class StepClock(TrainerCallback):
    """The seconds from the end of each step to the end of the next one, reading the data included."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())

    def seconds(self) -> list[float]:
        return [end - start for start, end in itertools.pairwise(self.ends)]


class KeepToTime(TrainerCallback):
    """Trains fewer steps than planned where they take longer than they were timed; the learning rate falls sooner.

    Processors slow down when they are busy for long, or with others' work.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_train_begin(
        self, args: RefSegTrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ) -> None:
        self.first_step, self.start = state.global_step, time.perf_counter()
        self.seconds = self.plan.seconds * (self.plan.steps - state.global_step) / self.plan.steps

    def on_step_end(
        self,
        args: RefSegTrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        lr_scheduler: LambdaLR,
        **kwargs,
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
            return
        trained = state.global_step - self.first_step
        if trained % STEPS_BETWEEN_LOOKS == 0:
            fitting = self.first_step + int(self.seconds * trained / (time.perf_counter() - self.start))
            state.max_steps = min(self.plan.steps, max(state.global_step + 1, fitting))
            for schedule in lr_scheduler.lr_lambdas:
                schedule.keywords["num_training_steps"] = state.max_steps


def main(recipe: Path = RECIPE, output: Path = OUTPUT, minutes: float = MINUTES) -> None:
    """Plans, trains, scores and shows; all of it takes about so many `minutes`."""
    start = time.perf_counter()
    require_writable(output)
    show_scenes(output)
    plan = read_or_make_plan(recipe, output, minutes * 60)
    print(plan.describe())
    arguments = [str(recipe), "--output_dir", str(output), *plan.arguments]
    parsed = parse_options(arguments, ImageDataArguments, __doc__)
    report = train_recipe(*parsed, callbacks=[KeepToTime(plan)])
    plan = replace(plan, steps=report["training"]["steps"])
    write_json(output / "plan.json", asdict(plan))

    print(f"\nLoading {output} again through AutoModel and AutoProcessor.")
    model, processor = AutoModel.from_pretrained(output), AutoProcessor.from_pretrained(output)
    _, data_arguments, _ = parsed
    data = load_refseg(data_arguments.dataset_name, **data_arguments.dataset_options)
    row = data["val"][0]
    image, text = row["image"], row["sentences"][0]["raw"]
    write_picture(output / "example.png", image)
    outputs = model(**processor(image, text, return_tensors="pt"))
    sizes = [(image.height, image.width)]
    result = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)[0]
    print(f'"{text}": {result["mask"].sum()} pixels of {image.width} x {image.height}, score {result["score"]:.2f}')

    shuffled = evaluate_model(model, processor, with_shuffled_sentences(data["val"]), data_arguments.protocol)
    report["val_with_shuffled_sentences"] = shuffled.metrics
    report["plan"] = asdict(plan)
    write_json(output / "metrics.json", report)
    print_scores(report, output, time.perf_counter() - start)


def show_scenes(output: Path) -> None:
    """Draws some of the generated scenes, before anything that takes long."""
    scenes = load_refseg("refshapes", train_size=SCENES, val_size=1, test_size=1)["train"]
    output.mkdir(parents=True, exist_ok=True)
    write_picture(output / "scenes.png", preview_dataset(scenes, SCENES, title="RefShapes"))
    print(f"What is trained on: {output / 'scenes.png'}. First predictions soon in {output / 'pictures'}.")


def read_or_make_plan(recipe: Path, output: Path, seconds: float) -> Plan:
    """The plan that a run in `output` was begun with; a new one, for so many `seconds` in all, where there is none."""
    path = output / "plan.json"
    if path.exists():
        return Plan(**json.loads(path.read_text(encoding="utf-8")))
    start = time.perf_counter()
    times = time_variants(recipe)
    (precision, attention), fastest = min(times.items(), key=lambda item: item[1])
    left = seconds - (time.perf_counter() - start)
    halves = max(1, int(SHARE_OF_TRAINING * left / fastest / 2))
    plan = Plan(precision, attention, 2 * halves, {", ".join(name): round(each, 4) for name, each in times.items()})
    output.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(plan))
    return plan


def time_variants(recipe: Path) -> dict[tuple[str, str], float]:
    """The seconds of a training step with each of `VARIANTS`."""
    times = [{variant: time_steps(recipe, *variant) for variant in VARIANTS} for _ in range(ROUNDS)]
    return {variant: min(each[variant] for each in times) for variant in VARIANTS}


def time_steps(recipe: Path, precision: str, attention: str) -> float:
    """The median of the seconds that a few training steps take each."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--output_dir", folder, "--max_steps", str(TIMED_STEPS), "--eval_strategy", "no"]
        options += ["--save_strategy", "no", "--disable_tqdm", "true"]
        model_arguments, data_arguments, training_arguments = parse_options(
            [str(recipe), *variant_arguments(precision, attention), *options], ImageDataArguments, __doc__
        )
        set_seed(training_arguments.seed)
        model, processor = build_model_and_processor(model_arguments)
        clock, data = StepClock(), [ImageData.load(data_arguments)]
        trainer = build_trainer(model, processor, data, data_arguments, training_arguments, [clock])
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return statistics.median(clock.seconds())


def variant_arguments(precision: str, attention: str) -> list[str]:
    """The options of the recipe that choose a number format and a kernel of attention."""
    is_half = str(precision == "bfloat16").lower()
    return ["--bf16", is_half, "--config", json.dumps({"attn_implementation": attention})]


def print_scores(report: dict, output: Path, seconds: float) -> None:
    print(f"\nScores in percent, protocol {report['protocol']}:")
    rows = {split: result["metrics"] for split, result in report["splits"].items()}
    rows["val, sentences shuffled among the images"] = report["val_with_shuffled_sentences"]
    for name, scores in rows.items():
        print(f"  {name:42}" + "".join(f"{score} {scores[score]:6.2f}   " for score in ("oIoU", "mIoU", "Pr@0.5")))
    print("A model that did not read would score the same with shuffled sentences.")
    if "train_runtime" in report["training"]:
        print(f"Training took {report['training']['train_runtime']:.0f} s, all together {seconds:.0f} s.")
    print(f"Pictures: {output / 'predictions.png'}. Now try it on {output / 'example.png'}:")
    print(
        f'  .venv/bin/hf-refseg predict {output} {output / "example.png"} --text "the leftmost shape" --output masks'
    )


if __name__ == "__main__":
    main()
