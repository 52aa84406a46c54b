"""What is fuzzed: each target reads one case and raises AssertionError where the result is not the right one."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import h5py
import numpy as np
import torch
from damage import SECRET, damage, edit_bytes
from export_trees import make_cvat, make_label_studio, make_labelme
from folder_trees import make_labels, make_metadata, make_phrases
from golden_lavt import BERT_CONFIG, released_checkpoint
from phrasecut_tree import make_phrasecut
from PIL import Image
from pycocotools import mask as coco_mask
from refer_trees import make_grefcoco, make_refclef, make_refcoco, make_rrsisd
from result_files import write_result
from safetensors.torch import save_file
from tiny_lavt import WORDS, tiny_processor
from video_trees import make_davis, make_jhmdb, make_youtube_vos, release_a2d, release_davis, release_jhmdb

from hf_refseg.commands.leaderboard import sort_into_tables, write_leaderboard
from hf_refseg.convert import CheckpointError, convert_lavt_checkpoint, load_checkpoint
from hf_refseg.data.clips import VideoExamples
from hf_refseg.data.examples import ImageExamples
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import (
    InvalidMaskError,
    annotation_to_mask,
    decode_mask,
    draw_polygons,
    encode_mask,
    mask_to_bbox,
    rasterize_polygons,
)
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError, InvalidRowError
from hf_refseg.evaluation import (
    PredictionError,
    ScoredMask,
    coco_statistics,
    compare_records,
    evaluate_predictions,
)
from hf_refseg.evaluation.saved_results import ResultError, read_result
from hf_refseg.modeling.modeling_outputs_refseg import ReferringSegmentationOutput
from hf_refseg.modeling.picture_files_refseg import open_image

HEIGHT, WIDTH = 12, 20
# People's own pictures, by the formats of their folders, which say nothing of splits.
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "coco": make_cvat,
    "labelme": make_labelme,
    "label_studio": make_label_studio,
}
# Protocols whose records differ.
RESULTS = ("original", "davis", "a2d")


@dataclass(frozen=True)
class Target:
    """`run` takes a case and an empty folder; `errors` are the clear ones, which name one of `names(case)`."""

    run: Callable[[Any, Path], None]
    sound: Any
    errors: tuple[type[Exception], ...]
    names: Callable[[Any], Iterable[str]] = lambda case: ()


def make_files(folder: Path) -> None:
    """`base` with a sound tree of each data set, and `outside` with files that no case may read."""
    base, outside = folder / "base", folder / "outside"
    make_refcoco(base / "refcoco")
    make_refclef(base / "refclef")
    make_grefcoco(base / "grefcoco")
    make_rrsisd(base / "refer")
    make_youtube_vos(base / "ref_youtube_vos")
    make_davis(base / "ref_davis17", "meta")
    release_davis(base / "ref_davis17_release")
    release_a2d(base / "a2d_sentences")
    make_jhmdb(base / "jhmdb_sentences")
    make_phrasecut(base / "phrasecut")
    release_jhmdb(base / "jhmdb_sentences_release")
    make_metadata(base / "metadata")
    make_metadata(base / "metadata_csv", ".csv")
    make_labels(base / "labels")
    make_phrases(base / "phrases", suffix=".png")
    for name, make in FOLDERS.items():
        make(base / name)
    prepare_dataset("refcoco", base / "refcoco", base / "prepared", cache_dir=folder / "cache")
    make_predictions(base, folder / "cache")
    for protocol in RESULTS:
        write_result(base / "results" / f"{protocol}.json", 0, protocol)
    outside.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(outside / f"{SECRET}.png")
    with h5py.File(outside / f"{SECRET}.h5", "w") as file:
        file["instance"], file["reMask"] = np.array([[1.0]]), np.ones((WIDTH, HEIGHT), np.uint8)


# --- Data sets: a case lists which files of the tree are damaged, and how (path, kind, description) -----------------


def data_set(name: str, tree: str | None = None, **options: Any) -> Target:
    """Reads a tree, by default that of the data set's name, in which files are replaced, and looks at all rows."""

    def run(damages: Sequence[tuple[str, str, Any]], work: Path) -> None:
        data = work / "data"
        shutil.copytree(work.parent / "base" / (tree or name), data, copy_function=os.link)
        for path, kind, how in damages:
            content = damage((data / path).read_bytes(), kind, how)
            # Not into the sound file, which this one is a link to.
            (data / path).unlink()
            (data / path).write_bytes(content)
        source = {"name": str(data)} if name == "prepared" else {"name": name, "data_dir": data}
        for rows in load_refseg(**source, **options, cache_dir=work / "cache").values():
            check = _check_videos if "frames" in rows.column_names else _check_images
            check(rows)

    def names(damages: Sequence[tuple[str, str, Any]]) -> list[str]:
        # A prepared folder is named as a whole, or its row where a picture or a mask is read.
        if name == "prepared":
            return ["data", "row "]
        nothing = ["data has no record that can be read"] if name == "folder" else []
        return [Path(path).name for path, _, _ in damages] + nothing

    return Target(run, (), (DataFormatError, InvalidRowError, InvalidMaskError), names)


