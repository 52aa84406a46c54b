"""Time and memory of a training step against the floor that its matrix products and convolutions set; JSON lines out.

A step is forward, loss, backward and AdamW's step on random pictures of the size of the method's paper. RISAM's image
encoder is frozen: its features are given, as a cache gives them. The floor is that of `benchmarks/latency.py`, for the
FLOPs of forward and backward, without those that gradient checkpointing repeats. Steps in float32, with gradient
checkpointing, and with bfloat16 autocast are measured in turns with the peaks, one method after the other; figures are
medians. Beside the ratio of bfloat16 to float32 stands that of the matrix products alone.

The memory is the peak of a process of its own that makes one step, on a CPU: weights, gradients, AdamW's states, and
what is kept for the backward pass. What a sample adds is the difference between two batches of different size.

    python benchmarks/training_step.py --threads 2 --rounds 9
    python benchmarks/training_step.py --methods lavt --batch-size 2 --memory no
"""

import argparse
import contextlib
import copy
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from json_lines import write_line
from latency import PEAK_FLOPS, build_model, make_inputs, peak_workloads, seconds_of, split_flops
from peak_memory import peak_of_process, print_peak
from processor import describe_processor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm, trange
from transformers import PreTrainedModel

from hf_refseg.model_costs import without_values

# What is trained, and further fields of the configuration.
FIELDS = {"lavt": {"loss_type": "dice"}, "risam": {}, "m3att": {}, "btmae": {}, "magnet": {}}


class Variant(NamedTuple):
    """A way to make a step."""

    name: str
    dtype: torch.dtype
    checkpointing: bool


VARIANTS = (
    Variant("float32", torch.float32, False),
    Variant("float32_checkpointing", torch.float32, True),
    Variant("bfloat16", torch.bfloat16, False),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=FIELDS, default=list(FIELDS))
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, help="side of the images in pixels; that of the method if absent")
    parser.add_argument("--tokens", type=int, default=20, help="tokens of each text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--memory", choices=["yes", "no"], default="yes", help="also measure the peak of memory")
    parser.add_argument("--peak-of", choices=[each.name for each in VARIANTS], help="only make one step (used inside)")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    arguments = parser.parse_args()
    if arguments.batch_size < 1 or arguments.rounds < 1:
        parser.error("--batch-size and --rounds have to be 1 or more.")
    return arguments


def build(method: str, arguments: argparse.Namespace) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The method in training mode, and a batch."""
    fields = FIELDS[method] | ({"freeze_image_encoder": True} if method == "risam" else {})
    model = build_model(method, fields).train()
    one = make_inputs(model, arguments.size, arguments.tokens)
    batch = {name: torch.cat([tensor] * arguments.batch_size) for name, tensor in one.items()}
    pixel_values = batch["pixel_values"]
    batch["mask_labels"] = (torch.rand(len(pixel_values), *pixel_values.shape[-2:]) < 0.1).long()
    if method == "risam":
        batch["encoder_features"] = encoder_features(model, batch.pop("pixel_values"))
    return model, batch


def encoder_features(model: PreTrainedModel, pixel_values: torch.Tensor) -> Any:
    """Random numbers in the shapes of what the image encoder makes of images."""
    model, pixel_values = copy.deepcopy(model).to("meta"), pixel_values.to("meta")
    with without_values():
        shapes = model.get_encoder_features(pixel_values)
    return shapes.apply_to_tensors(lambda tensor: torch.randn(tuple(tensor.shape)))


def count_flops(model: PreTrainedModel, batch: dict[str, Any]) -> dict[str, int]:
    """FLOPs of forward and backward, as `split_flops` gives them."""
    model = copy.deepcopy(model).to("meta")
    batch = {name: to_meta(value) for name, value in batch.items()}
    with without_values(), torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return split_flops(counter)


def to_meta(value: Any) -> Any:
    is_tensor = isinstance(value, torch.Tensor)
    return value.to("meta") if is_tensor else value.apply_to_tensors(lambda tensor: tensor.to("meta"))


def build_step(model: PreTrainedModel, batch: dict[str, Any]) -> Callable[[Variant], None]:
    """What makes a step; steps change no weight, so that each computes the same."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)

    def step(variant: Variant) -> None:
        model.gradient_checkpointing_disable()
        if variant.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        is_half = variant.dtype == torch.bfloat16
        with torch.autocast("cpu", variant.dtype) if is_half else contextlib.nullcontext():
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure_seconds(step: Callable[[Variant], None], rounds: int) -> tuple[dict[str, float], dict[torch.dtype, dict]]:
    """Medians of the seconds of each variant, and of the workloads of the peaks in each number format."""
    peaks = {dtype: peak_workloads(dtype) for dtype in (torch.float32, torch.bfloat16)}
    works: dict[Any, Callable[[], object]] = {variant.name: lambda each=variant: step(each) for variant in VARIANTS}
    works |= {(dtype, name): work for dtype, named in peaks.items() for name, work in named.items()}
    for work in tqdm(works.values(), desc="warming up"):
        work()
    times: dict[Any, list[float]] = {name: [] for name in works}
    for _ in trange(rounds, unit="round"):
        for name, work in works.items():
            times[name].append(seconds_of(work))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians, {dtype: {name: medians[dtype, name] for name in named} for dtype, named in peaks.items()}


