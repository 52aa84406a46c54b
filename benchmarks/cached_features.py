"""Time of a training step with cached image features against one that runs the image encoder; JSON lines out.

A step is forward, loss, backward and the optimizer's step, on one and the same batch of RefShapes; the model has
random weights and its image encoder is frozen. Both trainings start from the same weights, and the largest relative
difference of their losses says what the float16 of the cache costs. The time to read and collate a batch stands beside
it: data loader workers do that while the step before runs. Figures are medians over all steps but the first.

With `--one-encoder-pass` the encoder runs once, while the cache is filled. Being frozen it would give the same in each
step: the training without a cache then takes its float32 features, and its time is added to each step.

    python benchmarks/cached_features.py --model risam-vit-b --batch-size 2
    python benchmarks/cached_features.py --model risam-vit-h --batch-size 1 --one-encoder-pass
    python benchmarks/cached_features.py --model lavt --size 480
"""

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from json_lines import write_line
from transformers import AutoConfig, BertTokenizer, PreTrainedModel

from hf_refseg import AutoModelForReferringSegmentation, RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.examples import ReferentExamples, RefSegCollator
from hf_refseg.data.loading import load_refseg
from hf_refseg.datasets_scripts.refshapes import REFSHAPES_WORDS
from hf_refseg.modeling.modeling_outputs_refseg import ImageFeatures
from hf_refseg.training.feature_cache import EncodedCollator, FeatureCache

# Without further fields transformers' SAM is ViT-B, and RISAM is on SAM ViT-H.
MODELS = {
    "risam-vit-b": ("risam", {"backbone_config": {"model_type": "sam_vision_model"}}),
    "risam-vit-h": ("risam", {}),
    "lavt": ("lavt", {}),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="risam-vit-b")
    parser.add_argument("--config", type=json.loads, default={}, help="further fields of the configuration, as JSON")
    parser.add_argument("--size", type=int, help="side of the images in pixels; that of the method if absent")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="training steps of each kind, 2 or more")
    parser.add_argument("--one-encoder-pass", action="store_true", help="run the image encoder a single time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", help="folder to make the cache in; a temporary one if absent")
    parser.add_argument("--output", help="file that the JSON line is appended to")
    arguments = parser.parse_args()
    if arguments.steps < 2 or arguments.batch_size < 1:
        parser.error("--steps has to be 2 or more, --batch-size 1 or more.")
    return arguments


def build_model_and_processor(arguments: argparse.Namespace) -> tuple[PreTrainedModel, RefSegProcessor]:
    model_type, fields = MODELS[arguments.model]
    config = AutoConfig.for_model(model_type, **{**fields, "freeze_image_encoder": True, **arguments.config})
    # SAM's own 1e-10 is for weights that are loaded: features of random weights would be all but zero.
    config.backbone_config.initializer_range = 0.02
    options = dict(config.image_processor_defaults)
    if arguments.size:
        options["size"] = dict.fromkeys(options.get("size", ("height", "width")), arguments.size)
    # Any tokens do: the weights are random.
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *REFSHAPES_WORDS)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    torch.manual_seed(0)
    model = AutoModelForReferringSegmentation.from_config(config).to(arguments.device)
    return model, RefSegProcessor(RefSegImageProcessor(**options), tokenizer)


def rows_of_images(images: int) -> Dataset:
    """One referent of each of so many images."""
    rows = load_refseg("refshapes", train_size=images, val_size=1, test_size=1)["train"]
    first_rows = {image_id: row for row, image_id in reversed(list(enumerate(rows["image_id"])))}
    return rows.select(sorted(first_rows.values()))


