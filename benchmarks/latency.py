"""Latency of a model against the floor that its matrix products and convolutions set on this machine; JSON lines out.

The floor is the FLOPs of matrix products over the measured peak of matrix products, plus the FLOPs of convolutions
over the measured peak of convolutions. Peaks and latencies, of all number formats, are measured in turns, so that all
of them see the same machine; the figures are medians.

Each number format is measured with the fused attention kernel ("sdpa") and with attention written out ("eager").
Which of the four is the fastest depends on the processor: the line "fastest" says which one it is on which.

There are two floors: that of the published computation, in which Swin also projects the padding of its windows (as
transformers' `SwinModel` does), and that of what the model here really computes, which leaves the padding out where
language enters between Swin's stages. For other image encoders both are the same.

    python benchmarks/latency.py --threads 2 --rounds 9
    python benchmarks/latency.py --method m3att --config '{"language_reconstruction": null}'
    python benchmarks/latency.py --method video_lavt --frames 8
    python benchmarks/latency.py --trained runs/demo    # also: how far bfloat16 masks agree with float32 masks
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from json_lines import write_line
from processor import describe_processor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import trange
from transformers import AutoConfig, PreTrainedModel, SwinModel

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor
from hf_refseg.auto import registered_configs
from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.evaluation.protocols import mask_counts, per_sample_iou
from hf_refseg.model_costs import without_values
from hf_refseg.modeling.swin_refseg import SwinStages

VARIANTS = [(dtype, attention) for dtype in (torch.float32, torch.bfloat16) for attention in ("sdpa", "eager")]
PEAK_FLOPS = {"matmul": 2 * 2048**3, "convolution": 2 * 60 * 60 * 512 * 512 * 9}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(registered_configs()), default="lavt", help="its paper's main model")
    parser.add_argument("--config", type=json.loads, default={}, help="further fields of the configuration, as JSON")
    parser.add_argument(
        "--size", type=int, help="height and width of the image in pixels; that of the method if absent"
    )
    parser.add_argument("--frames", type=int, help="of a clip in the place of the image")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of the text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--trained", help="a model trained on RefShapes, to compare bfloat16 masks with float32 ones")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def count_flops(work: Callable[[], object]) -> dict[str, int]:
    """FLOPs of convolutions and of everything else that is a matrix product (attention included).

    `work` is done by models on the device "meta", of which nothing is computed.
    """
    with without_values(), FlopCounterMode(display=False) as counter:
        work()
    return split_flops(counter)


def split_flops(counter: FlopCounterMode) -> dict[str, int]:
    """What was counted, split into convolutions and everything else that is a matrix product."""
    by_operation = counter.get_flop_counts()["Global"]
    convolutions = sum(flops for operation, flops in by_operation.items() if "conv" in str(operation))
    return {"matmul": sum(by_operation.values()) - convolutions, "convolution": convolutions}


def count_both_flops(model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, dict[str, int]]:
    """As `count_flops` of the model, and of the same with transformers' own Swin in the place of its image encoder."""
    model = copy.deepcopy(model).to("meta")
    inputs = {name: tensor.to("meta") for name, tensor in inputs.items()}
    own = count_flops(lambda: model(**inputs))
    if not isinstance(model.backbone, SwinStages):
        return {"published": own, "own": own}
    with torch.device("meta"):
        swin = SwinModel(model.config.backbone_config, add_pooling_layer=False).eval()
    encoder = count_flops(lambda: run_encoder(model.backbone, inputs["pixel_values"]))
    published = count_flops(lambda: swin(inputs["pixel_values"], always_partition=True))
    return {"published": {name: own[name] - encoder[name] + published[name] for name in own}, "own": own}


def run_encoder(backbone: SwinStages, pixel_values: torch.Tensor) -> None:
    tokens, size = backbone.embed(pixel_values)
    stages = len(backbone.model.encoder.layers)
    for index in range(stages):
        tokens = backbone.run_stage(index, tokens, size)
        if index < stages - 1:
            tokens, size = backbone.merge(index, tokens, size)


