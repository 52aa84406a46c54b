"""Features of a frozen image encoder on disk: each image is encoded once, later epochs never run the encoder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import BatchFeature, PreTrainedModel, ProcessorMixin, TrainingArguments

from ..data.examples import open_image, read_image_file, undecoded
from ..evaluation.systems import hash_tensors
from ..files import OutputError, begin_folder, only_writer, write_whole, writing_into
from ..messages import BadInputError, short_text
from ..modeling.inference_refseg import evaluation_mode, to_model
from ..modeling.modeling_outputs_refseg import ImageFeatures, join_features
from ..modeling.two_encoders_refseg import is_frozen

# Raised when files of earlier versions can no longer be read, or would hold something else.
FORMAT_VERSION = 2
KEY_FILE = "cache.json"
# What a configuration says beside how features are computed; weights are hashed with their own dtype.
UNRELATED_TO_FEATURES = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "mask_threshold",
    "processor_class",
    "transformers_version",
}
# In the metadata of an image's file: how many numbers each size has; of clips frames come before height and width.
SIZES = {"image_size": (2, 3), "size": (2,)}
POLL_SECONDS = 2.0


class FeatureCacheError(BadInputError):
    """A folder that is not this model's cache, a trained encoder, or features that cannot be stored or read."""


@dataclass(frozen=True)
class EncodedImage:
    """Stands in the place of an image in the items of `ReferentExamples` and `SentenceExamples`.

    Attributes:
        features: the encoder's features of this one image, float16, the image along axis 0 of each tensor.
        height, width: size of the image itself in pixels.
    """

    features: ImageFeatures
    height: int
    width: int


