"""What many expressions about one image cost a model, in time beside the limit by FLOPs, and in memory.

Prints JSON lines. What needs no text is computed once for an image, all else once for each expression. The limit is
the ratio that 16 expressions and one would have if all were as fast as large matrix products and convolutions, whose
peaks are measured in turns with the model (as in `benchmarks/latency.py`).

    python benchmarks/expressions.py --threads 2
    python benchmarks/expressions.py --methods risam --rounds 1 --memory no
    python benchmarks/expressions.py --methods risam --config '{"backbone_config": {"model_type": "sam_vision_model"}}'

Random weights: they cost the same. The peak of memory is that of a process of its own for each number of expressions,
the model included.
"""

import argparse
import copy
import json
import statistics
from typing import Any

import torch
from json_lines import write_line
from latency import PEAK_FLOPS, build_model, count_flops, make_inputs, peak_workloads, seconds_of
from peak_memory import peak_of_process, print_peak
from processor import describe_processor
from tqdm import trange
from transformers import PreTrainedModel

from hf_refseg.auto import registered_configs

MANY = 16


def parse_arguments() -> argparse.Namespace:
    methods = list(registered_configs())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=methods, default=["lavt", "magnet", "m3att", "btmae", "risam"])
    parser.add_argument("--config", type=json.loads, default={}, help="further fields of the configurations, as JSON")
    parser.add_argument("--size", type=int, help="side of the image in pixels; that of the method if absent")
    parser.add_argument("--tokens", type=int, default=17, help="tokens of each expression")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each time; the median is reported")
    parser.add_argument("--memory", choices=["yes", "no"], default="yes", help="also measure the peak of memory")
    parser.add_argument("--peak-of", type=int, help="only run so many expressions and print the peak (used inside)")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def count_shared_and_own(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor]
) -> tuple[dict[str, int], dict[str, int]]:
    """FLOPs of what one image needs once, and of what each expression needs; `inputs` are an image and one."""
    model = copy.deepcopy(model).to("meta")
    inputs = {name: tensor.to("meta") for name, tensor in inputs.items()}
    shared = count_flops(lambda: model.get_image_features(inputs["pixel_values"]))
    both = count_flops(lambda: model(**inputs))
    return shared, {name: both[name] - shared[name] for name in both}


def peak_gigabytes(method: str, arguments: argparse.Namespace, expressions: int) -> float:
    options = {"--methods": method, "--config": json.dumps(arguments.config), "--tokens": arguments.tokens}
    options |= {"--threads": arguments.threads, "--peak-of": expressions, "--size": arguments.size}
    return peak_of_process(__file__, options)


def measure(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    model = build_model(method, arguments.config)
    one, many = (make_inputs(model, arguments.size, arguments.tokens, texts) for texts in (1, MANY))
    shared, own = count_shared_and_own(model, one)
    works = {1: lambda: model(**one), MANY: lambda: model(**many), **peak_workloads(torch.float32)}
    if arguments.rounds > 1:
        for name in (1, *PEAK_FLOPS):
            works[name]()
    times = {name: [] for name in works}
    for _ in trange(arguments.rounds, unit="round"):
        for name, work in works.items():
            times[name].append(seconds_of(work))
    seconds = {name: statistics.median(values) for name, values in times.items()}
    floors = {
        texts: sum((shared[name] + texts * own[name]) * seconds[name] / PEAK_FLOPS[name] for name in PEAK_FLOPS)
        for texts in (1, MANY)
    }
    ratio, limit = seconds[MANY] / seconds[1], floors[MANY] / floors[1]
    row = {
        "method": method,
        "config": arguments.config,
        "size": one["pixel_values"].shape[-1],
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "seconds": {texts: round(seconds[texts], 3) for texts in (1, MANY)},
        "16_over_1": round(ratio, 3),
        "limit": round(limit, 3),
        "16_over_1_over_limit": round(ratio / limit, 3),
        "gigaflops": {
            kind: {name: round(count / 1e9, 1) for name, count in counted.items()}
            for kind, counted in (("shared", shared), ("each_expression", own))
        },
        "torch": torch.__version__,
        "processor": describe_processor(),
    }
    if arguments.memory == "yes":
        peaks = {expressions: peak_gigabytes(method, arguments, expressions) for expressions in (8, 64)}
        row["peak_gigabytes"] = {expressions: round(peak, 2) for expressions, peak in peaks.items()}
        row["peak_64_over_8"] = round(peaks[64] / peaks[8], 3)
    return row


@torch.no_grad()
def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        model = build_model(arguments.methods[0], arguments.config)
        model(**make_inputs(model, arguments.size, arguments.tokens, arguments.peak_of))
        print_peak()
        return
    for method in arguments.methods:
        write_line(measure(method, arguments), arguments.output)


if __name__ == "__main__":
    main()