# --- Predictions: a file or folder about a tree, of which one file is damaged ----------------------------------------


def make_predictions(base: Path, cache: Path) -> None:
    """`predictions` with the true masks of images and videos in all formats that are read."""
    header, folder = {"format": "hf_refseg-predictions", "version": 1}, base / "predictions"
    (folder / "masks").mkdir(parents=True)
    rows = load_refseg("refcoco", base / "refcoco", cache_dir=cache)["train"]
    sentences = [(sentence["sent_id"], row["mask"]) for row in rows for sentence in row["sentences"]]
    _write_lines(folder / "images.jsonl", [header, *({"sent_id": name, "mask": mask} for name, mask in sentences)])
    results = [{"sent_id": name, "segmentation": mask, "score": 0.5} for name, mask in sentences]
    (folder / "results.json").write_text(json.dumps(results))
    for name, mask in sentences:
        Image.fromarray(decode_mask(mask)).save(folder / "masks" / f"{name}.png")
    lines = [header]
    for row in load_refseg("ref_davis17", base / "ref_davis17", cache_dir=cache)["val"]:
        for referent in row["referents"]:
            pairs = zip(referent["annotated_frames"], referent["masks"], strict=True)
            frames = [{"frame": number, "mask": mask} for number, mask in pairs]
            names = [{"video_id": row["video_id"], "sent_id": each["sent_id"]} for each in referent["sentences"]]
            lines += [{**each, "frames": frames} for each in names]
    _write_lines(folder / "videos.jsonl", lines)