class FeatureCache:
    """A folder with the features of the image encoder of one model, one file for each image.

    `cache.json` says which encoder and which preprocessing they come from. Files are named after the content of the
    image's file, so equal image ids of two data sets never meet, and the images may move. A file appears under its
    name once it is complete: after a kill all finished images are still there. Several processes may read and fill
    one cache at a time; one of them writes, and the others wait for it and encode what is still missing.

    Args:
        folder: an existing cache; `open` checks that it is the model's, or makes a new one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def open(cls, folder: str | os.PathLike[str], model: PreTrainedModel, processor: ProcessorMixin) -> FeatureCache:
        """The cache in `folder`, a new one where the folder is empty or absent.

        Raises:
            FeatureCacheError: the model's image encoder is trained; the folder holds the features of another encoder
                or preprocessing, or something else.
            OSError: the folder cannot be made or written.
        """
        if not is_frozen(model.backbone):
            raise FeatureCacheError(
                "The features of an image encoder that is trained cannot be cached. Set freeze_image_encoder in the "
                "model's config, or leave cache_image_features out."
            )
        folder = Path(folder)
        _, differing = begin_folder(folder / KEY_FILE, describe_encoder(model, processor), FeatureCacheError)
        if differing:
            names = " and ".join(name.replace("_", " ") for name in differing)
            raise FeatureCacheError(
                f"{folder} is the feature cache of another model or preprocessing: {names} differ. "
                "Name another folder, or delete this one to have its features computed anew."
            )
        return cls(folder)

    def fill(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        rows: Sequence[datasets.Dataset],
        *,
        batch_size: int = 1,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        """Encodes the images that are not there yet.

        Args:
            model: the one that the cache was opened with, on the device that shall encode.
            processor: the model's processor.
            rows: data sets of `load_refseg`.
            batch_size: images that are encoded at once.
            num_workers: processes that read images; 0 = this one.
            progress: show a progress bar over the missing images, and how much they will take.

        Raises:
            OSError: (`ENOSPC`) the disk is too small or full; what is finished stays.
            FeatureCacheError: features that float16 cannot hold.
            InvalidRowError: an image that cannot be read.
        """
        if not self._find_missing(rows):
            return
        with only_writer(self.folder):
            # Another process may have encoded them in the meantime.
            missing = self._find_missing(rows)
            self._encode(model, _ImagesToEncode(missing, processor), batch_size, num_workers, progress)

    def _encode(
        self, model: PreTrainedModel, images: _ImagesToEncode, batch_size: int, num_workers: int, progress: bool
    ) -> None:
        batches = DataLoader(images, batch_size, num_workers=num_workers)
        finished = 0
        bar = tqdm(total=len(images), desc="encode images", unit="image", disable=not progress)
        with bar, evaluation_mode(model):
            for pixel_values, sizes, names in batches:
                encoded = model.get_encoder_features(**to_model(model, BatchFeature({"pixel_values": pixel_values})))
                files = [_pack(encoded, index, *size) for index, size in enumerate(sizes.tolist())]
                if finished == 0:
                    self._check_space(len(files[0]), len(images), progress)
                for name, file in zip(names, files, strict=True):
                    self._write(name, file, remaining=len(images) - finished)
                    finished += 1
                bar.update(len(files))

    def wait(self, rows: Sequence[datasets.Dataset]) -> None:
        """Returns once another process has filled the cache: for as long as it takes, so a launcher has to end us."""
        missing = [self._path(name) for name in self._find_missing(rows)]
        while missing := [path for path in missing if not path.exists()]:
            time.sleep(POLL_SECONDS)

    def read(self, row: dict[str, Any]) -> EncodedImage:
        """The features of a row's image: `read_image` of `ReferentExamples` and `SentenceExamples`.

        Raises:
            FeatureCacheError: the features are not there, or their file is damaged.
            InvalidRowError: the image's file is missing.
        """
        path = self._path(_name_of(row))
        try:
            with safe_open(path, framework="pt") as file:
                return _unpack(file)
        except FileNotFoundError as error:
            raise FeatureCacheError(
                f"The feature cache {self.folder} has nothing of the image of row {row['ref_id']}: fill it first."
            ) from error
        except (SafetensorError, ValueError, RecursionError) as error:
            raise FeatureCacheError(
                f"{path} is damaged ({error}). Delete it and start again: its image will be encoded anew."
            ) from error

    def _path(self, name: str) -> Path:
        return self.folder / name[:2] / f"{name}.safetensors"

    def _find_missing(self, rows: Iterable[datasets.Dataset]) -> dict[str, tuple[datasets.Dataset, int]]:
        """Where to find each image that is not there yet, by the name of its file."""
        missing = {}
        for data in map(undecoded, rows):
            for index, row in enumerate(data.select_columns(["image", "ref_id"])):
                name = _name_of(row)
                if name not in missing and not self._path(name).exists():
                    missing[name] = (data, index)
        return missing

    def _check_space(self, file_size: int, images: int, progress: bool) -> None:
        needed, free = file_size * images, self._free_space()
        if needed > free:
            raise self._full(needed, images)
        if progress:
            message = f"{images} images will take {_gib(needed)} in {self.folder} ({_gib(free)} are free)."
            tqdm.write(message, file=sys.stderr)

    def _write(self, name: str, file: bytes, remaining: int) -> None:
        path = self._path(name)
        try:
            with writing_into(self.folder):
                path.parent.mkdir(exist_ok=True)
                write_whole(path, lambda partial: partial.write_bytes(file))
        except OutputError as error:
            raise self._full(len(file) * remaining, remaining) from error

    def _full(self, needed: int, images: int) -> OSError:
        return OSError(
            errno.ENOSPC,
            f"The feature cache needs {_gib(needed)} for the {images} images that it lacks, and "
            f"{_gib(self._free_space())} are free. Make room, or name a folder on a larger disk; finished images are "
            "kept",
            str(self.folder),
        )

    def _free_space(self) -> int:
        return shutil.disk_usage(self.folder).free


@dataclass(frozen=True)
class EncodedCollator:
    """Turns items with an [`EncodedImage`] in the place of the image into a batch that a model takes.

    The batch holds `encoder_features` ([`ImageFeatures`], in `dtype`), `input_ids`, `attention_mask` and
    `mask_labels`, the same as with the images themselves.

    Args:
        processor: the model's processor.
        dtype: that of the model.
    """

    processor: ProcessorMixin
    dtype: torch.dtype

    def __call__(self, items: Iterable[dict[str, Any]]) -> EncodedBatch:
        items = list(items)
        images = [item["image"].features for item in items]
        features = join_images(images).apply_to_tensors(lambda tensor: tensor.to(self.dtype))
        inputs = self.processor(
            text=[item["text"] for item in items],
            segmentation_maps=[item["mask"] for item in items],
            return_tensors="pt",
        )
        return EncodedBatch({"encoder_features": features, **inputs})


class EncodedBatch(BatchFeature):
    """A batch whose `encoder_features` are pinned and moved like its tensors, which plain containers do not do."""

    def pin_memory(self) -> EncodedBatch:
        tensors = {name: value.pin_memory() for name, value in self.items() if isinstance(value, Tensor)}
        return EncodedBatch(
            {**tensors, "encoder_features": self["encoder_features"].apply_to_tensors(Tensor.pin_memory)}
        )

    def to(self, *args: Any, **kwargs: Any) -> EncodedBatch:
        """As `BatchFeature.to`: a device, a dtype for the tensors of floating point, or both."""
        super().to(*args, **kwargs)
        self["encoder_features"] = self["encoder_features"].apply_to_tensors(lambda tensor: tensor.to(*args, **kwargs))
        return self


def cache_image_features(
    folder: str | os.PathLike[str],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    rows: Sequence[datasets.Dataset],
    args: TrainingArguments,
) -> FeatureCache:
    """Opens a cache and fills it; of several processes on a machine the first one does, and the others wait for it.

    Args:
        folder: of the cache.
        model: its image encoder has to be frozen; the model is moved to the device of `args`.
        processor: the model's processor.
        rows: all data sets whose images will be read.
        args: of the training; images are encoded in batches of its `per_device_eval_batch_size`.

    Raises:
        FeatureCacheError: as `FeatureCache.open` and `FeatureCache.fill`.
        OSError: the disk is full.
    """
    cache = FeatureCache.open(folder, model, processor)
    if args.local_process_index > 0:
        cache.wait(rows)
        return cache
    cache.fill(
        model.to(args.device),
        processor,
        rows,
        batch_size=args.per_device_eval_batch_size,
        num_workers=args.dataloader_num_workers,
        progress=not args.disable_tqdm,
    )
    return cache


def describe_encoder(model: PreTrainedModel, processor: ProcessorMixin) -> dict[str, Any]:
    """All that the features of an image depend on: what `cache.json` holds."""
    further = [name for name in model.config.sub_configs if name not in ("backbone_config", "text_config")]
    return {
        "format_version": FORMAT_VERSION,
        "model_type": model.config.model_type,
        "encoder_config": _without_unrelated(model.config.backbone_config.to_dict()),
        "encoder_weights": hash_tensors(model.backbone.state_dict()),
        "preprocessing": _without_unrelated(processor.image_processor.to_dict()),
        **{name: _without_unrelated(getattr(model.config, name).to_dict()) for name in further},
    }


class _ImagesToEncode(Dataset):
    """Pixel values, the image's own height and width, and the name of its file in the cache."""

    def __init__(self, places: dict[str, tuple[datasets.Dataset, int]], processor: ProcessorMixin) -> None:
        self.places = list(places.items())
        self.processor = processor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        name, (data, row) = self.places[index]
        image = open_image(data[row])
        pixel_values = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixel_values, torch.tensor([image.height, image.width]), name