def peak_workloads(dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """A large matrix product and a large convolution of the decoder's kind; their FLOPs are `PEAK_FLOPS`."""
    left, right = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    image = torch.randn(1, 512, 60, 60, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(512, 512, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    return {"matmul": lambda: left @ right, "convolution": lambda: F.conv2d(image, kernel, padding=1)}


def build_model(method: str, fields: dict[str, Any]) -> PreTrainedModel:
    """The main model of the method's paper but for some fields, with random weights, in evaluation mode."""
    config = AutoConfig.for_model(method, **fields)
    if config.backbone_config.model_type == "sam_vision_model":
        # SAM's own 1e-10 would leave almost nothing but numbers too small for fast arithmetic.
        config.backbone_config.initializer_range = 0.02
    torch.manual_seed(0)
    return AutoModelForReferringSegmentation.from_config(config).eval()


def make_inputs(
    model: PreTrainedModel, size: int | None, tokens: int, texts: int = 1, frames: int | None = None
) -> dict[str, torch.Tensor]:
    """An image, or a clip of so many frames, of the side `size` or that of the method, and texts."""
    sides = model.config.image_processor_defaults.get("size", {"height": 480})
    size = size or next(iter(sides.values()))
    shape = [1, 3, size, size] if frames is None else [1, frames, 3, size, size]
    return {
        "pixel_values": torch.randn(shape),
        "input_ids": torch.randint(1000, 20000, (texts, tokens)),
        "attention_mask": torch.ones(texts, tokens, dtype=torch.long),
    }


def build_workloads(
    model: PreTrainedModel, inputs: dict[str, torch.Tensor], dtype: torch.dtype, attention: str
) -> dict[str, Callable[[], object]]:
    """What is measured of a model in this number format, each run once to warm up."""
    model = copy.deepcopy(model).to(dtype)
    model.set_attn_implementation(attention)
    inputs = inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}
    workloads = {"latency": lambda: model(**inputs), **peak_workloads(dtype)}
    for work in workloads.values():
        work()
    return workloads


def measure(model: PreTrainedModel, arguments: argparse.Namespace) -> list[dict]:
    """A row for each of `VARIANTS`, the first of which the others are compared with; all of them do the same FLOPs."""
    inputs = make_inputs(model, arguments.size, arguments.tokens, frames=arguments.frames)
    flops = count_both_flops(model, inputs)
    built = [build_workloads(model, inputs, *variant) for variant in VARIANTS]
    times = [{name: [] for name in workloads} for workloads in built]
    for _ in trange(arguments.rounds, unit="round"):
        for workloads, lists in zip(built, times, strict=True):
            for name, work in workloads.items():
                lists[name].append(seconds_of(work))
    medians = [{name: statistics.median(values) for name, values in lists.items()} for lists in times]
    rows = []
    for (dtype, attention), seconds in zip(VARIANTS, medians, strict=True):
        rates = {name: count / seconds[name] for name, count in PEAK_FLOPS.items()}
        floors = {kind: sum(counted[name] / rate for name, rate in rates.items()) for kind, counted in flops.items()}
        rows.append(
            {
                "method": arguments.method,
                "config": arguments.config,
                "size": inputs["pixel_values"].shape[-1],
                "frames": arguments.frames,
                "threads": arguments.threads,
                "dtype": str(dtype).removeprefix("torch."),
                "attention": attention,
                "rounds": arguments.rounds,
                "latency_seconds": round(seconds["latency"], 4),
                "latency_over_float32": round(seconds["latency"] / medians[0]["latency"], 3),
                "floor_seconds": round(floors["published"], 4),
                "latency_over_floor": round(seconds["latency"] / floors["published"], 3),
                "own_floor_seconds": round(floors["own"], 4),
                "latency_over_own_floor": round(seconds["latency"] / floors["own"], 3),
                "gigaflops": {
                    kind: {name: round(count / 1e9, 1) for name, count in counted.items()}
                    for kind, counted in flops.items()
                },
                "peak_gigaflops_per_second": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
                "torch": torch.__version__,
                "processor": describe_processor(),
            }
        )
    return rows


def find_fastest(rows: list[dict]) -> dict:
    """Which of the rows of `measure` has the shortest latency, and on which processor."""
    best = min(rows, key=lambda row: row["latency_seconds"])
    names = ("dtype", "attention", "latency_seconds", "latency_over_float32", "threads", "processor")
    return {"fastest": {name: best[name] for name in names}}


def measure_agreement(folder: str) -> dict:
    """Mean IoU between the float32 and the bfloat16 mask of each sentence of 100 validation scenes of RefShapes."""
    model = AutoModelForReferringSegmentation.from_pretrained(folder)
    processor = RefSegProcessor.from_pretrained(folder)
    size = processor.image_processor.size["height"]
    rows = load_refseg("refshapes", train_size=1, val_size=100, test_size=1, image_size=size)["val"]
    masks: dict[torch.dtype, list[torch.Tensor]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        masks[dtype] = []
        model.to(dtype)
        for example in map(ImageExamples(rows).__getitem__, range(100)):
            inputs = processor(example["image"], example["texts"], return_tensors="pt").to(dtype)
            results = processor.post_process_referring_segmentation(model(**inputs))
            masks[dtype] += [result["mask"].numpy() for result in results]
    counts = [mask_counts(*pair) for pair in zip(*masks.values(), strict=True)]
    ious = per_sample_iou(*zip(*counts, strict=True))
    return {"model": folder, "sentences": len(ious), "bfloat16_float32_mean_iou": round(float(ious.mean()), 4)}


@torch.no_grad()
def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    rows = measure(build_model(arguments.method, arguments.config), arguments)
    rows.append(find_fastest(rows))
    if arguments.trained:
        rows.append(measure_agreement(arguments.trained))
    for row in rows:
        write_line(row, arguments.output)


if __name__ == "__main__":
    main()