def _write_lines(path: Path, lines: Iterable[Any]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def score_predictions(case: tuple[str, str, Any], work: Path) -> None:
    name, kind, how = case
    data, base = work / "data", work.parent / "base"
    shutil.copytree(base / "predictions", data)
    (data / name).write_bytes(damage((data / name).read_bytes(), kind, how))
    tree, split = ("ref_davis17", "val") if name == "videos.jsonl" else ("refcoco", "train")
    rows = load_refseg(tree, base / tree, cache_dir=work / "cache", splits=[split])[split]
    path = data / Path(name).parts[0]
    how = {"progress": False, "bootstrap_samples": 0, "unfinished": work / "unfinished"}
    try:
        result = evaluate_predictions(path, rows, missing="empty", **how)
    except PredictionError as error:
        # Below the message, of which the same is asked as of all, there may be lines of what does not fit.
        message, *lines = str(error).split("\n")
        assert all(line.isprintable() and len(line) < 2000 for line in lines)
        error.args = (message,)
        raise
    assert all(0 <= score <= 100 or score_name.endswith("decay") for score_name, score in result.metrics.items())
    assert result.sentences == sum(bool(record["text"]) for record in result.records) > 0


def show_result(case: tuple[str, str, Any], work: Path) -> None:
    """Reads a damaged result, compares it with itself and puts it into a table."""
    name, kind, how = case
    path = work / name
    path.write_bytes(damage((work.parent / "base" / "results" / name).read_bytes(), kind, how))
    result = read_result(path)
    found = compare_records({"a": result.records, "b": result.records}, result.condition.protocol, permutations=9)
    assert found.differences and all(each.difference == 0 and each.p_value == 1 for each in found.differences)
    page = write_leaderboard(sort_into_tables([result]))
    # No text of the file begins a line or a cell of its own, or a tag.
    *_, header, rule, row = page.splitlines()
    assert len(re.findall(r"(?<!\\)\|", row)) == header.count("|") == rule.count("|") and "<" not in page


def _check_images(rows: datasets.Dataset) -> None:
    for item in ImageExamples(rows):
        assert item["image"].mode == "RGB" and len(item["masks"]) == len(item["texts"])
        assert all(mask.shape == (item["image"].height, item["image"].width) for mask in item["masks"])
    for sentences in rows["sentences"]:
        # Which one is drawn depends on the epoch: each has to be one.
        assert sentences and all(sentence["raw"].strip() for sentence in sentences)
    assert np.isfinite(np.array(rows["bbox"])).all()


def _check_videos(rows: datasets.Dataset) -> None:
    for item in VideoExamples(rows):
        assert len(item["frames"]) == len(item["frame_names"]) > 0
        assert all(text.strip() for text in item["texts"])
        for numbers, masks in zip(item["annotated_frames"], item["masks"], strict=True):
            for number, mask in zip(numbers, masks, strict=True):
                shown = decode_mask(mask)
                assert shown.shape == (item["frames"][number].height, item["frames"][number].width)
                assert not shown.all(), "a mask of a file of others"


def read_picture(case: tuple[str, str, Any], work: Path) -> None:
    """A picture, of one of PIL's formats, given to a command or the processor."""
    ending, kind, how = case
    path = work / f"picture.{ending}"
    Image.new("RGB", (WIDTH, HEIGHT), "white").save(path)
    path.write_bytes(damage(path.read_bytes(), kind, how))
    picture = open_image(path)
    assert picture.mode == "RGB" and np.asarray(picture).shape == (picture.height, picture.width, 3)


# --- Masks ---------------------------------------------------------------------------------------------------------


def use_masks(case: tuple[str, Any], work: Path) -> None:
    name, arguments = case
    {
        "decode": _decode,
        "encode": _encode,
        "annotation": _rasterize_annotation,
        "polygons": _rasterize,
        "drawing": _draw,
        "statistics": _score,
    }[name](**arguments)


def _decode(rle: Any) -> None:
    mask = decode_mask(rle)
    assert mask.dtype == bool and mask.shape == tuple(rle["size"])
    if isinstance(rle["counts"], str | bytes):
        # What is taken has been checked, so that C code may read it.
        assert np.array_equal(mask, coco_mask.decode({**rle, "size": list(rle["size"])}))
    else:
        runs = [place % 2 == 1 for place, run in enumerate(rle["counts"]) for _ in range(run)]
        assert np.array_equal(mask.T.ravel(), runs)
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


def _encode(mask: Any) -> None:
    mask = build(mask)
    encoded = encode_mask(mask)
    assert np.array_equal(decode_mask(encoded), mask)
    x, y, width, height = mask_to_bbox(mask)
    assert mask[int(y) : int(y + height), int(x) : int(x + width)].sum() == mask.sum()


def _rasterize_annotation(segmentation: Any, height: Any, width: Any, overlap: Any) -> None:
    mask = annotation_to_mask(segmentation, height, width, overlap)
    assert mask.dtype == bool and mask.shape == (height, width)


def _rasterize(polygons: Any, height: Any, width: Any, overlap: Any) -> None:
    mask = rasterize_polygons(polygons, height, width, overlap)
    assert mask.dtype == bool and mask.shape == (height, width)
    points = np.array([value for polygon in polygons for value in polygon]).reshape(-1, 2)
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert columns.min() >= points[:, 0].min() - 1 and columns.max() <= points[:, 0].max() + 1
        assert rows.min() >= points[:, 1].min() - 1 and rows.max() <= points[:, 1].max() + 1


def _draw(polygons: Any, height: Any, width: Any) -> None:
    mask = draw_polygons(polygons, height, width)
    assert mask.dtype == bool and mask.shape == (height, width)
    # The corners of what is drawn are those of its points, without fractions.
    for polygon in polygons:
        for x, y in polygon if len(polygon) > 1 else ():
            assert not (0 <= int(x) < width and 0 <= int(y) < height) or mask[int(y), int(x)]
    points = np.array([point for polygon in polygons for point in polygon]).reshape(-1, 2)
    rows, columns = np.nonzero(mask)
    if len(rows):
        assert columns.min() >= points[:, 0].min() - 1 and columns.max() <= points[:, 0].max()
        assert rows.min() >= points[:, 1].min() - 1 and rows.max() <= points[:, 1].max()


def _score(references: Any, predictions: Sequence[tuple[str, float, Any]]) -> None:
    answers = [ScoredMask(image_id, mask, score) for image_id, score, mask in predictions]
    numbers = coco_statistics(references, answers)
    assert len(numbers) == 12 and all(number == -1 or 0 <= number <= 1 for number in numbers)


# --- Processor -----------------------------------------------------------------------------------------------------


def build(described: Any) -> Any:
    """Arrays, tensors and PIL images of ("numpy" | "torch" | "pil", dtype, shape, values that repeat), in any nest."""
    if isinstance(described, list):
        return [build(each) for each in described]
    if not isinstance(described, tuple) or not described or described[0] not in ("numpy", "torch", "pil"):
        return described
    kind, dtype, shape, values = described
    with np.errstate(all="ignore"):
        array = np.resize(np.array(values, dtype=np.float64), shape).astype(dtype)
    if kind == "numpy":
        return array
    return torch.from_numpy(array) if kind == "torch" else Image.fromarray(array)


def prepare_inputs(case: Mapping[str, Any], work: Path) -> None:
    """A call of the processor."""
    given = {name: build(value) for name, value in case.items()}
    inputs = tiny_processor()(**given, return_tensors="pt")
    if case.get("images") is not None:
        pixels = inputs["pixel_values"]
        pictures = given["images"] if isinstance(given["images"], list) else [given["images"]]
        assert pixels.dtype == torch.float32 and pixels.shape == (len(pictures), 3, 64, 64)
        # White and black after the normalization of ImageNet.
        assert (pixels > -2.2).all() and (pixels < 2.7).all()
        described = case["images"] if isinstance(case["images"], list) else [case["images"]]
        for each, values in zip(described, pixels, strict=True):
            _check_brightness(each, values)
    if case.get("segmentation_maps") is not None:
        labels = inputs["mask_labels"]
        assert labels.dtype == torch.int64 and labels.shape[1:] == (64, 64) and set(labels.unique().tolist()) <= {0, 1}
    if case.get("text") is not None:
        tokens = inputs["input_ids"]
        texts = [given["text"]] if isinstance(given["text"], str) else given["text"]
        assert len(tokens) == len(texts) and tokens.shape == inputs["attention_mask"].shape
        assert tokens.min() >= 0 and tokens.max() < len(WORDS)


def _check_brightness(described: Any, pixels: torch.Tensor) -> None:
    """A picture of one brightness has the same one in all types: the share of the largest value that they hold."""
    _, dtype, _, values = described
    if len(set(values)) != 1 or not np.isfinite(values[0]):
        return
    if dtype == "uint8":
        share = int(values[0]) % 256 / 255
    elif dtype.startswith("float") and 0 <= values[0] <= 1:
        share = values[0]
    else:
        return
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (share - mean) / deviation
    assert torch.allclose(pixels.mean(dim=(1, 2)), expected, atol=0.03), f"{pixels.mean(dim=(1, 2))}, not {expected}"


def post_process(case: Mapping[str, Any], work: Path) -> None:
    """Logits become masks."""
    logits, sizes, threshold = build(case["logits"]), case["target_sizes"], case["threshold"]
    outputs = ReferringSegmentationOutput(logits=logits)
    results = tiny_processor().post_process_referring_segmentation(outputs, sizes, threshold)
    assert torch.isfinite(logits).all(), "logits that are not finite were taken"
    assert threshold is None or 0 <= threshold <= 1, "a threshold that is no probability was taken"
    wanted = [tuple(logits.shape[1:])] * len(logits) if sizes is None else [tuple(size) for size in sizes]
    assert [tuple(result["mask"].shape) for result in results] == wanted
    for result in results:
        assert result["mask"].dtype == torch.bool and result["present"] == bool(result["mask"].any())
        assert 0 <= result["score"] <= 1


# --- Checkpoints: changes of tensors, then of the file's bytes ------------------------------------------------------

CHECKPOINT_DTYPES = ("bool", "uint8", "int64", "float16", "bfloat16", "float64", "complex64")


def convert_checkpoint(case: tuple[str, Sequence[tuple], Sequence[tuple]], work: Path) -> None:
    kind, changes, edits = case
    checkpoint = released_checkpoint()
    for change in changes:
        _change(checkpoint, *change)
    path = work / f"model.{kind}"
    if kind == "safetensors":
        save_file(
            {
                f"{group}.{name}": value.contiguous()
                for group in checkpoint
                for name, value in checkpoint[group].items()
            },
            path,
        )
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=kind == "pth")
    path.write_bytes(edit_bytes(path.read_bytes(), edits))
    model = convert_lavt_checkpoint(load_checkpoint(path), text_config=BERT_CONFIG)
    for name, value in model.state_dict().items():
        assert value.device.type == "cpu" and value.layout == torch.strided, name
    assert model.get_text_features(torch.tensor([[2, 5, 3]])).last_hidden_state.shape[:2] == (1, 3)


