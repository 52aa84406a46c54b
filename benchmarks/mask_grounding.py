"""Measures what Mask Grounding learns: trains the small LAVT with each of its settings, and lets it name masked words.

The settings are those of the paper's table 3 a (https://huggingface.co/papers/2312.12198), on RefShapes: the word is
named from the text alone, from text and image, or from text, image and the target's place. Image features of the main
pass have met the whole sentence, and the word can be read off them; so each model is scored twice: "accuracy" with
such features, and "unseen word" with features that have met the masked sentence alone. The settings called "unseen
word" are trained with the latter. In the end every ordinary word of the val sentences is masked, one at a time.

    python benchmarks/mask_grounding.py --minutes 10
    python benchmarks/mask_grounding.py --steps 5 --predictions 100          # tries it out

How many steps fit into the time is measured first, as in refshapes.py. Lines of JSON go to `--output`, so that an
interrupted table goes on where it was; the table is that of all its lines.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from budget import steps_that_fit
from json_lines import read_lines, write_line
from refshapes import options_of
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg
from hf_refseg.data.examples import RefSegCollator, SentenceExamples
from hf_refseg.modeling.mask_grounding_refseg import draw_masked_words
from hf_refseg.training.data_arguments import ImageDataArguments
from hf_refseg.training.options import parse_options
from hf_refseg.training.recipes import run_recipe

DATASET = "refshapes"
SETTINGS = {
    "text": {"image_tokens": False, "mask_encoder": "none"},
    "text + image": {"mask_encoder": "none"},
    "text + image + mask": {},
    "text + image, unseen word": {"mask_encoder": "none", "image_features": "masked_sentence"},
    "text + image + mask, unseen word": {"image_features": "masked_sentence"},
}
SENTENCES_AT_ONCE, PREDICTIONS_AT_ONCE = 32, 64


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="time to train each model")
    parser.add_argument("--steps", type=int, help="steps to train each model, instead of a time")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--predictor_layers", type=int, default=2, help="the paper's 8 suit a larger model")
    parser.add_argument("--predictions", type=int, default=3000, help="masked words that are named, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/mask_grounding"))
    parser.add_argument("--output", type=Path, default=Path("runs/mask_grounding/table.jsonl"))
    return parser.parse_args()


def train_and_score(setting: str, arguments: argparse.Namespace) -> dict:
    folder = arguments.folder / "".join(character if character.isalnum() else "_" for character in setting)
    task = {"predictor_layers": arguments.predictor_layers, **SETTINGS[setting]}
    options = options_of(f"lavt:{json.dumps({'mask_grounding': task})}", DATASET, arguments.seed)
    steps = arguments.steps or steps_that_fit(
        [*options, "--max_test_images", "1"], arguments.folder / "timing", 60 * arguments.minutes
    )
    report = run_recipe([*options, "--output_dir", str(folder), "--max_steps", str(steps)])
    model = AutoModelForReferringSegmentation.from_pretrained(folder).eval()
    _, data_arguments, _ = parse_options([*options, "--output_dir", str(folder)], ImageDataArguments, __doc__)
    sentences = SentenceExamples(load_refseg(DATASET, **data_arguments.dataset_options)["val"])
    collator = RefSegCollator(RefSegProcessor.from_pretrained(folder))
    scores = {"accuracy": masked_word_accuracy(model, sentences, collator, arguments.predictions)}
    model.config.mask_grounding.image_features = "masked_sentence"
    scores["unseen word"] = masked_word_accuracy(model, sentences, collator, arguments.predictions)
    return {
        "setting": setting,
        **{name: round(value, 2) for name, value in scores.items()},
        "oIoU": round(report["splits"]["val"]["metrics"]["oIoU"], 2),
        "steps": steps,
        "seconds": round(report["training"]["train_runtime"]),
        **wanted(arguments),
    }


def wanted(arguments: argparse.Namespace) -> dict:
    """What runs of one table have in common."""
    names = ("minutes", "predictor_layers", "predictions", "seed", "threads")
    return {**{name: getattr(arguments, name) for name in names}, "steps asked for": arguments.steps}


def masked_word_accuracy(
    model: PreTrainedModel, sentences: SentenceExamples, collator: RefSegCollator, predictions: int
) -> float:
    """Of the first so many ordinary words, each masked alone, the share in percent that the model names."""
    right = asked = 0
    with tqdm(total=predictions, desc="masked words", unit="word") as bar:
        for batch in one_word_masked(model, sentences, collator):
            batch = {name: values[: predictions - asked] for name, values in batch.items()}
            named = model.mask_grounding.predict_masked_words(model, **batch)
            right += (named == batch["input_ids"][batch["is_masked"]]).sum().item()
            asked += len(named)
            bar.update(len(named))
            if asked == predictions:
                break
    return 100 * right / asked


def one_word_masked(
    model: PreTrainedModel, sentences: SentenceExamples, collator: RefSegCollator
) -> Iterator[dict[str, Tensor]]:
    """Inputs of `predict_masked_words`: every sentence as often as it has ordinary words."""
    special = model.config.mask_grounding.special_token_ids
    for first in range(0, len(sentences), SENTENCES_AT_ONCE):
        last = min(first + SENTENCES_AT_ONCE, len(sentences))
        inputs = collator([sentences[index] for index in range(first, last)])
        is_word = draw_masked_words(inputs["input_ids"], inputs["attention_mask"], special, 1.0, torch.Generator())
        for places in is_word.nonzero().split(PREDICTIONS_AT_ONCE):
            rows, columns = places.unbind(1)
            is_masked = torch.zeros_like(is_word[rows])
            is_masked[torch.arange(len(rows)), columns] = True
            yield {**{name: values[rows] for name, values in inputs.items()}, "is_masked": is_masked}


def print_table(rows: list[dict]) -> None:
    """In Markdown."""
    names = ("accuracy", "unseen word", "oIoU", "steps", "seconds")
    print(f"\n| predicted from | {' | '.join(names)} |\n{'| --- ' * (len(names) + 1)}|")
    for row in rows:
        print(f"| {row['setting']} | {' | '.join(str(row[name]) for name in names)} |")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for row in read_lines(arguments.output) if wanted(arguments).items() <= row.items()]
    for setting in arguments.settings:
        if setting in [row["setting"] for row in rows]:
            continue
        rows.append(train_and_score(setting, arguments))
        write_line(rows[-1], arguments.output)
    print_table(rows)


if __name__ == "__main__":
    main()
