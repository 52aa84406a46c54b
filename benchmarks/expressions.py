"""What many expressions about one image cost a model, in time and in memory; JSON lines out.

    python benchmarks/expressions.py --model vit-b --threads 2
    python benchmarks/expressions.py --model vit-h --threads 2 --rounds 1 --memory no

Random weights: they cost the same. The peak of memory is that of a process of its own for each number of expressions,
the model included.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import time

import torch
from json_lines import write_line

from hf_refseg import RisamConfig, RisamForReferringSegmentation

# Without further fields transformers' SAM is ViT-B, and RISAM is on SAM ViT-H.
MODELS = {"vit-b": {"backbone_config": {"model_type": "sam_vision_model"}}, "vit-h": {}}
TOKENS = 17


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="vit-b", help="SAM's image encoder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each time; the median is reported")
    parser.add_argument("--memory", choices=["yes", "no"], default="yes", help="also measure the peak of memory")
    parser.add_argument("--peak-of", type=int, help="only run so many expressions and print the peak (used inside)")
    return parser.parse_args()


def build(name: str) -> RisamForReferringSegmentation:
    torch.manual_seed(0)
    config = RisamConfig(**MODELS[name])
    # SAM's own 1e-10 would leave almost nothing but numbers too small for fast arithmetic.
    config.backbone_config.initializer_range = 0.02
    return RisamForReferringSegmentation(config).eval()


def inputs_of(model: RisamForReferringSegmentation, expressions: int) -> dict[str, torch.Tensor]:
    side = model.config.backbone_config.image_size
    return {
        "pixel_values": torch.randn(1, 3, side, side),
        "input_ids": torch.randint(1000, 20000, (expressions, TOKENS)),
        "attention_mask": torch.ones(expressions, TOKENS, dtype=torch.long),
    }


def seconds_of(model: RisamForReferringSegmentation, expressions: int, rounds: int) -> float:
    inputs, times = inputs_of(model, expressions), []
    for _ in range(rounds):
        start = time.perf_counter()
        model(**inputs)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_gigabytes(arguments: argparse.Namespace, expressions: int) -> float:
    command = [sys.executable, __file__, "--model", arguments.model, "--threads", str(arguments.threads)]
    result = subprocess.run([*command, "--peak-of", str(expressions)], check=True, capture_output=True, text=True)
    return float(result.stdout.splitlines()[-1])


@torch.no_grad()
def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = build(arguments.model)
    if arguments.peak_of:
        model(**inputs_of(model, arguments.peak_of))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        return
    if arguments.rounds > 1:
        seconds_of(model, 1, 1)  # warm up
    times = {expressions: seconds_of(model, expressions, arguments.rounds) for expressions in (1, 16)}
    row = {
        "model": f"RISAM, SAM {arguments.model}",
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "seconds": {expressions: round(seconds, 3) for expressions, seconds in times.items()},
        "16_over_1": round(times[16] / times[1], 3),
    }
    if arguments.memory == "yes":
        peaks = {expressions: peak_gigabytes(arguments, expressions) for expressions in (8, 64)}
        row["peak_gigabytes"] = {expressions: round(peak, 2) for expressions, peak in peaks.items()}
        row["peak_64_over_8"] = round(peaks[64] / peaks[8], 3)
    write_line(row, None)


if __name__ == "__main__":
    main()