def peak_gigabytes(method: str, arguments: argparse.Namespace, variant: Variant, batch_size: int) -> float:
    """The peak of a process of its own that makes one step."""
    options = {"--methods": method, "--peak-of": variant.name, "--batch-size": batch_size}
    options |= {"--tokens": arguments.tokens, "--threads": arguments.threads, "--size": arguments.size}
    return peak_of_process(__file__, options)


def measure_memory(method: str, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Of each variant the peak, and what each sample adds to it."""
    size, found = arguments.batch_size, {}
    for variant in VARIANTS:
        peak, larger = (peak_gigabytes(method, arguments, variant, each) for each in (size, size + 2))
        found[variant.name] = {"peak": round(peak, 2), "each_sample": round((larger - peak) / 2, 2)}
    return found


def measure(method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    model, batch = build(method, arguments)
    flops = count_flops(model, batch)
    seconds, peaks = measure_seconds(build_step(model, batch), arguments.rounds)
    rates = {dtype: {name: PEAK_FLOPS[name] / each for name, each in of.items()} for dtype, of in peaks.items()}
    floors = {dtype: sum(flops[name] / rate for name, rate in of.items()) for dtype, of in rates.items()}
    return {
        "method": method,
        "fields": FIELDS[method],
        "batch_size": arguments.batch_size,
        "image_size": list(batch["mask_labels"].shape[-2:]),
        "cached_features": "encoder_features" in batch,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "step_seconds": {variant.name: round(seconds[variant.name], 3) for variant in VARIANTS},
        "floor_seconds": {name_of(dtype): round(floor, 3) for dtype, floor in floors.items()},
        "step_over_floor": {each.name: round(seconds[each.name] / floors[each.dtype], 3) for each in VARIANTS},
        "bfloat16_over_float32": round(seconds["bfloat16"] / seconds["float32"], 3),
        "bfloat16_over_float32_of_peaks": {
            name: round(peaks[torch.bfloat16][name] / peaks[torch.float32][name], 3) for name in PEAK_FLOPS
        },
        "gigaflops": {name: round(count / 1e9, 1) for name, count in flops.items()},
        "peak_gigaflops_per_second": {
            name_of(dtype): {name: round(rate / 1e9, 1) for name, rate in of.items()} for dtype, of in rates.items()
        },
        "gigabytes": measure_memory(method, arguments) if arguments.memory == "yes" else None,
        "torch": torch.__version__,
        "processor": describe_processor(),
    }


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.peak_of:
        (variant,) = (each for each in VARIANTS if each.name == arguments.peak_of)
        build_step(*build(arguments.methods[0], arguments))(variant)
        print_peak()
        return
    for method in arguments.methods:
        write_line(measure(method, arguments), arguments.output)


if __name__ == "__main__":
    main()