def join_images(images: Sequence[ImageFeatures]) -> ImageFeatures:
    """The features of several images, each by itself, as those of a batch.

    Raises:
        FeatureCacheError: they differ in shape or kind.
    """
    shapes = {(*(tuple(each.shape) for each in image.maps), image.image_size) for image in images}
    if len(shapes) > 1:
        raise FeatureCacheError(
            f"The features of the images of one batch differ in shape ({short_text(sorted(shapes))}): the cache holds "
            "files of another encoder. Delete its folder, to have all features computed anew."
        )
    return join_features(images)


def _name_of(row: dict[str, Any]) -> str:
    return hashlib.blake2b(read_image_file(row), digest_size=20).hexdigest()


def _pack(encoded: ImageFeatures, index: int, height: int, width: int) -> bytes:
    """The content of the file of one image of a batch."""
    tensors = {f"maps.{place}": values for place, values in enumerate(encoded.maps)}
    if encoded.pixel_values is not None:
        tensors["pixel_values"] = encoded.pixel_values
    sizes = {"image_size": encoded.image_size, "size": (height, width)}
    metadata = {name: json.dumps([int(side) for side in size]) for name, size in sizes.items()}
    return save({name: _as_stored(values[index : index + 1]) for name, values in tensors.items()}, metadata)


def _as_stored(values: Tensor) -> Tensor:
    stored = values.to("cpu", torch.float16)
    if not stored.isfinite().all():
        raise FeatureCacheError(
            f"The image encoder gives values up to {values.abs().max().item():g}, but the float16 of the feature "
            f"cache holds none beyond {torch.finfo(torch.float16).max:g}. Train without cache_image_features."
        )
    return stored.contiguous()


def _unpack(file: Any) -> EncodedImage:
    """What `_pack` put into an opened file; raises ValueError where it holds something else."""
    sizes = _read_sizes(file.metadata() or {})
    height, width = sizes.pop("size")
    names = set(file.keys())
    map_names = [f"maps.{place}" for place in range(len(names - {"pixel_values"}))]
    if not map_names or names - {"pixel_values"} != set(map_names):
        raise ValueError(f"it should hold maps.0 and so on, found {short_text(sorted(names))}")
    maps = tuple(_read_tensor(file, name) for name in map_names)
    pixel_values = _read_tensor(file, "pixel_values") if "pixel_values" in names else None
    return EncodedImage(ImageFeatures(maps=maps, pixel_values=pixel_values, **sizes), height, width)


def _read_tensor(file: Any, name: str) -> Tensor:
    kind = file.get_slice(name).get_dtype()
    if kind != "F16":
        raise ValueError(f"{name} is of type {kind}, not F16")
    values = file.get_tensor(name)
    if values.ndim < 4 or len(values) != 1 or not values.isfinite().all():
        raise ValueError(f"{name}, of shape {tuple(values.shape)}, is not that of one image, or not finite")
    return values


def _read_sizes(metadata: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    sizes = {}
    for name, lengths in SIZES.items():
        sides = json.loads(metadata.get(name, "null"))
        if not isinstance(sides, list) or len(sides) not in lengths or not all(type(side) is int for side in sides):
            raise ValueError(f"its metadata should hold {name}, {lengths[0]} whole numbers, found {short_text(sides)}")
        sizes[name] = tuple(sides)
    return sizes


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB"


def _without_unrelated(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in UNRELATED_TO_FEATURES}