def _change(checkpoint: dict[str, Any], group: str, place: int, action: str, value: Any) -> None:
    """Changes one tensor, or what else stands there."""
    tensors = checkpoint[group]
    if action == "group":
        checkpoint[group] = value
        return
    if not isinstance(tensors, dict) or not tensors:
        return
    name = sorted(tensors, key=str)[place % len(tensors)]
    tensor = tensors[name]
    if action == "remove":
        del tensors[name]
    elif action == "name":
        tensors[value] = tensors.pop(name)
    elif action == "add":
        tensors[value] = torch.zeros(3)
    elif action == "value" or not isinstance(tensor, torch.Tensor):
        tensors[name] = value
    else:
        tensors[name] = TENSOR_CHANGES[action](tensor.float(), value)


TENSOR_CHANGES: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "dtype": lambda tensor, dtype: tensor.to(getattr(torch, CHECKPOINT_DTYPES[dtype % len(CHECKPOINT_DTYPES)])),
    "shape": lambda tensor, shape: torch.zeros(shape),
    "stride": lambda tensor, shape: torch.zeros(1).expand(shape),
    "axis": lambda tensor, _: tensor[None],
    "sparse": lambda tensor, _: tensor.to_sparse(),
    "meta": lambda tensor, _: tensor.to("meta"),
    "quantized": lambda tensor, _: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "fill": lambda tensor, value: torch.full_like(tensor, value),
    "parameter": lambda tensor, _: torch.nn.Parameter(tensor),
}


