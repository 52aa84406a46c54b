"""Batches of bytes: finished on the device, they are what the processor itself makes, to the last bit."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from tiny_lavt import tiny_processor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.byte_batches import ByteImageProcessor, FittedExamples, FittedReferents, finish_batch, keep_bytes
from hf_refseg.data.clips import ClipCollator
from hf_refseg.data.examples import RefSegCollator

SIZES = ((48, 80), (75, 41), (64, 64))


def photograph(height: int, width: int, seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def masks_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).random(shape) < 0.4


def image_items() -> list[dict]:
    texts = ("the dog", "the left dog", "a dog")
    return [
        {"image": photograph(*size, seed), "text": texts[seed], "mask": masks_of(*size)}
        for seed, size in enumerate(SIZES)
    ]


def clip_items() -> list[dict]:
    return [
        {
            "frames": [photograph(*size, 10 * seed + number) for number in range(3)],
            "text": "the dog",
            "masks": masks_of(3, *size),
            "annotated": np.array([True, seed == 0, False]),
        }
        for seed, size in enumerate(SIZES)
    ]


def processor_with(**options) -> RefSegProcessor:
    return RefSegProcessor(RefSegImageProcessor(**options), tiny_processor().tokenizer)


def note_call(function: Callable, calls: list) -> Callable:
    """The function, which leaves a trace of each call."""

    def noted(*arguments, **options):
        calls.append(arguments)
        return function(*arguments, **options)

    return noted


class Items(list):
    def read(self, indices: list[int]) -> Iterator[dict]:
        return (self[index] for index in indices)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("collator, items", [(RefSegCollator, image_items), (ClipCollator, clip_items)])
@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 64, "width": 96}},
        {"size": {"longest_edge": 96}, "image_mean": [0.1, 0.5, 0.9]},
        {"size": {"height": 64, "width": 64}, "do_pad": True, "pad_size": {"height": 70, "width": 96}},
        {
            "do_center_crop": True,
            "crop_size": {"height": 40, "width": 72},
            "do_pad": True,
            "pad_size": {"height": 70, "width": 96},
        },
        {"size": {"height": 64, "width": 96}, "do_normalize": False, "resample": Image.Resampling.BICUBIC},
    ],
)
def test_a_finished_batch_is_the_processors(options, collator, items, fitted) -> None:
    processor = processor_with(**options)
    expected = collator(processor)(items())
    examples = FittedExamples(Items(items()), processor.image_processor) if fitted else items()
    batch = collator(keep_bytes(processor))([examples[index] for index in range(len(SIZES))])
    assert batch["pixel_values"].dtype == torch.uint8 and batch["mask_labels"].dtype == torch.int8
    finished = finish_batch(batch, processor.image_processor)
    assert finished.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(finished[name], values) and finished[name].dtype == values.dtype, name
    assert finished["pixel_values"].is_contiguous()


def test_what_is_no_batch_of_bytes_stays_as_it_is() -> None:
    processor = tiny_processor()
    for batch in (RefSegCollator(processor)(image_items()), {"encoder_features": object(), "input_ids": None}):
        assert finish_batch(batch, processor.image_processor) is batch


def test_the_processor_itself_stays_as_it_is(tmp_path) -> None:
    processor = tiny_processor()
    before = processor.to_dict()
    keep_bytes(processor)
    assert processor.to_dict() == before and type(processor.image_processor) is RefSegImageProcessor


def test_fitted_examples_are_small_and_follow_the_epoch() -> None:
    items = Items(image_items())
    fitted = FittedReferents(items, RefSegImageProcessor(size={"longest_edge": 32}))
    fitted.set_epoch(3)
    assert items.epoch == 3 and len(fitted) == len(SIZES)
    for read in (fitted.__getitems__([0, 1, 2]), map(fitted.__getitem__, range(len(SIZES)))):
        assert [(item["image"].size, item["mask"].shape) for item in read] == [
            ((32, 19), (19, 32)),
            ((17, 32), (32, 17)),
            ((32, 32), (32, 32)),
        ]


def test_of_a_batch_each_picture_is_fitted_before_the_next_one_is_read(monkeypatch) -> None:
    steps = []

    class Read(Items):
        def __getitem__(self, index: int) -> dict:
            steps.append(f"read {index}")
            return super().__getitem__(index)

    monkeypatch.setattr(RefSegImageProcessor, "fit", lambda _, picture: steps.append("fit") or picture)
    FittedReferents(Read(image_items()), RefSegImageProcessor()).__getitems__([2, 0])
    assert steps == ["read 2", "fit", "read 0", "fit"]


@pytest.mark.parametrize(
    ("change", "is_put_together"),
    [
        ({}, True),
        ({"image": photograph(64, 97, 0), "mask": masks_of(64, 97)}, False),
        ({"image": photograph(64, 96, 0).convert("L")}, False),
        ({"mask": masks_of(64, 96).astype(np.uint8)}, False),
    ],
)
def test_pictures_that_are_ready_are_put_together_at_once(change, is_put_together, monkeypatch) -> None:
    processor = processor_with(size={"height": 64, "width": 96})
    ready = {"image": photograph(64, 96, 0), "text": "a dog", "mask": masks_of(64, 96)}
    items = [ready, {**ready, **change}]
    expected = RefSegCollator(processor)(items)
    steps = []
    monkeypatch.setattr(ByteImageProcessor, "_preprocess", note_call(ByteImageProcessor._preprocess, steps))
    finished = finish_batch(RefSegCollator(keep_bytes(processor))(items), processor.image_processor)
    assert (steps == []) is is_put_together
    assert finished.keys() == expected.keys()
    assert all(torch.equal(finished[name], values) for name, values in expected.items())


def test_a_picture_that_is_to_be_turned_is_turned_however_large_it_is() -> None:
    processor = processor_with(size={"height": 64, "width": 64})
    picture = photograph(64, 64, 0)
    picture.getexif()[ExifTags.Base.Orientation] = 6
    items = [{"image": picture, "text": "a dog", "mask": masks_of(64, 64)}]
    finished = finish_batch(RefSegCollator(keep_bytes(processor))(items), processor.image_processor)
    assert torch.equal(finished["pixel_values"], RefSegCollator(processor)(items)["pixel_values"])


@pytest.mark.parametrize("size", [(5, 7), (64, 48), (427, 640), (480, 640), (640, 480), (1, 333)])
def test_masks_take_the_pixels_that_torchvision_takes(size) -> None:
    mask = masks_of(*size)
    for height, width in ((30, 31), (480, 480), size):
        expected = resize(torch.from_numpy(mask)[None], [height, width], InterpolationMode.NEAREST_EXACT)[0].numpy()
        image_processor = RefSegImageProcessor(size={"height": height, "width": width})
        for ordered in (mask, np.asfortranarray(mask)):
            assert (image_processor.fit_mask(ordered) == expected).all()
            assert (image_processor(segmentation_maps=ordered)["mask_labels"][0].numpy() == expected).all()
