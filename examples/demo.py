"""Trains a small LAVT on RefShapes from random weights and shows what it learned; what `make demo` runs.

Writes runs/demo/: model, processor, model card, metrics.json, predictions.png with image, sentence, truth and
prediction side by side, and example.png, an image to try the model on. A run that was interrupted goes on from its
newest checkpoint.
"""

from __future__ import annotations

import time
from pathlib import Path

import run_ris
from transformers import AutoModel, AutoProcessor

from hf_refseg import load_refseg
from hf_refseg.evaluation import evaluate_model, with_shuffled_sentences
from hf_refseg.files import write_json

RECIPE = Path(__file__).parent / "recipes" / "lavt_refshapes.yaml"
OUTPUT = Path("runs/demo")


def main() -> None:
    start = time.perf_counter()
    report = run_ris.main([str(RECIPE), "--output_dir", str(OUTPUT)])

    print(f"\nLoading {OUTPUT} again through AutoModel and AutoProcessor.")
    model, processor = AutoModel.from_pretrained(OUTPUT), AutoProcessor.from_pretrained(OUTPUT)
    _, data_arguments, _ = run_ris.parse_arguments([str(RECIPE), "--output_dir", str(OUTPUT)])
    data = load_refseg(data_arguments.dataset_name, **data_arguments.dataset_options)
    row = data["val"][0]
    image, text = row["image"], row["sentences"][0]["raw"]
    image.save(OUTPUT / "example.png")
    outputs = model(**processor(image, text, return_tensors="pt"))
    sizes = [(image.height, image.width)]
    result = processor.post_process_referring_segmentation(outputs, target_sizes=sizes)[0]
    print(f'"{text}": {result["mask"].sum()} pixels of {image.width} x {image.height}, score {result["score"]:.2f}')

    shuffled = evaluate_model(model, processor, with_shuffled_sentences(data["val"]), data_arguments.protocol)
    report["val_with_shuffled_sentences"] = shuffled.metrics
    write_json(OUTPUT / "metrics.json", report)
    print_scores(report, time.perf_counter() - start)


def print_scores(report: dict, seconds: float) -> None:
    print(f"\nScores in percent, protocol {report['protocol']}:")
    rows = {split: result["metrics"] for split, result in report["splits"].items()}
    rows["val, sentences shuffled among the images"] = report["val_with_shuffled_sentences"]
    for name, scores in rows.items():
        print(f"  {name:42}" + "".join(f"{score} {scores[score]:6.2f}   " for score in ("oIoU", "mIoU", "Pr@0.5")))
    print("A model that did not read would score the same with shuffled sentences.")
    if "train_runtime" in report["training"]:
        print(f"Training took {report['training']['train_runtime']:.0f} s, all together {seconds:.0f} s.")
    print(f"Pictures: {OUTPUT / 'predictions.png'}. Now try it on {OUTPUT / 'example.png'}:")
    print(
        f'  .venv/bin/hf-refseg predict {OUTPUT} {OUTPUT / "example.png"} --text "the leftmost shape" --output masks'
    )


if __name__ == "__main__":
    main()