def seconds_of(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def fill_cache(
    cache: FeatureCache, model: PreTrainedModel, processor: RefSegProcessor, rows: Dataset, device: str
) -> tuple[float, ImageFeatures]:
    """Fills the cache by one pass of the encoder; returns the seconds of that pass and its features."""
    passes = []
    encode = model.get_encoder_features

    def encode_and_record(pixel_values: torch.Tensor) -> ImageFeatures:
        passes.append(seconds_of(lambda: encode(pixel_values), device))
        return passes[-1][1]

    model.get_encoder_features = encode_and_record
    cache.fill(model, processor, [rows], batch_size=len(rows))
    model.get_encoder_features = encode
    if len(passes) != 1:
        raise SystemExit(f"{cache.folder} is already a cache of these images: name an empty folder.")
    seconds, encoded = passes[0]
    # What was made in inference mode takes no part in a backward pass.
    return seconds, encoded.apply_to_tensors(torch.clone)


def mean_size(folder: Path) -> float:
    """Bytes that the features of an image take."""
    return statistics.mean(path.stat().st_size for path in folder.rglob("*.safetensors"))


def train(model: PreTrainedModel, batch: dict[str, Any], steps: int, device: str) -> tuple[list[float], list[float]]:
    """Seconds and loss of each step; the model gets its weights back."""
    initial = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("backbone.")}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=5e-5)
    model.train()

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    # The same dropout in both trainings.
    torch.manual_seed(0)
    measured = [seconds_of(step, device) for _ in range(steps)]
    model.load_state_dict(initial, strict=False)
    return [seconds for seconds, _ in measured], [loss for _, loss in measured]


def load_batch(examples: ReferentExamples, collator: Callable, device: str) -> tuple[float, Any]:
    """Seconds to read and collate all examples, the median of three times, and the batch on its device."""
    measured = [
        seconds_of(lambda: collator([examples[index] for index in range(len(examples))]), "cpu") for _ in range(3)
    ]
    return statistics.median(seconds for seconds, _ in measured), measured[-1][1].to(device)


def measure(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    model, processor = build_model_and_processor(arguments)
    rows, device = rows_of_images(arguments.batch_size), arguments.device
    cache = FeatureCache.open(folder, model, processor)
    encoder_seconds, encoded = fill_cache(cache, model, processor, rows, device)
    image_seconds, image_batch = load_batch(ReferentExamples(rows), RefSegCollator(processor), device)
    reading_seconds, batch = load_batch(
        ReferentExamples(rows, read_image=cache.read), EncodedCollator(processor, model.dtype), device
    )
    cached_times, cached_losses = train(model, batch, arguments.steps, device)
    if arguments.one_encoder_pass:
        batch["encoder_features"] = encoded
        times, losses = train(model, batch, arguments.steps, device)
        times = [encoder_seconds + seconds for seconds in times]
    else:
        times, losses = train(model, image_batch, arguments.steps, device)
    uncached, cached = statistics.median(times[1:]), statistics.median(cached_times[1:])
    differences = [abs(one - other) / abs(other) for one, other in zip(cached_losses, losses, strict=True)]
    return {
        "model": arguments.model,
        "config": arguments.config,
        "image_size": list(encoded.image_size),
        "batch_size": arguments.batch_size,
        "steps": arguments.steps,
        "encoder_passes": "one" if arguments.one_encoder_pass else "every step",
        "encoder_seconds": round(encoder_seconds, 4),
        "uncached_step_seconds": round(uncached, 4),
        "cached_step_seconds": round(cached, 4),
        "speedup": round(uncached / cached, 2),
        "read_images_seconds": round(image_seconds, 4),
        "read_features_seconds": round(reading_seconds, 4),
        "speedup_with_reading": round((uncached + image_seconds) / (cached + reading_seconds), 2),
        "cached_megabytes_per_image": round(mean_size(cache.folder) / 1e6, 3),
        "losses": [round(loss, 6) for loss in losses],
        "largest_relative_loss_difference": float(f"{max(differences):.3g}"),
        "trainable_parameters": sum(each.numel() for each in model.parameters() if each.requires_grad),
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else platform.processor() or platform.machine(),
        "threads": arguments.threads,
        "torch": torch.__version__,
    }


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        row = measure(arguments, arguments.cache or temporary)
    write_line(row, arguments.output)


if __name__ == "__main__":
    main()