SOUND_RLE = {"size": [2, 3], "counts": [2, 3, 1]}
TOLERANT = {"on_bad_record": "skip", "on_size_mismatch": "resize_mask"}
TARGETS = {
    **{name: data_set(name) for name in ("refcoco", "refclef", "grefcoco", "prepared")},
    "refer": data_set("refer", dataset="rrsisd", **TOLERANT),
    **{name: data_set(name) for name in ("ref_youtube_vos", "ref_davis17", "jhmdb_sentences", "phrasecut")},
    "ref_davis17_release": data_set("ref_davis17", "ref_davis17_release", **TOLERANT),
    "a2d_sentences": data_set("a2d_sentences", on_size_mismatch="resize_mask"),
    "jhmdb_sentences_release": data_set("jhmdb_sentences", "jhmdb_sentences_release", **TOLERANT),
    **{name: data_set("folder", name, val_share=0.0, test_share=0.0) for name in FOLDERS},
    **{name: data_set("folder", name) for name in ("metadata", "labels")},
    "metadata_csv": data_set("folder", "metadata_csv", **TOLERANT),
    "phrases": data_set("folder", "phrases", **TOLERANT),
    "predictions": Target(
        score_predictions,
        ("images.jsonl", "bytes", ()),
        (PredictionError, DataFormatError),
        lambda case: [Path(case[0]).parts[0]],
    ),
    "results": Target(show_result, ("original.json", "bytes", ()), (ResultError,), lambda case: [case[0]]),
    "picture": Target(read_picture, ("png", "bytes", ()), (ValueError,), lambda case: [f"picture.{case[0]}"]),
    "masks": Target(use_masks, ("decode", {"rle": SOUND_RLE}), (ValueError,)),
    "processor": Target(
        prepare_inputs,
        {"images": ("numpy", "uint8", (5, 6, 3), [100]), "text": "red dog"},
        (ValueError, TypeError, FileNotFoundError),
    ),
    "post_processing": Target(
        post_process,
        {"logits": ("torch", "float32", (1, 8, 8), [-1.0, 2.0]), "target_sizes": [(4, 6)], "threshold": 0.5},
        (ValueError, TypeError),
    ),
    # A converter is given no file, which the command line names.
    "checkpoint": Target(
        convert_checkpoint, ("pth", (), ()), (CheckpointError,), lambda case: (f"model.{case[0]}", "the checkpoint")
    ),
}
