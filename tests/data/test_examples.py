"""Examples: every row and sentence as it stands, sentences drawn reproducibly, images opened only when asked for."""

import io

import datasets
import numpy as np
import pytest
from fresh_process import PROCESSES
from PIL import Image, ImageOps
from torch.utils.data import DataLoader

from hf_refseg.data.examples import ImageExamples, ReferentExamples, RefSegCollator, SentenceExamples, read_image_file
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.masks import InvalidMaskError, decode_mask, encode_mask, mask_to_bbox
from hf_refseg.data.rows import DataFormatError, InvalidRowError, row_features


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Rows of 15 images, several referents and sentences each, some without a target."""
    cache_dir = str(tmp_path_factory.mktemp("examples"))
    return load_refseg("grefshapes", train_size=15, val_size=1, test_size=1, image_size=64, cache_dir=cache_dir)[
        "train"
    ]


def image_bytes(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def make_row(number=0, image=None, mask=None, raws=("red circle",), image_id="image", sentences=None):
    mask = np.eye(8, 10, dtype=bool) if mask is None else mask
    return {
        "image": image or {"bytes": image_bytes(Image.new("RGB", (10, 8), (9, 8, 7))), "path": None},
        "image_id": image_id,
        "ref_id": f"ref-{number}",
        "ann_ids": [str(number)],
        "category": "circle",
        "mask": mask if isinstance(mask, dict) else encode_mask(mask),
        "bbox": [0.0] * 4 if isinstance(mask, dict) else mask_to_bbox(mask),
        "no_target": False,
        "sentences": sentences
        or [{"sent_id": f"ref-{number}-{k}", "raw": raw, "sent": raw.strip().lower()} for k, raw in enumerate(raws)],
    }


def dataset_of(*made_rows):
    return datasets.Dataset.from_list(list(made_rows), features=row_features())


def texts_of(examples):
    return [item["text"] for item in examples]


# --- ReferentExamples ----------------------------------------------------------------------------------------------


def test_an_item_is_its_row_with_one_of_its_sentences(rows):
    examples = ReferentExamples(rows)
    assert len(examples) == len(rows)
    for item, row in zip(examples, rows, strict=True):
        assert set(item) == {"image", "text", "mask", "image_id", "ref_id", "sent_id", "no_target"}
        assert {"sent_id": item["sent_id"], "raw": item["text"], "sent": item["text"]} in row["sentences"]
        assert item["mask"].dtype == bool and np.array_equal(item["mask"], decode_mask(row["mask"]))
        assert item["image"].mode == "RGB" and np.array_equal(np.asarray(item["image"]), np.asarray(row["image"]))
        assert all(item[name] == row[name] for name in ("image_id", "ref_id", "no_target"))
        assert item["no_target"] == (not item["mask"].any())


def test_the_sentence_depends_on_seed_epoch_and_index_alone(rows):
    def drawn(seed, epoch, order):
        examples = ReferentExamples(rows, seed=seed)
        examples.set_epoch(epoch)
        return {index: examples[index]["sent_id"] for index in order}

    indices = list(range(len(rows)))
    first = drawn(3, 5, indices)
    assert drawn(3, 5, indices[::-1]) == first
    assert drawn(3, 5, indices[::2]) == {index: first[index] for index in indices[::2]}
    assert drawn(3, 6, indices) != first
    assert drawn(4, 5, indices) != first


def test_the_items_of_a_batch_are_those_that_are_read_one_by_one(rows):
    examples = ReferentExamples(rows, seed=3)
    examples.set_epoch(2)
    indices = [4, 0, -1, 4, len(rows) - 2]
    one_by_one = [examples[index] for index in indices]
    for index, row in enumerate(rows):
        drawn = row["sentences"][examples.generator_of(index).randrange(len(row["sentences"]))]
        assert examples[index]["sent_id"] == examples[index - len(rows)]["sent_id"] == drawn["sent_id"]
    (loaded,) = DataLoader(examples, batch_sampler=[indices], collate_fn=list)
    for read in (examples.__getitems__(indices), loaded):
        for item, expected in zip(read, one_by_one, strict=True):
            assert item.keys() == expected.keys()
            assert all(np.array_equal(item[name], expected[name]) for name in item)
    for index in (len(rows), -len(rows) - 1):
        with pytest.raises(IndexError):
            examples.__getitems__([0, index])


def test_the_rows_of_a_batch_leave_their_table_together(rows, monkeypatch):
    asked, take = [], datasets.Dataset.__getitems__
    monkeypatch.setattr(datasets.Dataset, "__getitems__", lambda self, keys: asked.append(keys) or take(self, keys))
    list(DataLoader(ReferentExamples(rows), batch_size=4, collate_fn=list))
    assert [index for batch in asked for index in batch] == list(range(len(rows)))
    assert len(asked) == -(-len(rows) // 4)


def test_the_items_of_a_batch_are_made_one_at_a_time_and_a_bad_row_is_named():
    good, bad = make_row(0), make_row(1, image={"bytes": b"no picture", "path": None})
    items = ReferentExamples(dataset_of(good, bad)).read([0, 1])
    assert next(items)["ref_id"] == "ref-0"
    with pytest.raises(InvalidRowError, match="image of row ref-1 "):
        next(items)


def test_every_sentence_of_a_row_is_drawn_about_equally_often():
    examples = ReferentExamples(dataset_of(make_row(raws=("a", "b", "c"))))
    drawn = []
    for epoch in range(300):
        examples.set_epoch(epoch)
        drawn.append(examples[0]["text"])
    assert all(70 <= drawn.count(text) <= 130 for text in "abc")


def test_the_raw_sentence_is_given():
    assert ReferentExamples(dataset_of(make_row(raws=(" Red CIRCLE!",))))[0]["text"] == " Red CIRCLE!"


@pytest.mark.parametrize("start", ["fork", PROCESSES], ids=["fork", "a process that knows nothing"])
def test_a_new_epoch_reaches_a_worker_that_lives_on(rows, start):
    examples = ReferentExamples(rows, seed=1)
    loader = DataLoader(
        examples,
        batch_size=4,
        num_workers=1,
        persistent_workers=True,
        collate_fn=texts_of,
        multiprocessing_context=start,
    )
    seen = []
    for epoch in (0, 1, 7):
        examples.set_epoch(epoch)
        seen.append([text for batch in loader for text in batch])
    for epoch, texts in zip((0, 1, 7), seen, strict=True):
        alone = ReferentExamples(rows, seed=1)
        alone.set_epoch(epoch)
        assert texts == texts_of(alone)
    assert len({tuple(texts) for texts in seen}) == 3


# --- SentenceExamples and ImageExamples ----------------------------------------------------------------------------


def test_sentence_examples_are_all_sentences_in_row_order(rows):
    examples = SentenceExamples(rows)
    expected = [(row["ref_id"], sentence["sent_id"], sentence["raw"]) for row in rows for sentence in row["sentences"]]
    assert len(examples) == len(expected) > len(rows)
    assert [(item["ref_id"], item["sent_id"], item["text"]) for item in examples] == expected
    masks = {row["ref_id"]: decode_mask(row["mask"]) for row in rows}
    assert all(np.array_equal(item["mask"], masks[item["ref_id"]]) for item in examples)


def test_image_examples_are_the_sentence_examples_grouped(rows):
    images = ImageExamples(rows)
    assert len(images) == len(set(rows["image_id"])) == 15
    sentences = iter(SentenceExamples(rows))
    for item in images:
        assert set(item) == {"image", "image_id", "texts", "masks", "ref_ids", "sent_ids", "no_targets"}
        columns = (item["texts"], item["masks"], item["ref_ids"], item["sent_ids"], item["no_targets"])
        for text, mask, ref_id, sent_id, no_target in zip(*columns, strict=True):
            one = next(sentences)
            assert (one["image_id"], one["text"], one["ref_id"]) == (item["image_id"], text, ref_id)
            assert (one["sent_id"], one["no_target"]) == (sent_id, no_target)
            assert np.array_equal(one["mask"], mask)
            assert np.array_equal(np.asarray(one["image"]), np.asarray(item["image"]))
    assert next(sentences, None) is None


def test_a_selection_of_rows_is_respected(rows):
    selection = rows.select([9, 3, 4])
    expected = [sentence["sent_id"] for row in selection for sentence in row["sentences"]]
    assert [item["sent_id"] for item in SentenceExamples(selection)] == expected
    assert [sent_id for item in ImageExamples(selection) for sent_id in item["sent_ids"]] == expected
    assert [item["ref_id"] for item in ReferentExamples(selection)] == selection["ref_id"][:]


def test_an_image_is_opened_once_for_all_its_sentences(monkeypatch):
    dataset = dataset_of(make_row(0, raws=("a", "b")), make_row(1, raws=("c",)), make_row(2, image_id="other"))
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args) or open_image(*args, **options))
    examples = ImageExamples(dataset)
    assert not opened, "nothing is decoded before an item is asked for"
    assert examples[0]["texts"] == ["a", "b", "c"] and examples[0]["ref_ids"] == ["ref-0", "ref-0", "ref-1"]
    assert len(opened) == 2


@pytest.mark.parametrize("view", [ReferentExamples, SentenceExamples, ImageExamples])
def test_indices_count_from_both_ends_and_end(rows, view):
    examples = view(rows)
    last = len(examples) - 1
    key = "image_id" if view is ImageExamples else "sent_id"
    assert examples[-1][key] == examples[last][key]
    with pytest.raises(IndexError):
        examples[last + 1]
    assert len(view(rows.select([]))) == 0


# --- Images as they come -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    source = {"bytes": image_bytes(Image.new(mode, (10, 8))), "path": None}
    image = ReferentExamples(dataset_of(make_row(image=source)))[0]["image"]
    assert image.mode == "RGB" and image.size == (10, 8)


def test_the_stored_orientation_is_kept():
    """Masks outline the stored pixels; `datasets` on its own would turn the image and leave the mask."""
    exif = Image.Exif()
    exif[0x0112] = 6
    source = {"bytes": image_bytes(Image.new("RGB", (10, 8)), format="JPEG", exif=exif.tobytes()), "path": None}
    dataset = dataset_of(make_row(image=source))
    assert dataset[0]["image"].size == (8, 10)
    for view in (ReferentExamples, SentenceExamples, ImageExamples):
        image = view(dataset)[0]["image"]
        assert image.size == (10, 8)
        assert ImageOps.exif_transpose(image).size == (10, 8)


def test_images_in_files_are_read(tmp_path):
    Image.new("RGB", (10, 8), (1, 2, 3)).save(tmp_path / "picture.png")
    dataset = dataset_of(make_row(image={"bytes": None, "path": str(tmp_path / "picture.png")}))
    assert SentenceExamples(dataset)[0]["image"].getpixel((0, 0)) == (1, 2, 3)


# --- Bad rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [ReferentExamples, SentenceExamples, ImageExamples])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mask": np.ones((10, 8), dtype=bool)}, InvalidRowError, "ref-7.* 10 x 8 .*8 x 10.*original size"),
        ({"mask": {"size": [8, 10], "counts": "0"}}, InvalidMaskError, "ref-7"),
        ({"raws": ("  ",)}, InvalidRowError, "ref-7-0 of row ref-7 is empty"),
        ({"sentences": [{"sent_id": "5", "raw": None, "sent": "x"}]}, InvalidRowError, "5 of row ref-7 is empty"),
        ({"sentences": [None]}, InvalidRowError, "None of row ref-7 is empty"),
        ({"image": {"bytes": None, "path": "a\0b"}}, InvalidRowError, "ref-7 .*cannot be read"),
        ({"image": {"bytes": b"no image", "path": None}}, InvalidRowError, "ref-7 .*cannot be read"),
        ({"image": {"bytes": None, "path": "/missing/picture.jpg"}}, InvalidRowError, "ref-7 .*/missing/picture.jpg"),
    ],
)
def test_a_bad_row_is_refused_by_name_and_the_others_still_work(view, options, error, message):
    examples = view(dataset_of(make_row(0), make_row(7, image_id="bad", **options)))
    assert examples[0]["image_id"] == "image"
    with pytest.raises(error, match=message):
        examples[1]


@pytest.mark.parametrize("image", [None, {"bytes": None, "path": None}])
def test_a_row_without_image_is_refused(image):
    with pytest.raises(InvalidRowError, match="Row ref-7 has no image"):
        read_image_file({"ref_id": "ref-7", "image": image})


def test_a_truncated_image_is_refused(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8))
    path = tmp_path / "cut.jpg"
    path.write_bytes(image_bytes(noise, format="JPEG")[:2000])
    dataset = dataset_of(make_row(7, image={"bytes": None, "path": str(path)}, mask=np.zeros((80, 100), dtype=bool)))
    with pytest.raises(InvalidRowError, match=r"ref-7 .*cut\.jpg"):
        ReferentExamples(dataset)[0]


def test_an_oversized_image_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(InvalidRowError, match=r"ref-0 .*exceeds limit"):
        ReferentExamples(dataset_of(make_row()))[0]


def test_a_mask_of_another_size_is_refused_before_it_is_decoded(monkeypatch):
    decoded = []
    monkeypatch.setattr("hf_refseg.data.examples.decode_mask", decoded.append)
    dataset = dataset_of(make_row(mask=np.zeros((900, 900), dtype=bool)))
    for view in (ReferentExamples, SentenceExamples, ImageExamples):
        with pytest.raises(InvalidRowError, match=r"ref-0 is 900 x 900 \(height x width\), its image"):
            view(dataset)[0]
    assert decoded == []


def test_a_row_without_sentences_is_refused_in_training():
    with pytest.raises(InvalidRowError, match="ref-0 has no sentence"):
        ReferentExamples(dataset_of(make_row(raws=())))[0]


@pytest.mark.parametrize("view", [ReferentExamples, SentenceExamples, ImageExamples])
def test_missing_columns_are_named(view):
    dataset = dataset_of(make_row()).remove_columns(["mask", "sentences"])
    with pytest.raises(DataFormatError, match=r"no column mask, sentences; found image, .*load_refseg"):
        view(dataset)


# --- Batches -------------------------------------------------------------------------------------------------------


def test_the_collator_gives_the_processor_aligned_lists(rows):
    calls = []
    collator = RefSegCollator(lambda **arguments: calls.append(arguments) or "batch")
    items = [SentenceExamples(rows)[index] for index in (0, 1, 5)]
    assert collator(items) == "batch"
    (arguments,) = calls
    assert arguments["text"] == texts_of(items)
    assert all(image is item["image"] for image, item in zip(arguments["images"], items, strict=True))
    assert all(mask is item["mask"] for mask, item in zip(arguments["segmentation_maps"], items, strict=True))
    assert arguments["return_tensors"] == "pt" and len(arguments) == 4
