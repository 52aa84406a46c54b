"""Sentences per second of an evaluation against two loops, and how long it waits for data; JSON lines out.

Photographs of 640 x 480 pixels, drawn by a seed, have three referents each and two sentences about each of these. LAVT
with random weights is scored on them under protocol `original`, by

- `naive`: a loop over the sentences, each of which decodes, prepares and encodes its image anew;
- `plain`: a loop over the images, each of which is encoded once for all of its sentences;
- `evaluate_system`, which answers several images together, with `--workers` processes that read ahead.

All of them go over the same sentences, in turns in each round; the ratios are medians over the rounds. `waiting`
is the share of a run in which the model has nothing to do, as it waits for the next prepared image: with no worker
that is the time that reading takes; with workers the time in which they start is part of it.

    python benchmarks/evaluation.py --threads 1
    python benchmarks/evaluation.py --size 128 --images 32 --config '{"backbone_config": {"embed_dim": 96}}'
    python benchmarks/evaluation.py --device cuda --images 200 --batch-size 64 --workers 0 2 8
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from data import HEIGHT, REFERENTS, WIDTH, draw_photograph
from datasets import Dataset
from json_lines import write_line
from processor import describe_processor
from tqdm import trange
from transformers import BertTokenizer, PreTrainedModel

from hf_refseg import LavtConfig, LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.examples import ImageExamples, SentenceExamples
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import row_features
from hf_refseg.evaluation import ModelSystem, answering, evaluate_system
from hf_refseg.evaluation.protocols import mask_counts
from hf_refseg.modeling.inference_refseg import evaluation_mode, find_masks, segment_image, to_model

SENTENCES = 2
TEXTS = ["the man in the red shirt left of the dog", "the left man"]
WORDS = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *" ".join(TEXTS).split()])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="each with six sentences")
    parser.add_argument("--size", type=int, default=480, help="height and width at which the model sees images")
    parser.add_argument("--config", type=json.loads, default={}, help="fields of LAVT's configuration, as JSON")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def draw_rows(images: int) -> Dataset:
    generator = np.random.default_rng(0)
    rows = []
    for number in range(images):
        photograph = {"bytes": draw_photograph(generator), "path": None}
        for referent in range(REFERENTS):
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            mask[100:300, 200 * referent : 200 * referent + 150] = True
            sentences = [{"sent_id": str(place), "raw": text, "sent": text} for place, text in enumerate(TEXTS)]
            rows.append(
                {
                    "image": photograph,
                    "image_id": str(number),
                    "ref_id": f"{number}-{referent}",
                    "ann_ids": [],
                    "category": "person",
                    "mask": encode_mask(mask),
                    "bbox": [0.0, 0.0, 1.0, 1.0],
                    "no_target": False,
                    "sentences": sentences,
                }
            )
    return Dataset.from_list(rows, features=row_features())


def build(arguments: argparse.Namespace) -> tuple[PreTrainedModel, RefSegProcessor]:
    torch.manual_seed(0)
    model = LavtForReferringSegmentation(LavtConfig(**arguments.config)).eval().to(arguments.device)
    size = {"height": arguments.size, "width": arguments.size}
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    return model, RefSegProcessor(RefSegImageProcessor(size=size), tokenizer)


def run_naive(model: PreTrainedModel, processor: RefSegProcessor, rows: Dataset) -> list[tuple[int, int]]:
    counts = []
    for item in map(SentenceExamples(rows).__getitem__, range(len(rows) * SENTENCES)):
        inputs = to_model(model, processor(item["image"], item["text"], return_tensors="pt"))
        with evaluation_mode(model):
            outputs = model(**inputs)
        (answer,) = find_masks(outputs, processor.image_processor, [item["mask"].shape])
        counts.append(mask_counts(answer.mask.cpu(), item["mask"]))
    return counts


def run_plain(
    model: PreTrainedModel, processor: RefSegProcessor, rows: Dataset, batch_size: int
) -> list[tuple[int, int]]:
    counts = []
    examples = ImageExamples(rows)
    for item in map(examples.__getitem__, range(len(examples))):
        answers = segment_image(model, processor, item["image"], item["texts"], batch_size=batch_size)
        counts += [mask_counts(answer.mask, mask) for answer, mask in zip(answers, item["masks"], strict=True)]
    return counts


class Stopwatch:
    """Adds up the time until each item of an iterator comes."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, items: Iterable[Any]) -> Iterator[Any]:
        start = time.perf_counter()
        for item in items:
            self.seconds += time.perf_counter() - start
            yield item
            start = time.perf_counter()
        self.seconds += time.perf_counter() - start


def run_engine(system: ModelSystem, rows: Dataset, workers: int, waiting: Stopwatch) -> list[tuple[int, int]]:
    read_ahead = answering.read_ahead
    with patch.object(answering, "read_ahead", lambda *given: waiting.watch(read_ahead(*given))):
        result = evaluate_system(system, rows, num_workers=workers, bootstrap_samples=0, progress=False)
    return [(record["intersection"], record["union"]) for record in result.records]


def timed(work: Callable[[], list[tuple[int, int]]]) -> tuple[float, list[tuple[int, int]]]:
    start = time.perf_counter()
    counts = work()
    return time.perf_counter() - start, counts


def measure(arguments: argparse.Namespace) -> list[dict]:
    """A row for each loop, and for each number of workers."""
    rows, (model, processor) = draw_rows(arguments.images), build(arguments)
    system = ModelSystem(model, processor, batch_size=arguments.batch_size)
    watches: dict[str, list[float]] = {}
    runs = {
        "naive": lambda: run_naive(model, processor, rows),
        "plain": lambda: run_plain(model, processor, rows, arguments.batch_size),
    }
    seconds: dict[str, list[float]] = {}
    run_plain(model, processor, rows.select(range(REFERENTS)), arguments.batch_size)
    for _ in trange(arguments.rounds, unit="round"):
        for name, run in runs.items():
            taken, counts = timed(run)
            seconds.setdefault(name, []).append(taken)
        for workers in arguments.workers:
            waiting = Stopwatch()
            taken, found = timed(lambda workers=workers, waiting=waiting: run_engine(system, rows, workers, waiting))
            name = f"{workers} workers"
            seconds.setdefault(name, []).append(taken)
            watches.setdefault(name, []).append(waiting.seconds / taken)
            differing = np.abs(np.subtract(counts, found)).sum() / np.sum(counts)
            assert differing < 1e-4, "The loops find other masks."
    sentences = len(rows) * SENTENCES
    return [
        {
            "measured": name,
            "sentences_per_second": round(sentences / statistics.median(taken), 3),
            **{
                f"speed_over_{loop}": round(
                    statistics.median(a / b for a, b in zip(seconds[loop], taken, strict=True)), 3
                )
                for loop in runs
            },
            "waiting": round(statistics.median(watches[name]), 4) if name in watches else None,
            "sentences": sentences,
            "images": arguments.images,
            "size": arguments.size,
            "config": arguments.config,
            "batch_size": arguments.batch_size,
            "threads": arguments.threads,
            "device": arguments.device,
            "rounds": arguments.rounds,
            "torch": torch.__version__,
            "processor": describe_processor(),
        }
        for name, taken in seconds.items()
    ]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for row in measure(arguments):
        write_line(row, arguments.output)


if __name__ == "__main__":
    main()
