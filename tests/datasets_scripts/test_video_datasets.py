"""Video data sets through `load_refseg`: rows as their files say, and one clear error for every bad file."""

import json
import pickle
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from places import REAL_DATA
from video_loading import load, masks_of, notes
from video_trees import (
    A2D_INSTANCES,
    A2D_LENGTH,
    DAVIS_NAMES,
    HEIGHT,
    JHMDB_LENGTH,
    WIDTH,
    YOUTUBE_NAMES,
    a2d_mask,
    edit_json,
    labels_of,
    make_a2d,
    make_davis,
    make_jhmdb,
    make_youtube_vos,
    release_jhmdb,
    write_frame,
    write_json,
    write_labels,
    write_mat,
)

from hf_refseg.data import loading
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import decode_mask
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError, video_features
from hf_refseg.datasets_scripts import a2d_sentences, jhmdb_sentences

REAL = REAL_DATA


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (REAL / name).exists(), reason=f"{REAL / name} is absent; set HF_REFSEG_REAL_DATA to the folder around it"
    )


def sentence(sent_id: str, raw: str, sent: str | None = None, annotator: str = "") -> dict[str, str]:
    return {"sent_id": sent_id, "raw": raw, "sent": sent or raw, "annotator": annotator}


# --- rows ----------------------------------------------------------------------------------------------------------


def test_refer_youtube_vos_rows(tmp_path):
    dataset = load("ref_youtube_vos", make_youtube_vos(tmp_path / "data"))
    assert {split: rows["video_id"][:] for split, rows in dataset.items()} == {
        "train": ["t1", "t2"],
        "valid": ["v1"],
        "test": ["v2"],
    }
    assert all(rows.features == video_features() for rows in dataset.values())
    row = dataset["train"][0]
    assert row["frame_names"] == YOUTUBE_NAMES
    assert [round(np.asarray(frame).mean()) for frame in row["frames"]] == [0, 5, 10, 15]
    red, green = row["referents"]
    assert (red["ref_id"], green["ref_id"]) == ("t1_1", "t1_2")
    assert red["sentences"] == [sentence("0", "a Red  square", "a red square"), sentence("1", "the upper square")]
    assert red["annotated_frames"] == green["annotated_frames"] == [0, 1, 2, 3]
    for number in range(4):
        assert np.array_equal(masks_of(red)[number], labels_of(number) == 1)
        assert np.array_equal(masks_of(green)[number], (labels_of(number) == 2) & (number > 0))
    for split, video in (("valid", "v1"), ("test", "v2")):
        first, second = dataset[split][0]["referents"]
        assert (first["sentences"], first["annotated_frames"], first["masks"]) == (
            [sentence("0", f"first of {video}")],
            [],
            [],
        )
        assert second["sentences"] == [sentence("1", "second")]


