"""Speed of reading training data against PIL's decoding and resizing alone, and memory of `prepare`; JSON lines out.

Photographs of 640 x 480 pixels are drawn by a seed, and a data set in the format of the REFER collection is made of
them, with about three referents an image and three sentences each.

`reading`: examples per second that one process reads from the prepared Parquet files, each a decoded image, resized to
480 x 480, with mask, tokens and its place in a batch, as a worker process of a recipe does, next to what decoding the
same JPEGs with PIL and resizing them takes. Both are measured in turns, and the ratio is the median over the rounds.
`batch_bytes` is what a batch hands from a worker process to the main one per example, in bytes and as a processor's
own batch would have it.

`preparing`: seconds of `prepare`, and the most memory that all of its processes together had at a time, mapped files
included.

    python benchmarks/data.py --records 20000 --num-proc 2
    python benchmarks/data.py --records 600 --kind clips
"""

import argparse
import io
import json
import multiprocessing
import pickle
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from json_lines import write_line
from PIL import Image
from processor import describe_processor
from transformers import BertTokenizer

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.byte_batches import FittedReferents, keep_bytes
from hf_refseg.data.clips import ClipCollator, ClipExamples
from hf_refseg.data.examples import ReferentExamples, RefSegCollator
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset

HEIGHT, WIDTH = 480, 640
REFERENTS, SENTENCES = 3, 3
# So many different photographs are drawn; each is the file of several images.
PHOTOGRAPHS = 64
TEXT = "the man in the red shirt left of the dog"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20000, help="referents to prepare")
    parser.add_argument("--num-proc", type=int, help="processes of prepare; its own default if absent")
    parser.add_argument("--kind", choices=("images", "clips"), default="images", help="what reading is measured of")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--folder", help="where to make the data; a temporary folder if absent")
    parser.add_argument("--output", help="file that the JSON lines are appended to")
    return parser.parse_args()


