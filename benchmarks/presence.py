"""How well a presence head tells sentences without a target, and whether it looks at the image for it.

Models with a presence head are asked about the val split of `grefshapes`, each sentence once with its own image and
once with that of another scene: a head that says the same of both has read the sentence alone. Beside its logit stand
the highest mask logit and the two together, as a logistic regression weighs them that is fitted to one half of the
sentences and measured on the other, and the reverse. A line of JSON for each.

    hf-refseg train lavt_refshapes --model_name_or_path refshapes-demo --dataset_name grefshapes \\
        --config '{"presence_head": true}' --output_dir runs/presence
    python benchmarks/presence.py runs/presence

AUC is the share of pairs, of a sentence with a target and one without, in which the first has the higher value; N-acc
and T-acc are those of a threshold that keeps the T-acc.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator

import torch
from json_lines import write_line
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from hf_refseg import AutoModelForReferringSegmentation, RefSegProcessor, load_refseg

T_ACC = (90, 95)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="saved models with a presence head")
    parser.add_argument("--scenes", type=int, default=300, help="scenes of the val split")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def sentences_of(scenes: int) -> tuple[list[Image.Image], list[str], Tensor]:
    """An image and a text for each sentence of the val split, and whether it means anything there."""
    val = load_refseg("grefshapes", train_size=1, val_size=scenes, test_size=1, image_size=96)["val"]
    asked = [(row["image"], sentence["raw"], not row["no_target"]) for row in val for sentence in row["sentences"]]
    images, texts, has_target = zip(*asked, strict=True)
    return list(images), list(texts), torch.tensor(has_target)


def turned(images: list[Image.Image]) -> list[Image.Image]:
    """The images half the list further on: those of other scenes."""
    half = len(images) // 2
    return images[half:] + images[:half]


@torch.inference_mode()
def ask(model: torch.nn.Module, processor: RefSegProcessor, images: list, texts: list[str], size: int) -> Tensor:
    """Presence logit and highest mask logit of each text, float (texts, 2)."""
    answers = []
    for first in tqdm(range(0, len(texts), size), unit="batch", leave=False):
        part = slice(first, first + size)
        output = model(**processor(images=images[part], text=texts[part], return_tensors="pt"))
        answers.append(torch.stack([output.presence_logits, output.logits.flatten(1).amax(1)], 1).float())
    return torch.cat(answers)


def together(values: Tensor, has_target: Tensor) -> Tensor:
    """The logit of a logistic regression on standardized values, fitted to every other text and used on the rest."""
    standard = (values - values.mean(0)) / values.std(0)
    inputs = torch.cat([standard, torch.ones(len(values), 1)], 1)
    result = torch.empty(len(values))
    for rest in (0, 1):
        is_fitted = torch.arange(len(values)) % 2 == rest
        result[~is_fitted] = inputs[~is_fitted] @ fit(inputs[is_fitted], has_target[is_fitted].float())
    return result


def fit(inputs: Tensor, labels: Tensor) -> Tensor:
    """Weights of a logistic regression, with a slight decay."""
    weights = torch.zeros(inputs.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(inputs @ weights, labels)
        value = value + 1e-3 * weights.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weights.detach()


def describe(values: Tensor, has_target: Tensor) -> dict[str, float]:
    """AUC, and N-acc where T-acc is one of `T_ACC`, in percent."""
    present, absent = values[has_target], values[~has_target]
    scores = {"AUC": 100 * (present[:, None] > absent).float().mean().item()}
    for share in T_ACC:
        threshold = torch.quantile(present, 1 - share / 100)
        scores[f"N-acc at T-acc {share}"] = 100 * (absent < threshold).float().mean().item()
    return {name: round(value, 1) for name, value in scores.items()}


def measure(name: str, scenes: int, batch_size: int) -> Iterator[dict]:
    model = AutoModelForReferringSegmentation.from_pretrained(name, dtype=torch.float32).eval()
    processor = RefSegProcessor.from_pretrained(name)
    if not model.config.presence_head:
        raise SystemExit(f"{name} has no presence head: train it with --config '{{\"presence_head\": true}}'.")
    images, texts, has_target = sentences_of(scenes)
    kinds: Iterable[tuple[str, list]] = (("own", images), ("of others", turned(images)))
    for images_are, shown in kinds:
        values = ask(model, processor, shown, texts, batch_size)
        told = {"presence head": values[:, 0], "highest mask logit": values[:, 1]}
        told["both"] = together(values, has_target)
        for what, value in told.items():
            yield {"model": name, "images": images_are, "told by": what, **describe(value, has_target)}


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for name in arguments.models:
        for line in measure(name, arguments.scenes, arguments.batch_size):
            write_line(line, None)


if __name__ == "__main__":
    main()