def test_refer_youtube_vos_frames_are_paths(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    rows = load("ref_youtube_vos", root)["train"]
    row = rows.cast_column("frames", datasets.List(datasets.Image(decode=False)))[1]
    assert row["frames"][2] == {"bytes": None, "path": str(root / "train/JPEGImages/t2/00010.jpg")}


def test_refer_youtube_vos_test_frames_may_have_their_own_folder(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    for number, name in enumerate(YOUTUBE_NAMES):
        write_frame(root / "test/JPEGImages/v2" / f"{name}.jpg", 20 + number)
    row = load("ref_youtube_vos", root)["test"][0]
    assert [round(np.asarray(frame).mean()) for frame in row["frames"]] == [100, 105, 110, 115]


def test_refer_youtube_vos_may_be_there_in_part(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    shutil.rmtree(root / "meta_expressions/train")
    assert list(load("ref_youtube_vos", root)) == ["valid", "test"]
    shutil.rmtree(root / "meta_expressions/test")
    with pytest.raises(DataFormatError, match=r"test/meta_expressions.json does not exist. Expected"):
        load("ref_youtube_vos", root)


@pytest.mark.parametrize("form", ["texts", "meta", "list"])
def test_ref_davis17_rows(form, tmp_path):
    dataset = load("ref_davis17", make_davis(tmp_path / "data", form))
    assert {split: rows["video_id"][:] for split, rows in dataset.items()} == {"train": ["bear"], "val": ["two"]}
    row = dataset["val"][0]
    assert row["frame_names"] == DAVIS_NAMES and len(row["frames"]) == 3
    assert [referent["ref_id"] for referent in row["referents"]] == ["two_1", "two_2"]
    for number, referent in enumerate(row["referents"], start=1):
        raws = [found["raw"] for found in referent["sentences"]]
        assert raws == [f"two {number} by {annotator}" for annotator in range(4)]
        assert [found["annotator"] for found in referent["sentences"]] == ["0", "1", "2", "3"]
        assert referent["annotated_frames"] == [0, 1, 2]
        for frame, mask in enumerate(masks_of(referent)):
            assert np.array_equal(mask, labels_of(frame) == number)
    sent_ids = [found["sent_id"] for referent in row["referents"] for found in referent["sentences"]]
    assert len(set(sent_ids)) == 8
    if form != "texts":
        assert sent_ids == [str(number) for number in range(8)]


def test_ref_davis17_reads_gray_annotations_of_davis_2016(tmp_path):
    root = make_davis(tmp_path / "data", "list")
    for number, name in enumerate(DAVIS_NAMES):
        gray = Image.fromarray((labels_of(number, (1,)) == 1).astype(np.uint8) * 255)
        gray.save(root / f"Annotations/480p/bear/{name}.png")
    (referent,) = load("ref_davis17", root)["train"][0]["referents"]
    assert np.array_equal(masks_of(referent)[2], labels_of(2) == 1)


@pytest.mark.parametrize("source", ["frames", "video"])
@pytest.mark.parametrize(("context", "numbers"), [(2, [3, 4, 5, 6, 7, 18, 19, 20, 21, 22]), (None, range(1, 31))])
def test_a2d_rows(source, context, numbers, tmp_path):
    root = make_a2d(tmp_path / "data")
    if source == "video":
        for video in ("a", "b"):
            write_video(root, video)
    dataset = load("a2d_sentences", root, context_frames=context)
    assert {split: rows["video_id"][:] for split, rows in dataset.items()} == {"train": ["a"], "test": ["b"]}
    row = dataset["train"][0]
    assert row["frame_names"] == [f"{number:05d}" for number in numbers]
    for number, frame in zip(numbers, row["frames"], strict=True):
        assert frame.size == (WIDTH, HEIGHT)
        assert abs(np.asarray(frame.convert("RGB")).mean() - 5 * number) < 4
    man, dog = row["referents"]
    assert man["sentences"] == [sentence("a_1_0", "a man, walking")]
    assert [found["raw"] for found in dog["sentences"]] == ["a dog runs", "the dog"]
    for referent, instance in ((man, 1), (dog, 3)):
        annotated = [numbers[place] for place in referent["annotated_frames"]]
        assert annotated == [number for number, instances in A2D_INSTANCES.items() if instance in instances]
        for number, mask in zip(annotated, masks_of(referent), strict=True):
            assert np.array_equal(mask, a2d_mask(number, instance))


@pytest.mark.parametrize("source", ["frames", "video"])
def test_a2d_takes_no_more_than_the_video_has(source, tmp_path):
    root = make_a2d(tmp_path / "data")
    if source == "video":
        for video in ("a", "b"):
            write_video(root, video)
    load("a2d_sentences", root, context_frames=10)
    tracemalloc.start()
    dataset = load("a2d_sentences", root, context_frames=10**6)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert dataset["train"][0]["frame_names"] == [f"{number:05d}" for number in range(1, A2D_LENGTH + 1)]
    assert peak < 20e6


def write_video(root: Path, video: str, title: str = "") -> None:
    """The frames of a video as an .mp4 file, in their place."""
    import av

    path = root / f"Release/clips320H/{video}.mp4"
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", 2_000_000
        for number in range(1, A2D_LENGTH + 1):
            with Image.open(root / f"Release/frames/{video}/{number:05d}.png") as picture:
                container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    shutil.rmtree(root / "Release/frames" / video)


def test_a2d_leaves_out_what_no_frame_shows_with_a_warning(tmp_path, caplog):
    root = make_a2d(tmp_path / "data")
    path = root / "a2d_annotation.txt"
    path.write_text(path.read_text() + "b,7,a ghost\n")
    referents = load("a2d_sentences", root)["test"][0]["referents"]
    assert [referent["ref_id"] for referent in referents] == ["b_1", "b_3"]
    assert "instances that no annotated frame lists, left out with their sentences (1): " in caplog.text
    assert "video b: instance 7." in caplog.text


def test_a2d_texts_may_have_a_folder(tmp_path):
    root = make_a2d(tmp_path / "data")
    (root / "text_annotations").mkdir()
    for path in root.glob("a2d_*"):
        path.rename(root / "text_annotations" / path.name)
    assert load("a2d_sentences", root)["train"].num_rows == 1


def test_jhmdb_rows(tmp_path):
    dataset = load("jhmdb_sentences", make_jhmdb(tmp_path / "data"))
    assert list(dataset) == ["test"] and dataset["test"]["video_id"][:] == ["j1", "j2"]
    row = dataset["test"][1]
    assert row["frame_names"] == [f"{number:05d}" for number in range(1, JHMDB_LENGTH + 1)]
    assert [np.asarray(frame)[0, 0, 0] for frame in row["frames"]] == [5, 10, 15, 20, 25, 30]
    (referent,) = row["referents"]
    assert (referent["category"], referent["annotated_frames"]) == ("run", [1, 3, 4])
    assert referent["sentences"] == [sentence("j2_0", "j2 runs")]
    for number, mask in zip((2, 4, 5), masks_of(referent), strict=True):
        assert np.array_equal(mask, labels_of(number, (1,)) == 1)


def test_changed_annotations_are_read_anew(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    load("ref_youtube_vos", root)
    edit_json(
        root / "meta_expressions/train/meta_expressions.json",
        lambda content: content["videos"]["t1"]["expressions"]["0"].update(exp="another"),
    )
    red, _ = load("ref_youtube_vos", root)["train"][0]["referents"]
    assert red["sentences"][0]["raw"] == "another"
    write_labels(root / "train/Annotations/t1/00000.png", labels_of(9, (1, 2)))
    _, green = load("ref_youtube_vos", root)["train"][0]["referents"]
    assert np.array_equal(masks_of(green)[0], labels_of(9) == 2)


# --- bad files -----------------------------------------------------------------------------------------------------


def in_youtube_train(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    path = "meta_expressions/train/meta_expressions.json"
    return lambda root: edit_json(root / path, lambda content: edit(content["videos"]["t2"]))


def rename_video(name: str) -> Callable[[Path], None]:
    def edit(content):
        content["videos"][name] = content["videos"].pop("t2")

    return lambda root: edit_json(root / "meta_expressions/train/meta_expressions.json", edit)


def replace_by_bomb(path: Path) -> None:
    """A picture over PIL's limit of pixels, in a few bytes."""
    Image.new("1", (10_000, 9_500)).save(path, format="PNG")


LABELS = "train/Annotations/t2/00010.png"
YOUTUBE_DAMAGE = {
    "missing frame": (
        lambda root: (root / "train/JPEGImages/t2/00010.jpg").unlink(),
        "t2: its frame .*00010.jpg does",
    ),
    "missing mask": (lambda root: (root / LABELS).unlink(), r"00010.png \(.*t2\) does not exist. Download"),
    "other size": (lambda root: write_labels(root / LABELS, np.zeros((5, 6), np.uint8)), r"mask is 5 x 6 .* 12 x 20"),
    "cut mask": (
        lambda root: (root / LABELS).write_bytes((root / LABELS).read_bytes()[:60]),
        "cannot be read as a pic",
    ),
    "bomb": (lambda root: replace_by_bomb(root / LABELS), "cannot be read as a picture.*decompression bomb"),
    "color mask": (lambda root: Image.new("RGB", (WIDTH, HEIGHT)).save(root / LABELS), "a picture of mode RGB"),
    "cut frame": (
        lambda root: (root / "train/JPEGImages/t2/00010.jpg").write_bytes(b"\xff"),
        "00010.jpg .* cannot be",
    ),
    "object zero": (in_youtube_train(lambda v: v["expressions"]["2"].update(obj_id=0)), "from 1 to 255, found 0"),
    "object text": (in_youtube_train(lambda v: v["expressions"]["2"].update(obj_id="x")), "from 1 to 255, found 'x'"),
    "no object": (
        in_youtube_train(lambda v: v["expressions"].update({"2": {"exp": "x"}})),
        "t2: 'obj_id' should be of type",
    ),
    "no expression": (
        in_youtube_train(lambda v: v.update(expressions={})),
        "t2 lists a frame twice, or no expression",
    ),
    "empty text": (
        in_youtube_train(lambda v: v["expressions"]["2"].update(exp=" ")),
        "t2: expression 2 should be a text",
    ),
    "frames no list": (in_youtube_train(lambda v: v.update(frames="00000")), "t2: 'frames' should be of type list"),
    "no frames": (in_youtube_train(lambda v: v.update(frames=[])), "t2 has no frames"),
    "frame twice": (in_youtube_train(lambda v: v.update(frames=["00000"] * 2)), "t2 lists a frame twice"),
    "frame outside": (in_youtube_train(lambda v: v["frames"].append("../../x")), "t2: '../../x' is no name"),
    "frame number": (in_youtube_train(lambda v: v["frames"].append(3)), "t2: 3 is no name"),
    "video outside": (rename_video("../t2"), "'../t2' is no name of a video"),
    "video absolute": (rename_video("/etc"), "'/etc' is no name of a video"),
    "half a character": (
        in_youtube_train(lambda v: v["expressions"]["2"].update(exp="a \ud800 dog")),
        r"t2: 'exp' has half a character .*'a \\ud800 dog'",
    ),
    "half a character as id": (
        in_youtube_train(lambda v: v["expressions"].update({"\udfff": v["expressions"].pop("2")})),
        r"t2: expression '\\udfff' has half a character",
    ),
    "half a character in a frame": (in_youtube_train(lambda v: v["frames"].append("\ud800")), "t2: .* is no name"),
    "long frame": (in_youtube_train(lambda v: v["frames"].append("0" * 300)), "t2: '0+.*' is no name"),
    "half a character in a video": (rename_video("\ud800"), r"'\\ud800' is no name of a video"),
    "object true": (in_youtube_train(lambda v: v["expressions"]["2"].update(obj_id=True)), "of type str or int"),
    "video twice": (
        lambda root: (root / "meta_expressions/test/meta_expressions.json").write_text(
            '{"videos": {"v2": 1, "v2": 2}}'
        ),
        "meta_expressions.json has the key 'v2' twice",
    ),
    "list": (lambda root: write_json(root / "meta_expressions/valid/meta_expressions.json", []), "'videos' should be"),
    "cut JSON": (
        lambda root: (root / "meta_expressions/test/meta_expressions.json").write_text('{"vid'),
        "not valid JS",
    ),
    "no file": (
        lambda root: shutil.rmtree(root / "meta_expressions"),
        "meta_expressions.json does not exist. Expected",
    ),
}


@pytest.mark.parametrize("case", YOUTUBE_DAMAGE)
def test_bad_refer_youtube_vos(case, tmp_path):
    check_damage("ref_youtube_vos", make_youtube_vos(tmp_path / "data"), *YOUTUBE_DAMAGE[case])


def check_damage(name: str, root: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(root)
    with pytest.raises(DataFormatError, match=message) as error:
        load(name, root)
    assert str(root) in str(error.value)


def edit_davis(edit: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "ref_davis17_expressions.json", edit)


DAVIS_DAMAGE = {
    "three annotators": (edit_davis(lambda records: records[:-1]), "two: object 2 has 3 expressions, expected 4"),
    "no expressions": (edit_davis(lambda records: []), "no expressions for any video of ImageSets"),
    "some without expressions": (
        lambda root: (root / "ImageSets/2017/val.txt").write_text("two\nthree\n"),
        "val.txt: video three has no expressions",
    ),
    "frame twice": (edit_davis(lambda records: records[5].update(frames=["00000", "00000"])), "lists a frame twice"),
    "other frames": (edit_davis(lambda records: records[5].update(frames=["00000"])), "or other frames than before"),
    "other shape": (edit_davis(lambda records: {"videos": records}), "should hold a list of videos, found dict"),
    "no rest": (edit_davis(lambda records: records[2].update(rest=None)), "position 2: 'rest' should be of type list"),
    "outside": (edit_davis(lambda records: records[2].update(video="..")), r"'..' is no name of a video"),
    "half a character": (
        edit_davis(lambda records: records[2]["rest"][0].update(exp="\ud800")),
        "has half a character",
    ),
    "missing label": (lambda root: (root / "Annotations/480p/two/00001.png").unlink(), "00001.png .*does not exist"),
    "missing frame": (
        lambda root: (root / "JPEGImages/480p/two/00001.jpg").unlink(),
        "its frame .*00001.jpg does not",
    ),
    "no lists": (lambda root: shutil.rmtree(root / "ImageSets"), "val.txt does not exist. Expected ImageSets"),
    "no JSON": (
        lambda root: (root / "ref_davis17_expressions.json").unlink(),
        "Expected davis_text_annotations.* or ref",
    ),
}


def test_a_split_without_any_expressions_is_left_out(tmp_path):
    root = make_davis(tmp_path / "data", "list")
    edit_davis(lambda records: records[4:])(root)
    assert list(load_refseg("ref_davis17", root, cache_dir=str(tmp_path / "cache"))) == ["val"]


def test_sentences_about_an_object_that_no_picture_shows_are_left_out(tmp_path, caplog):
    root = make_youtube_vos(tmp_path / "data")
    in_youtube_train(lambda video: video["expressions"]["2"].update(obj_id="3"))(root)
    rows = load_refseg("ref_youtube_vos", root, cache_dir=str(tmp_path / "cache"))["train"]
    assert [referent["ref_id"] for referent in rows[1]["referents"]] == ["t2_1"]
    assert "objects that no label picture shows, left out with their sentences (1): " in caplog.text
    assert "video t2: object 3." in caplog.text


@pytest.mark.parametrize("case", DAVIS_DAMAGE)
def test_bad_ref_davis17(case, tmp_path):
    check_damage("ref_davis17", make_davis(tmp_path / "data", "list"), *DAVIS_DAMAGE[case])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("two second thing", "annot2.txt: line 4 should read: video object"),
        ('two 2 "again"', "annot2.txt: line 4: object 2 of two is described twice"),
        ('new 1 "late"', "annot2.txt: line 4: object 1 of new .*lacks a line in an earlier file"),
    ],
)
def test_bad_text_of_ref_davis17(line, message, tmp_path):
    root = make_davis(tmp_path / "data", "texts")
    path = root / "davis_text_annotations/Davis17_annot2.txt"
    check_damage("ref_davis17", root, lambda _: path.write_text(path.read_text() + line + "\n"), message)


H5 = "a2d_annotation_with_instances/b/00020.h5"


def write_h5_content(root: Path, **content: Any) -> None:
    import h5py

    with h5py.File(root / H5, "w") as file:
        for name, value in content.items():
            file[name] = value


def link_h5(root: Path) -> None:
    """A mask that lies in another file of this computer."""
    import h5py

    write_h5_content(root, instance=[3.0])
    with h5py.File(root / "private.h5", "w") as file:
        file["secret"] = np.ones((WIDTH, HEIGHT), np.uint8)
    with h5py.File(root / H5, "a") as file:
        file["reMask"] = h5py.ExternalLink(str(root / "private.h5"), "/secret")


def store_h5_outside(root: Path) -> None:
    import h5py

    write_h5_content(root, instance=[3.0])
    (root / "private.bin").write_bytes(bytes(WIDTH * HEIGHT))
    with h5py.File(root / H5, "a") as file:
        outside = [(str(root / "private.bin"), 0, WIDTH * HEIGHT)]
        file.create_dataset("reMask", (WIDTH, HEIGHT), np.uint8, external=outside)


def write_chunks_h5(root: Path, packed: bytes, **options: Any) -> None:
    """A mask that says it is small; its only chunk is as given."""
    import h5py

    write_h5_content(root, instance=[3.0])
    with h5py.File(root / H5, "a") as file:
        mask = file.create_dataset("reMask", (WIDTH, HEIGHT), np.uint8, chunks=(WIDTH, HEIGHT), **options)
        mask.id.write_direct_chunk((0, 0), packed)


def replace_in(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new))


A2D_DAMAGE = {
    "infinite instance": (
        lambda root: write_h5_content(root, instance=[float("inf")], reMask=np.ones((WIDTH, HEIGHT))),
        r"00020.h5 .*lists the instances \[inf\], expected whole numbers",
    ),
    "huge instance": (
        lambda root: write_h5_content(root, instance=[1e300], reMask=np.ones((WIDTH, HEIGHT))),
        r"00020.h5 .*lists the instances \[1e\+300\], expected whole numbers",
    ),
    "endless number": (replace_in("a2d_annotation.txt", "b,1,ball", f"b,{'1' * 5000},ball"), "line 5 should be video"),
    "empty frames": (
        lambda root: [path.unlink() for path in (root / "Release/frames/b").iterdir()],
        "video b has no frames in .*Release/frames/b, found nothing. Extract",
    ),
    "frame twice": (
        lambda root: shutil.copy(root / H5, (root / H5).with_name("20.h5")),
        "20.h5 and 00020.h5 .*b.* are both of frame 20",
    ),
    "train and test": (
        lambda root: (root / "Release/videoset.csv").open("a").write("b,21,0:00,0:03,12,20,30,2,0\n"),
        "videoset.csv: video b is listed twice, with different values",
    ),
    "no HDF5": (lambda root: (root / H5).write_bytes(b"MATLAB" * 50), "00020.h5 .*cannot be read as HDF5"),
    "no mask": (lambda root: write_h5_content(root, instance=[3.0]), "00020.h5 .*no dataset 'reMask' of its own"),
    "text": (lambda root: write_h5_content(root, instance=[3.0], reMask="x"), "'reMask' should be numbers"),
    "linked": (link_h5, "no dataset 'reMask' of its own"),
    "larger than it says": (
        lambda root: write_chunks_h5(root, zlib.compress(bytes(10**6)), compression="gzip"),
        "00020.h5 .*'reMask' is larger than it says",
    ),
    "packed damage": (
        lambda root: write_chunks_h5(root, b"no stream", compression="gzip"),
        "00020.h5 .*cannot be read as HDF5",
    ),
    "odd packing": (
        lambda root: write_chunks_h5(root, b"x", compression="lzf"),
        "'reMask' is .* packed in an odd way",
    ),
    "outside": (store_h5_outside, "no dataset 'reMask' of its own"),
    "masks missing": (
        lambda root: write_h5_content(root, instance=[1.0, 3.0], reMask=np.ones((WIDTH, HEIGHT))),
        r"lists the instances \[1, 3\] and has masks of the shape \(1, 20, 12\)",
    ),
    "not transposed": (
        lambda root: write_h5_content(root, instance=[3.0], reMask=np.ones((HEIGHT, WIDTH))),
        "the mask is 20 x 12 .*its picture 12 x 20",
    ),
    "frame missing": (
        lambda root: (root / "Release/frames/b/00020.png").unlink(),
        "b: frame 20, which .*00020.h5 annot",
    ),
    "frame number": (
        lambda root: write_frame(root / "Release/frames/b/123456789123456789.png", 1),
        "b: the frame .*123456789123456789.png is beyond number 10000",
    ),
    "no frames": (lambda root: shutil.rmtree(root / "Release/frames/b"), "b: neither .*b.mp4 nor the folder"),
    "no annotations": (lambda root: shutil.rmtree((root / H5).parent), "b has no annotations in .*missed video"),
    "frame name": (lambda root: (root / H5).rename((root / H5).with_name("x.h5")), "named by the number of its frame"),
    "no videos": (
        lambda root: (root / "Release/videoset.csv").write_text("c,21,0:00,0:03,12,20,30,2,1\n"),
        "videoset.csv lists none of the videos of .*a2d_annotation.txt",
    ),
    "split two": (replace_in("Release/videoset.csv", "30,2,1", "30,2,2"), "videoset.csv: video b .*found '2'"),
    "columns": (replace_in("a2d_annotation.txt", "b,1,ball", "b,ball"), "line 5 should be video_id, instance_id"),
    "instance": (replace_in("a2d_annotation.txt", "b,1,ball", "b,one,ball"), "line 5 should be video_id, instance_id"),
    "empty query": (replace_in("a2d_annotation.txt", "b,1,ball", "b,1, "), "expression b_1_0 should be a text"),
    "outside name": (replace_in("a2d_annotation.txt", "b,1,ball", "../b,1,ball"), "'../b' is no name"),
    "no list": (lambda root: (root / "a2d_missed_videos.txt").unlink(), "a2d_missed_videos.txt does not exist"),
}


@pytest.mark.parametrize("case", A2D_DAMAGE)
def test_bad_a2d(case, tmp_path):
    check_damage("a2d_sentences", make_a2d(tmp_path / "data"), *A2D_DAMAGE[case])


def test_a_damaged_or_short_video_file_is_named(tmp_path):
    root = make_a2d(tmp_path / "data")
    for video in ("a", "b"):
        write_video(root, video)
    path = root / "Release/clips320H/b.mp4"
    (root / H5).rename((root / H5).with_name("00099.h5"))
    check_damage("a2d_sentences", root, lambda _: None, "video b: frame 99, which .*00099.h5 annotates, is missing")
    check_damage("a2d_sentences", root, lambda _: path.write_bytes(b"<html>404"), "video b: .*b.mp4 is damaged")


def test_a2d_reads_a_video_whose_title_is_in_another_encoding(tmp_path):
    root = make_a2d(tmp_path / "data")
    for video in ("a", "b"):
        write_video(root, video, title="caf\u00e9")
        path = root / f"Release/clips320H/{video}.mp4"
        path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9s"))
    assert len(load("a2d_sentences", root, context_frames=0)["train"][0]["frames"]) == 2


def test_a_video_file_of_endless_length_is_named(tmp_path, monkeypatch):
    root = make_a2d(tmp_path / "data")
    for video in ("a", "b"):
        write_video(root, video)
    monkeypatch.setattr(a2d_sentences, "MAX_FRAMES", A2D_LENGTH - 1)
    with pytest.raises(DataFormatError, match=r"video a: .*a.mp4 has more than 29 frames"):
        load("a2d_sentences", root, context_frames=None)


def edit_jhmdb(edit: Callable[[list[list[Any]]], Any]) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "samples_metadata.json", edit)


def set_field(place: int, value: Any) -> Callable[[Path], None]:
    return edit_jhmdb(lambda samples: samples[4].__setitem__(place, value))


MAT = "puppet_mask/run/j2/puppet_mask.mat"


def write_growing_mat(root: Path) -> None:
    """Masks that say they are small, with more than a hundred thousand bytes behind them."""
    write_mat(root / MAT, {"part_mask": np.ones((HEIGHT, WIDTH, 6), np.uint8)})
    content = (root / MAT).read_bytes()
    head, masks = content[:128], content[136:]
    values = struct.pack("<2I", 2, 200_000) + bytes(200_000)
    masks = masks[: masks.index(b"part_mask") + 16] + values
    packed = zlib.compress(struct.pack("<2I", 14, len(masks)) + masks)
    (root / MAT).write_bytes(head + struct.pack("<2I", 15, len(packed)) + packed)


JHMDB_DAMAGE = {
    "leaves by path": (set_field(1, "./jhmdb_sentences/../../secret/00002.png"), "position 4: the path .* leads out"),
    "absolute path": (set_field(2, "/etc/passwd"), "position 4: '/etc/passwd' is no path inside"),
    "short record": (
        edit_jhmdb(lambda samples: samples.__setitem__(4, samples[4][:4])),
        "position 4 should be a list of five",
    ),
    "true": (set_field(3, True), "position 4 should end in a number of frames"),
    "half a character": (set_field(4, "\ud800"), "video j2: expression j2_1 has half a character"),
    "half a character in a path": (set_field(2, "puppet_mask/\ud800.mat"), "position 4: .* is no path inside"),
    "long path": (set_field(1, f"Rename_Images/run/{'j' * 300}/00002.png"), "position 4: .* is no path inside"),
    "long number": (set_field(1, f"Rename_Images/run/j2/{'1' * 200}.png"), "frames 1 to 6, but .* is listed"),
    "endless": (set_field(3, 10**9), "position 4 should end in a number of frames up to 10000"),
    "empty text": (set_field(4, ""), "video j2: expression j2_1 should be a text"),
    "frame beyond": (set_field(1, "Rename_Images/run/j2/00007.png"), "frames 1 to 6, but 00007.png is listed"),
    "other length": (set_field(3, 5), "video j2 has another folder, mask file or length"),
    "object": (lambda root: write_json(root / "samples_metadata.json", {}), "should hold a list of samples"),
    "frame missing": (
        lambda root: (root / "Rename_Images/run/j2/00003.png").unlink(),
        "its frame .*00003.png does not",
    ),
    "mat missing": (lambda root: (root / MAT).unlink(), "puppet_mask.mat does not exist"),
    "mat text": (
        lambda root: (root / MAT).write_text("<html>404</html>" * 20),
        "puppet_mask.mat .*(another version|read)",
    ),
    "mat pickle": (lambda root: (root / MAT).write_bytes(pickle.dumps([1] * 200)), "puppet_mask.mat .*(version|read)"),
    "mat cut": (lambda root: (root / MAT).write_bytes((root / MAT).read_bytes()[:180]), "puppet_mask.mat .*cannot be"),
    "mat version": (
        lambda root: write_mat(root / MAT, {"part_mask": np.ones((3, 4))}, format="4"),
        "found another version",
    ),
    "other variable": (lambda root: write_mat(root / MAT, {"mask": np.ones((3, 4, 6))}), "with 'part_mask'.*mask"),
    "two axes": (lambda root: write_mat(root / MAT, {"part_mask": np.ones((3, 4))}), "height, width, frames.*found"),
    "cells": (
        lambda root: write_mat(root / MAT, {"part_mask": np.full((1, 1, 6), "x", dtype=object)}),
        "height, width, frames.*cell",
    ),
    "few frames": (
        lambda root: write_mat(root / MAT, {"part_mask": np.ones((HEIGHT, WIDTH, 4), np.uint8)}),
        "has masks of 4 frames; frame 5 is listed",
    ),
    "other size": (
        lambda root: write_mat(root / MAT, {"part_mask": np.ones((WIDTH, HEIGHT, 6), np.uint8)}),
        "the mask is 20 x 12 .*its picture 12 x 20",
    ),
}


@pytest.mark.parametrize("case", JHMDB_DAMAGE)
def test_bad_jhmdb(case, tmp_path):
    check_damage("jhmdb_sentences", make_jhmdb(tmp_path / "data"), *JHMDB_DAMAGE[case])


def test_masks_that_grow_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(jhmdb_sentences, "MAX_PIXELS", 100_000)
    root = make_jhmdb(tmp_path / "data")
    assert len(load("jhmdb_sentences", root)["test"]) > 0
    check_damage("jhmdb_sentences", root, write_growing_mat, "puppet_mask.mat .*unpacks to more than 100000 bytes")


def test_videos_that_repeat_are_said_once_with_their_number(tmp_path, caplog):
    davis = make_davis(tmp_path / "davis" / "data", "list")
    (davis / "ImageSets/2017/val.txt").write_text("two\ntwo\nbear\n")
    dataset = load("ref_davis17", davis)
    assert {split: rows["video_id"][:] for split, rows in dataset.items()} == {
        "train": ["bear"],
        "val": ["two", "bear"],
    }

    a2d = make_a2d(tmp_path / "a2d" / "data")
    table = a2d / "Release/videoset.csv"
    table.write_text(table.read_text() * 3)
    shutil.copy(a2d / "Release/frames/b/00007.png", a2d / "Release/frames/b/00006.jpg")
    frames = load("a2d_sentences", a2d)["test"][0]["frames"]
    assert [round(np.asarray(frame).mean()) for frame in frames[4:7]] == [25, 30, 35]

    jhmdb = make_jhmdb(tmp_path / "jhmdb" / "data")
    edit_jhmdb(lambda samples: samples.append(samples[0]))(jhmdb)
    assert len(load("jhmdb_sentences", jhmdb)["test"]) == 2

    once = "each of them counts once."
    frame = "./jhmdb_sentences/Rename_Images/run/j1/00002.png"
    assert [record.getMessage() for record in caplog.records] == [
        f"{davis}/ImageSets/2017/val.txt: 1 videos come more than once, such as two (2 times): {once}",
        f"{davis}: 1 videos come more than once, such as bear (2 times): each of them is a row of every split that "
        "lists it.",
        f"{table}: 2 videos come more than once, such as a (3 times): {once}",
        f"{a2d}/a2d_annotation.txt: video b ({a2d}/Release/frames/b): 1 frames come more than once, such as 6 "
        "(2 times): the last file counts.",
        f"{jhmdb}/samples_metadata.json: 1 samples come more than once, such as ('j1', '{frame}', 'j1 runs') "
        f"(2 times): {once}",
    ]


# --- bad records that are skipped ----------------------------------------------------------------------------------

SKIPPED = {
    "video": (
        "ref_youtube_vos",
        in_youtube_train(lambda v: v.update(frames=[])),
        {"train": ["t1"]},
        "t2 has no frames",
    ),
    "name": ("ref_youtube_vos", rename_video("../t2"), {"train": ["t1"]}, "'../t2' is no name"),
    "line": (
        "a2d_sentences",
        replace_in("a2d_annotation.txt", "b,1,ball", "b,ball"),
        {"test": ["b"]},
        "line 5 should",
    ),
    "usage": ("a2d_sentences", replace_in("Release/videoset.csv", "30,2,1", "30,2,2"), {"train": ["a"]}, "found '2'"),
    "annotator": ("ref_davis17", edit_davis(lambda records: records[:-1]), {"val": ["two"]}, "object 2 has 3 express"),
    "record": (
        "ref_davis17",
        edit_davis(lambda records: records[0].update(rest=1)),
        {"val": ["two"]},
        "'rest' should",
    ),
    "sample": ("jhmdb_sentences", set_field(3, True), {"test": ["j1", "j2"]}, "position 4 should end in a number"),
    "mat": ("jhmdb_sentences", lambda root: (root / MAT).unlink(), {"test": ["j1"]}, "puppet_mask.mat does not exist"),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_a_bad_record_is_skipped_when_asked(case, tmp_path, caplog):
    name, damage, videos, message = SKIPPED[case]
    make = {"ref_youtube_vos": make_youtube_vos, "a2d_sentences": make_a2d, "jhmdb_sentences": make_jhmdb}
    root = make[name](tmp_path / "data") if name in make else make_davis(tmp_path / "data", "list")
    damage(root)
    with pytest.raises(DataFormatError, match=message):
        load(name, root)
    caplog.clear()
    dataset = load(name, root, on_bad_record="skip")
    assert {split: dataset[split]["video_id"][:] for split in videos} == videos
    assert message in " ".join(notes(caplog))


@pytest.mark.parametrize("name", ["ref_youtube_vos", "jhmdb_sentences"])
def test_masks_of_another_size_are_resized_when_asked(name, tmp_path, caplog):
    root = {"ref_youtube_vos": make_youtube_vos, "jhmdb_sentences": make_jhmdb}[name](tmp_path / "data")
    if name == "jhmdb_sentences":
        write_mat(root / MAT, {"part_mask": np.ones((24, 40, JHMDB_LENGTH))})
    else:
        write_labels(root / LABELS, np.ones((24, 40), np.uint8))
    with pytest.raises(DataFormatError, match=r"the mask is 24 x 40 .*on_size_mismatch"):
        load(name, root)
    caplog.clear()
    rows = next(iter(load(name, root, on_size_mismatch="resize_mask").values()))
    masks = masks_of(rows[1]["referents"][0])
    assert all(mask.shape == (HEIGHT, WIDTH) for mask in masks) and masks[2].all()
    assert "masks resized to their pictures" in " ".join(notes(caplog))


def test_a_split_without_one_good_record_is_an_error(tmp_path):
    root = make_a2d(tmp_path / "data")
    (root / H5).write_bytes(b"x")
    with pytest.raises(DataFormatError, match=r"no record of the split 'test' .*00020.h5 .*cannot be read as HDF5"):
        load("a2d_sentences", root, on_bad_record="skip")
    assert load("a2d_sentences", root, on_bad_record="skip", splits=["train"])["train"]["video_id"][:] == ["a"]


def test_sentences_of_jhmdb_are_checked(tmp_path):
    root = release_jhmdb(tmp_path / "data")
    for lines, message in (
        ("", "jhmdb_annotation.txt lists no video"),
        ("j2,j2 runs\nj1", "line 3 should be video_id and query"),
        ("j2,j2 runs\nj3,j3 runs", "line 3: video j3 has no folder .*Rename_Images/<action>/<video>"),
        ("j2,j2 runs\n../run,x", "line 3: video ../run has no folder"),
    ):
        (root / "jhmdb_annotation.txt").write_text(f"video_id,query\n{lines}\n")
        with pytest.raises(DataFormatError, match=message):
            load("jhmdb_sentences", root)
    (root / "jhmdb_annotation.txt").write_text("video_id,query\nj3,j3 runs\n")
    with pytest.raises(DataFormatError, match=r"no record of the split 'test' can be read.* video j3 has no folder"):
        load("jhmdb_sentences", root, on_bad_record="skip")
    shutil.copytree(root / "Rename_Images/run/j1", root / "Rename_Images/walk/j1")
    with pytest.raises(DataFormatError, match=r"walk/j1 and .*run/j1 are both of one video"):
        load("jhmdb_sentences", root)


def test_only_ends_of_lines_end_lines(tmp_path):
    root = make_davis(tmp_path / "data", "texts")
    path = root / "davis_text_annotations/Davis17_annot1.txt"
    path.write_bytes(path.read_text().replace("bear 1 by 0", "a bear\u2028by a tree").replace("\n", "\r\n").encode())
    (bear,) = load("ref_davis17", root)["train"][0]["referents"]
    assert bear["sentences"][0] == sentence("1-0", "a bear\u2028by a tree", "a bear by a tree", "0")


def test_a_text_with_zeros_is_none(tmp_path):
    root = make_davis(tmp_path / "data", "texts")
    path = root / "davis_text_annotations/Davis17_annot2.txt"
    path.write_bytes(path.read_text().encode("utf-16"))
    with pytest.raises(DataFormatError, match=r"Davis17_annot2.txt is no text in UTF-8\. Save it in UTF-8"):
        load("ref_davis17", root)


def test_wrong_arguments(tmp_path):
    for arguments, message in (
        ({}, "pass data_dir"),
        ({"data_dir": tmp_path, "split_by": "unc"}, "leave split_by out"),
        ({"data_dir": tmp_path, "context_frames": 3}, "ref_davis17 has no option 'context_frames'"),
        ({"data_dir": tmp_path / "absent"}, "absent does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            load_refseg("ref_davis17", **arguments)
    with pytest.raises(ValueError, match="context_frames is -1"):
        load("a2d_sentences", make_a2d(tmp_path / "data"), context_frames=-1)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"jhmdb_sentences needs scipy: pip install 'hf_refseg\[video\]'"):
        load("jhmdb_sentences", make_jhmdb(tmp_path / "data"))


# --- prepare -------------------------------------------------------------------------------------------------------


def test_prepared_videos_read_back_without_their_files(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    original = load("ref_youtube_vos", root)
    output = prepare_dataset(
        "ref_youtube_vos", root, tmp_path / "prepared", max_shard_rows=1, cache_dir=tmp_path / "cache"
    )
    bytes_of_frame = (root / "train/JPEGImages/t2/00015.jpg").read_bytes()
    expected = {split: rows.remove_columns("frames").to_list() for split, rows in original.items()}
    shutil.rmtree(root)
    read = load_refseg(str(output), cache_dir=str(tmp_path / "read"))
    assert {split: rows.remove_columns("frames").to_list() for split, rows in read.items()} == expected
    assert read["train"].features == video_features()
    rows = read["train"].cast_column("frames", datasets.List(datasets.Image(decode=False)))
    assert rows[1]["frames"][3]["bytes"] == bytes_of_frame
    card = (output / "README.md").read_text()
    assert "| train | 4 | 6 | 2 |" in card and str(tmp_path) not in card
    assert len(list(output.glob("data/train-*.parquet"))) == 2


def test_prepare_names_a_damaged_frame(tmp_path):
    root = make_youtube_vos(tmp_path / "data")
    frame = root / "valid/JPEGImages/v1/00005.jpg"
    frame.write_bytes(frame.read_bytes()[:-40])
    with pytest.raises(DataFormatError, match=r"00005.jpg \(video v1, frame 00005\) is damaged or no image"):
        prepare_dataset("ref_youtube_vos", root, tmp_path / "prepared", cache_dir=tmp_path / "cache")


# --- real files ----------------------------------------------------------------------------------------------------


@needs_real("davis_car_shadow")
def test_real_davis_video(tmp_path):
    root = tmp_path / "data"
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("car-shadow\n")
    for name in ("JPEGImages", "Annotations", "ref_davis17_expressions.json"):
        (root / name).symlink_to(REAL / "davis_car_shadow" / name)
    dataset = load("ref_davis17", root)
    assert list(dataset) == ["val"]
    (row,) = dataset["val"]
    assert len(row["frames"]) == 40 and row["frames"][39].size == (854, 480)
    (car,) = row["referents"]
    assert [(found["raw"], found["annotator"]) for found in car["sentences"]] == [
        ("a silver car", "0"),
        ("a white car crossing a signal", "1"),
        ("a car on the road", "2"),
        ("a sliver car going from shade to sunlight", "3"),
    ]
    assert len(car["masks"]) == 40
    with Image.open(REAL / "davis_car_shadow/Annotations/480p/car-shadow/00007.png") as picture:
        truth = np.asarray(picture) > 0
    assert truth.any() and np.array_equal(decode_mask(car["masks"][7]), truth)


@needs_real("ref_youtube_vos")
def test_real_expressions_of_refer_youtube_vos(tmp_path):
    content = json.loads((REAL / "ref_youtube_vos/meta_expressions_valid_test.json").read_text())
    videos = dict(list(content["videos"].items())[:12])
    root = tmp_path / "data"
    write_json(root / "meta_expressions/valid/meta_expressions.json", {"videos": videos})
    of_test = dict(list(videos.items())[5:])
    write_json(root / "meta_expressions/test/meta_expressions.json", {"videos": of_test})
    for video, record in videos.items():
        for number, name in enumerate(record["frames"]):
            write_frame(root / "valid/JPEGImages" / video / f"{name}.jpg", number % 50)
    dataset = load("ref_youtube_vos", root)
    assert dataset["test"]["video_id"][:] == list(of_test)
    assert dataset["valid"]["video_id"][:] == list(videos)[:5]
    for row in dataset["valid"].remove_columns("frames"):
        expressions = videos[row["video_id"]]["expressions"]
        found = {r["sentences"][0]["sent_id"]: r["sentences"][0]["raw"] for r in row["referents"]}
        assert found == {sent_id: expression["exp"] for sent_id, expression in expressions.items()}


@needs_real("jhmdb_sentences")
def test_real_samples_of_jhmdb(tmp_path):
    samples = json.loads((REAL / "jhmdb_sentences/samples_metadata.json").read_text())[:6]
    root = tmp_path / "data"
    write_json(root / "samples_metadata.json", samples)
    for _, frame, mask, length, _ in samples:
        folder = root / Path(frame).relative_to("jhmdb_sentences").parent
        for number in range(1, length + 1):
            write_frame(folder / f"{number:05d}.png", number)
        write_mat(
            root / Path(mask).relative_to("jhmdb_sentences"),
            {"part_mask": np.ones((HEIGHT, WIDTH, length), dtype=np.uint8)},
        )
    rows = load("jhmdb_sentences", root)["test"]
    assert rows["video_id"][:] == [samples[0][0], samples[3][0]]
    (referent,) = rows[0]["referents"]
    assert (referent["annotated_frames"], referent["category"]) == ([1, 7, 17], "pullup")
    assert referent["sentences"][0]["raw"] == "man in black pulling up"


@needs_real("jhmdb_sentences")
def test_the_frames_of_the_real_list_are_drawn():
    videos: dict[str, tuple[int, list[int]]] = {}
    for video, frame, _, length, _ in json.loads((REAL / "jhmdb_sentences/samples_metadata.json").read_text()):
        videos.setdefault(video, (length, []))[1].append(int(Path(frame).stem))
    listed = [videos[video] for video in sorted(videos)]
    assert len(listed) == jhmdb_sentences.VIDEOS and sum(length for length, _ in listed) == jhmdb_sentences.FRAMES
    assert jhmdb_sentences.draw_frames([length for length, _ in listed]) == [numbers for _, numbers in listed]


@needs_real("a2d_sentences")
def test_real_sentences_of_a2d(tmp_path, caplog):
    """All 3,754 videos are listed, one of them is here."""
    root = make_a2d(tmp_path / "data")
    shutil.copy(REAL / "a2d_sentences/a2d_annotation.txt", root / "a2d_annotation.txt")
    lines = (root / "a2d_annotation.txt").read_text().splitlines()[1:]
    videos = dict.fromkeys(line.split(",")[0] for line in lines)
    (root / "Release/videoset.csv").write_text("".join(f"{video},21,0:00,0:03,12,20,30,2,1\n" for video in videos))
    for folder in (root / "Release/frames", root / "a2d_annotation_with_instances"):
        (folder / "b").rename(folder / "T6bNPuKV-wY")
    (row,) = load("a2d_sentences", root, on_bad_record="skip", splits=["test"])["test"]
    assert [[each["raw"] for each in referent["sentences"]] for referent in row["referents"]] == [
        ["a man in black suit standing on the right"],
        ["Guy in yellow jacket standing in the front"],
    ]
    copied, skipped, unseen = notes(caplog)
    assert copied.endswith("another line has them (1): a2d_annotation.txt: line 3181: T6bNPuKV-wY.")
    assert "instances that no annotated frame lists" in unseen and len(lines) == 6655
    assert "bad records, which are left out (3753): a2d_annotation.txt: video --h5fAKYurM has no ann" in skipped