def draw_photograph(generator: np.random.Generator) -> bytes:
    """A JPEG about as large as photographs of COCO are: smooth areas, structure and the noise of a camera."""
    pixels = generator.normal(0, 8, (HEIGHT, WIDTH, 3))
    for cells, weight in ((12, 0.6), (120, 0.3)):
        colors = generator.integers(0, 256, (cells, cells * 4 // 3, 3), dtype=np.uint8)
        pixels += weight * np.asarray(Image.fromarray(colors).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def draw_outline(generator: np.random.Generator) -> list[float]:
    """A polygon with a coast like that of an outline drawn by hand."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = 70 + sum(generator.normal(0, 8) * np.sin(k * angles + generator.uniform(0, 6)) for k in range(1, 9))
    center = generator.uniform((120, 120), (WIDTH - 120, HEIGHT - 120))
    points = center + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points.clip(0, (WIDTH, HEIGHT)).round(2).ravel().tolist()


def write_refer(root: Path, records: int) -> None:
    """`refs(unc).p`, `instances.json` and the images, as RefCOCO has them."""
    generator = np.random.default_rng(0)
    photographs = [draw_photograph(generator) for _ in range(PHOTOGRAPHS)]
    folder, pictures = root / "refcoco", root / "images" / "mscoco" / "images" / "train2014"
    folder.mkdir(parents=True)
    pictures.mkdir(parents=True)
    images, annotations, refs = [], [], []
    for number in range(records):
        image_id = 1 + number // REFERENTS
        name = f"COCO_train2014_{image_id:012d}.jpg"
        if number % REFERENTS == 0:
            (pictures / name).write_bytes(photographs[image_id % PHOTOGRAPHS])
            images.append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        outline = draw_outline(generator)
        common = {"image_id": image_id, "category_id": 1}
        annotations.append({**common, "id": number, "segmentation": [outline], "bbox": [0, 0, 1, 1], "iscrowd": 0})
        sentences = [
            {"sent_id": SENTENCES * number + place, "sent": TEXT, "raw": TEXT, "tokens": TEXT.split()}
            for place in range(SENTENCES)
        ]
        ref = {**common, "ref_id": number, "ann_id": number, "split": "train", "file_name": name}
        refs.append({**ref, "sentences": sentences, "sent_ids": [each["sent_id"] for each in sentences]})
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "instances.json").write_text(json.dumps(content))


def memory_of(process: int) -> int:
    """Bytes that a process and all that descend from it hold, shared ones counted once; Linux alone tells."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        tasks = Path(f"/proc/{process}/task").iterdir()
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        # It has ended meanwhile.
        return 0
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * kilobytes + sum(map(memory_of, children))


def measure_preparing(root: Path, records: int, num_proc: int | None) -> dict[str, Any]:
    """`prepare` in a process of its own, which has drawn nothing."""
    options = {"split_by": "unc", "cache_dir": str(root / "cache"), "num_proc": num_proc, "splits": ("train",)}
    process = multiprocessing.get_context("spawn").Process(
        target=prepare_dataset, args=("refcoco", str(root), str(root / "prepared")), kwargs=options
    )
    start, peak, ended = time.perf_counter(), 0, threading.Event()
    process.start()
    while process.is_alive():
        peak = max(peak, memory_of(process.pid))
        ended.wait(0.1)
    if process.exitcode:
        raise SystemExit("prepare has failed, see above.")
    return {
        "measured": "preparing",
        "records": records,
        "num_proc": num_proc,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gibibytes": round(peak / 2**30, 3),
    }


def timed(work: Callable[[], Any]) -> float:
    """Seconds of a processor, which others do not slow down as much as they do the clock."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure_reading(root: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(TEXT.split()))
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    processor = RefSegProcessor(RefSegImageProcessor(), tokenizer)
    rows = load_refseg(str(root / "prepared"), cache_dir=str(root / "cache"))["train"]
    examples, collator = ReferentExamples(rows), RefSegCollator
    if arguments.kind == "clips":
        examples, collator = ClipExamples(as_videos(rows, arguments.frames), arguments.frames), ClipCollator
    fitted, collate, per_batch = (
        FittedReferents(examples, processor.image_processor),
        collator(keep_bytes(processor)),
        arguments.batch_size,
    )
    files = [row["image"]["bytes"] for row in ReferentExamples(rows).rows.select(range(min(len(rows), 3 * 64)))]
    images = per_batch * (arguments.frames if arguments.kind == "clips" else 1)

    def with_pil(first: int) -> list[Image.Image]:
        return [
            Image.open(io.BytesIO(files[(first + number) % len(files)]))
            .convert("RGB")
            .resize((480, 480), Image.Resampling.BILINEAR)
            for number in range(images)
        ]

    def read(first: int) -> Any:
        return collate(fitted.__getitems__([(first + number) % len(fitted) for number in range(per_batch)]))

    read(0), with_pil(0)
    seconds = [
        (timed(partial(with_pil, first)), timed(partial(read, first)))
        for first in range(0, arguments.rounds * per_batch, per_batch)
    ]
    batches = [collate([fitted[0]]), collator(processor)([examples[0]])]
    sizes = [sum(values.numel() * values.element_size() for values in batch.values()) for batch in batches]
    return {
        "measured": "reading",
        "kind": arguments.kind,
        "batch_size": per_batch,
        "jpeg_kilobytes": round(statistics.mean(map(len, files)) / 1000, 1),
        "examples_per_second": round(per_batch / statistics.median(read_seconds for _, read_seconds in seconds), 1),
        "pil_examples_per_second": round(per_batch / statistics.median(pil_seconds for pil_seconds, _ in seconds), 1),
        "ratio": round(statistics.median(pil / ours for pil, ours in seconds), 3),
        "batch_bytes": dict(zip(("bytes", "normalized"), sizes, strict=True)),
        "processor": describe_processor(),
        "torch": torch.__version__,
    }


def as_videos(rows: Any, frames: int) -> Any:
    """Videos of as many frames as a clip has, every one of which is annotated, out of referents of images."""
    from datasets import Dataset

    from hf_refseg.data.rows import video_features

    stored = ReferentExamples(rows).rows
    videos = []
    for first in range(0, min(len(stored), 16 * frames) - frames + 1, frames):
        each = [stored[number] for number in range(first, first + frames)]
        sentences = [{**sentence, "annotator": ""} for sentence in each[0]["sentences"]]
        referent = {"ref_id": "0", "category": "", "annotated_frames": list(range(frames)), "sentences": sentences}
        videos.append(
            {
                "video_id": str(first),
                "frame_names": [f"{number:05d}" for number in range(frames)],
                "frames": [row["image"] for row in each],
                "referents": [{**referent, "masks": [row["mask"] for row in each]}],
            }
        )
    return Dataset.from_list(videos, features=video_features())


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        write_refer(root, arguments.records)
        write_line(measure_preparing(root, arguments.records, arguments.num_proc), arguments.output)
        write_line(measure_reading(root, arguments), arguments.output)


if __name__ == "__main__":
    main()
