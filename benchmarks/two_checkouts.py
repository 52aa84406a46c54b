"""Times of inference and of a training step with the code of another checkout and with this one's; JSON lines out.

In each round a process with the other code and one with this code run small models of all methods, with the same
random weights, on the same inputs. A figure is the median over the rounds of the median inside each process (take
`--steps 20` for a single method). As the two take turns, both see the same machine; `ratio` is this code's figure over
the other's.

    git worktree add /some/folder REVISION
    python benchmarks/two_checkouts.py /some/folder --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from json_lines import write_line
from processor import describe_processor
from tqdm import tqdm
from transformers import AutoConfig, PreTrainedModel

from hf_refseg import AutoModelForReferringSegmentation

ROOT = Path(__file__).resolve().parent.parent
SIZE, TOKENS, BATCH, FRAMES = 96, 12, 2, 2
SWIN = {
    "model_type": "swin",
    "image_size": SIZE,
    "embed_dim": 48,
    "depths": [2, 2, 2, 2],
    "num_heads": [2, 4, 8, 16],
    "window_size": 7,
}
VIDEO_SWIN = {
    "model_type": "refseg_video_swin",
    **{name: SWIN[name] for name in ("embed_dim", "depths", "num_heads")},
    "window_size": [2, 7, 7],
}
BERT = {
    "model_type": "bert",
    "vocab_size": 1000,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
}
SAM = {
    "model_type": "sam_vision_model",
    "hidden_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "global_attn_indexes": [0, 1, 2, 3],
    "image_size": SIZE,
}
FIELDS = {
    "lavt": {"backbone_config": SWIN, "text_config": BERT},
    "video_lavt": {"backbone_config": VIDEO_SWIN, "text_config": BERT},
    "unified_lavt": {"backbone_config": VIDEO_SWIN, "image_backbone_config": SWIN, "text_config": BERT},
    "magnet": {"backbone_config": SWIN, "text_config": BERT, "text_stage_layers": [1, 2, 3, 4]},
    "m3att": {"backbone_config": SWIN, "text_config": BERT, "image_size": SIZE},
    "btmae": {"backbone_config": SWIN, "text_config": BERT},
    "risam": {"backbone_config": SAM, "text_config": {**BERT, "model_type": "clip_text_model"}},
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--methods", nargs="+", choices=FIELDS, default=list(FIELDS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="measurements of each figure in a process")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    # What the processes are started with: they measure the code that they import.
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def median_seconds(work: Callable[[], object], steps: int) -> float:
    """The median over `steps` calls, after one that is not counted."""
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def measure(method: str, steps: int) -> dict[str, float]:
    """Seconds of inference and of a training step without the optimizer, by the names of the figures."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(method, **FIELDS[method])
    model: PreTrainedModel = AutoModelForReferringSegmentation.from_config(config)
    frames = (FRAMES,) if config.takes_clips else ()
    inputs = {
        "pixel_values": torch.randn(BATCH, *frames, 3, SIZE, SIZE),
        "input_ids": torch.randint(5, BERT["vocab_size"], (BATCH, TOKENS)),
        "attention_mask": torch.ones(BATCH, TOKENS, dtype=torch.long),
    }
    labels = torch.zeros(BATCH, *frames, SIZE, SIZE, dtype=torch.long)
    labels[..., : SIZE // 2, : SIZE // 3] = 1

    def train() -> None:
        model.zero_grad()
        model(**inputs, mask_labels=labels).loss.backward()

    with torch.no_grad():
        inference = median_seconds(lambda: model.eval()(**inputs), steps)
    model.train()
    return {f"{method} inference": inference, f"{method} training step": median_seconds(train, steps)}


def measure_in_process(checkout: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """The figures with the code of a checkout; raises CalledProcessError where that fails."""
    options = ["--methods", *arguments.methods, "--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    done = subprocess.run(
        [sys.executable, __file__, str(arguments.other), *options, "--measure"],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(
            json.dumps(
                {name: value for each in arguments.methods for name, value in measure(each, arguments.steps).items()}
            )
        )
        return
    rounds = [
        [measure_in_process(checkout, arguments) for checkout in (arguments.other.resolve(), ROOT)]
        for _ in tqdm(range(arguments.rounds), desc="rounds")
    ]
    machine = {"processor": describe_processor(), "threads": arguments.threads, "rounds": arguments.rounds}
    for name in rounds[0][0]:
        other, here = (statistics.median(pair[side][name] for pair in rounds) for side in (0, 1))
        row = {"figure": name, "other": round(other, 4), "here": round(here, 4), "ratio": round(here / other, 3)}
        write_line({**row, **machine}, arguments.output)


if __name__ == "__main__":
    main()
