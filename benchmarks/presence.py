"""How well a presence head tells sentences without a target, and whether it looks at the image for it.

Models with a presence head are asked about the val split of `grefshapes`, each sentence once with its own image and
once with that of another scene, in which nobody knows what it means. A head that answers the same to both has read the
sentence alone. What the highest mask logit would tell by itself stands beside it. A line of JSON for each model.

    hf-refseg train lavt_refshapes --model_name_or_path refshapes-demo --dataset_name grefshapes --max_steps 300 \\
        --learning_rate 1e-3 --muon_learning_rate 2e-3 --output_dir runs/presence \\
        --config '{"presence_head": true, "presence_no_target_weight": 2}'
    python benchmarks/presence.py runs/presence

AUC is the share of pairs, of a sentence with a target and one without, in which the first has the higher value, equal
ones count half; N-acc at a T-acc is that of the threshold, among all, that keeps this T-acc on these sentences. The
correlation is that of the head's logits with own images and with those of others, 100 where the image does not matter.
"""

from __future__ import annotations

import argparse

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
    arguments = parser.parse_args()
    if arguments.scenes < 2:
        parser.error("--scenes has to be 2 or more.")
    return arguments


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


def describe(values: Tensor, has_target: Tensor) -> dict[str, float]:
    """AUC, and N-acc where T-acc is one of `T_ACC`, in percent."""
    present, absent = values[has_target], values[~has_target]
    order = (present[:, None] - absent).sign()
    scores = {"AUC": 50 * (1 + order.mean().item())}
    for share in T_ACC:
        threshold = torch.quantile(present, 1 - share / 100)
        scores[f"N-acc at T-acc {share}"] = 100 * (absent < threshold).float().mean().item()
    return {name: round(value, 1) for name, value in scores.items()}


def measure(name: str, scenes: int, batch_size: int) -> dict:
    model = AutoModelForReferringSegmentation.from_pretrained(name, dtype=torch.float32)
    processor = RefSegProcessor.from_pretrained(name)
    if not model.config.presence_head:
        raise SystemExit(f"{name} has no presence head: train it with --config '{{\"presence_head\": true}}'.")
    images, texts, has_target = sentences_of(scenes)
    own = ask(model, processor, images, texts, batch_size)
    of_others = ask(model, processor, turned(images), texts, batch_size)
    answers = torch.stack([own[:, 0], of_others[:, 0]])
    return {
        "model": name,
        "texts": len(texts),
        "without target": int((~has_target).sum()),
        "presence head": describe(own[:, 0], has_target),
        "highest mask logit": describe(own[:, 1], has_target),
        "correlation with images of others": round(100 * torch.corrcoef(answers)[0, 1].item(), 1),
    }


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    for name in arguments.models:
        write_line(measure(name, arguments.scenes, arguments.batch_size), None)


if __name__ == "__main__":
    main()
