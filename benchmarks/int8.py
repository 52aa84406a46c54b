"""Latency of an export of integers of 8 bits against that in float32, in onnxruntime; JSON lines out.

Both are measured in turns, so that they see the same machine; the figures are medians. By default the model is a LAVT
with a Swin-T and six layers of BERT, whose latency does not depend on its random weights, but whose masks mean little:
how far the masks of a trained one agree says --trained.

    python benchmarks/int8.py --threads 2 --rounds 9
    python benchmarks/int8.py --trained runs/demo
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from json_lines import write_line
from PIL import Image
from processor import describe_processor
from tqdm import trange
from transformers import BertTokenizer

from hf_refseg import LavtConfig, LavtForReferringSegmentation, RefSegImageProcessor, RefSegProcessor
from hf_refseg.export import export_model, quantize_export
from hf_refseg.hub.saved_models import load_model
from hf_refseg.onnx import OnnxSegmenter

SWIN_T = {"model_type": "swin", "embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "red", "circle", "on", "left"]
TEXT = "the red circle on the left"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", help="folder of a saved model, in the place of the LAVT with random weights")
    parser.add_argument("--size", type=int, default=384, help="of that LAVT: height and width of the image in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9, help="measurements of each figure")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def build_model(size: int) -> tuple[LavtForReferringSegmentation, RefSegProcessor]:
    text = {"model_type": "bert", "num_hidden_layers": 6, "vocab_size": len(WORDS)}
    model = LavtForReferringSegmentation(LavtConfig(backbone_config=SWIN_T, text_config=text)).eval()
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})
    return model, RefSegProcessor(RefSegImageProcessor(size={"height": size, "width": size}), tokenizer)


def main() -> None:
    arguments = parse_arguments()
    loaded = load_model(arguments.trained, "cpu", "float32") if arguments.trained else build_model(arguments.size)
    with tempfile.TemporaryDirectory() as temporary:
        folders = {"float32": Path(temporary, "float32"), "int8": Path(temporary, "int8")}
        export_model(*loaded, folders["float32"])
        shutil.copytree(folders["float32"], folders["int8"])
        quantized = quantize_export(folders["int8"]).quantization
        segmenters = {name: OnnxSegmenter(folder, threads=arguments.threads) for name, folder in folders.items()}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8))
    seconds: dict[str, list[float]] = {name: [] for name in segmenters}
    for number in trange(arguments.rounds + 1, desc="rounds"):
        for name, segmenter in segmenters.items():
            pixels = segmenter.prepare(image)[None]
            start = time.perf_counter()
            list(segmenter.run(pixels, [TEXT]))
            # The first round is a warm-up.
            if number:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    row = {
        "model": Path(arguments.trained).name if arguments.trained else "LAVT, Swin-T, 6 layers of BERT, random",
        "image_size": segmenters["int8"].settings.image_size,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "seconds": medians,
        "ratio": medians["int8"] / medians["float32"],
        "quantization": quantized,
        "processor": describe_processor(),
        "onnxruntime": onnxruntime.__version__,
    }
    write_line(json.loads(json.dumps(row)), arguments.output)


if __name__ == "__main__":
    main()
