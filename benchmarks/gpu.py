"""What one GPU does with LAVT and RISAM: images a second, training steps, memory, FSDP on one device; JSON lines out.

The papers' models with random weights: LAVT on Swin-B and BERT base at 480 pixels, RISAM on SAM ViT-H and CLIP at
1024. Of each inference in float32, in bfloat16, and in bfloat16 compiled, and the training step of AdamW in both,
whose largest memory stands beside what `hf-refseg info --training-memory` expects; the training step in bfloat16 once
more with FSDP2 on this one device, which divides nothing, and so tells what FSDP itself costs. Figures are medians. No
measurement begins after `--minutes`, so that all of it ends within ten; what was left out is said. Without a GPU the
script says so, and ends with status 0.

    python benchmarks/gpu.py --output gpu.jsonl
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from json_lines import write_line
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_refseg import AutoModelForReferringSegmentation
from hf_refseg.training.sharding import classes_to_shard
from hf_refseg.training_memory import TrainingPlan, estimate_training_memory

# Side of the images in pixels, tokens, images at once in inference, and on each GPU in training.
MODELS = {"lavt": (480, 20, 16, 8), "risam": (1024, 17, 4, 4)}
TYPES = {"float32": False, "bfloat16": True}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each measurement")
    parser.add_argument("--minutes", type=float, default=8, help="no measurement begins after so many")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def build_model(config: PreTrainedConfig, device: torch.device) -> PreTrainedModel:
    # SAM's own 1e-10 is for weights that are loaded.
    if config.model_type == "risam":
        config.backbone_config.initializer_range = 0.02
    torch.manual_seed(0)
    return AutoModelForReferringSegmentation.from_config(config).to(device)


def make_batch(size: int, tokens: int, batch_size: int, device: torch.device) -> dict[str, Tensor]:
    """Random images with sentences of any tokens, and masks of a square."""
    masks = torch.zeros(batch_size, size, size, dtype=torch.long, device=device)
    masks[:, : size // 4, : size // 4] = 1
    return {
        "pixel_values": torch.randn(batch_size, 3, size, size, device=device),
        "input_ids": torch.randint(1000, 2000, (batch_size, tokens), device=device),
        "mask_labels": masks,
    }


def median_seconds(work: Callable[[], object], rounds: int, device: torch.device) -> float:
    """The median of so many calls, after two that are not counted."""
    seconds = []
    for _ in range(rounds + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def measure_inference(
    model: PreTrainedModel, batch: dict[str, Tensor], rounds: int, bf16: bool, compiled: bool
) -> dict[str, Any]:
    """Images a second, and the largest memory in GB where the device tells it."""
    inputs = {name: value for name, value in batch.items() if name != "mask_labels"}
    call = torch.compile(model) if compiled else model

    @torch.inference_mode()
    def segment() -> None:
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            call(**inputs)

    model.eval()
    seconds, memory = with_peak(lambda: median_seconds(segment, rounds, model.device), model.device)
    return {"images_per_second": round(len(inputs["input_ids"]) / seconds, 2), **memory}


def measure_training(model: PreTrainedModel, batch: dict[str, Tensor], rounds: int, bf16: bool) -> dict[str, Any]:
    """Seconds of a step of AdamW, and the largest memory in GB where the device tells it."""
    device = batch["pixel_values"].device
    optimizer = torch.optim.AdamW((each for each in model.parameters() if each.requires_grad), lr=1e-5)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train()
    seconds, memory = with_peak(lambda: median_seconds(step, rounds, device), device)
    return {"seconds_per_step": round(seconds, 4), **memory}


def with_peak(work: Callable[[], float], device: torch.device) -> tuple[float, dict[str, float]]:
    """What `work` returns, and the largest memory of the GPU meanwhile, in GB; nothing of a processor."""
    if device.type != "cuda":
        return work(), {}
    torch.cuda.reset_peak_memory_stats()
    result = work()
    return result, {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)}


def shard(model: PreTrainedModel) -> None:
    """FSDP2 on the one process of the group, by the units that trainings shard."""
    from torch.distributed.fsdp import fully_shard

    names = set(classes_to_shard(model))
    for module in reversed([each for each in model.modules() if type(each).__name__ in names]):
        fully_shard(module)
    fully_shard(model)


def measurements(name: str, rounds: int, device: torch.device) -> Iterator[tuple[dict[str, Any], Callable]]:
    """What is measured of a model, and how: a description and a function that returns the figures."""
    size, tokens, at_once, trained = MODELS[name]

    def inference(bf16: bool, compiled: bool) -> dict[str, Any]:
        model = build_model(AutoConfig.for_model(name), device)
        return measure_inference(model, make_batch(size, tokens, at_once, device), rounds, bf16, compiled)

    def training(bf16: bool, sharded: bool) -> dict[str, Any]:
        model = build_model(AutoConfig.for_model(name), device)
        if sharded:
            shard(model)
        expected = estimate_training_memory(model.config, (size, size), tokens, TrainingPlan(trained, bf16=bf16))
        row = measure_training(model, make_batch(size, tokens, trained, device), rounds, bf16)
        return {**row, "expected_gb": round(expected["total"] / 1e9, 2)}

    images = {"model": name, "size": size, "batch_size": at_once}
    for dtype, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        what = {**images, "measured": "inference", "dtype": dtype, "compiled": compiled}
        yield what, lambda bf16=TYPES[dtype], compiled=compiled: inference(bf16, compiled)
    for dtype, sharded in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        what = {**images, "batch_size": trained, "measured": "training", "dtype": dtype, "fsdp": sharded}
        yield what, lambda bf16=TYPES[dtype], sharded=sharded: training(bf16, sharded)


def measure_all(rounds: int, minutes: float, device: torch.device, output: str | None) -> None:
    """Writes a line for each measurement, those that did not fit into the time or the memory among them."""
    machine = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu", "torch": torch.__version__}
    end = time.monotonic() + 60 * minutes
    for name in MODELS:
        for what, measure in measurements(name, rounds, device):
            if time.monotonic() > end:
                figures = {"left_out": f"{minutes:g} minutes were over"}
            else:
                try:
                    figures = measure()
                except torch.OutOfMemoryError:
                    figures = {"left_out": "out of memory"}
            write_line({**what, **figures, **machine}, output)
            torch.compiler.reset()
            if device.type == "cuda":
                torch.cuda.empty_cache()


def main() -> None:
    arguments = parse_arguments()
    if not torch.cuda.is_available():
        print("There is no GPU that PyTorch finds: nothing was measured.")
        return
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    measure_all(arguments.rounds, arguments.minutes, torch.device("cuda"), arguments.output)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
