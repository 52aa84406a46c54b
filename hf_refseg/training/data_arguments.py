"""Options that name the data of a recipe: images, or videos with images beside them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import yaml

from ..data.catalog import DATASETS, DEFAULT_DATASETS
from ..evaluation.protocols import get_protocol
from ..evaluation.video import check_video_protocol
from ..files import public_name, unique_names
from ..modeling.inference_refseg import VideoWindow
from ..modeling.messages_refseg import nearest_names
from ..yaml_texts import read_yaml
from .run_options import given_options


class DatasetOptions:
    """What follows from the options of a data set, of images or videos."""

    dataset_options: dict | str | None

    @property
    def streaming(self) -> bool:
        """Whether the split to train on is read as it is trained on."""
        return bool(self.further_options.get("streaming"))

    @property
    def further_options(self) -> dict[str, Any]:
        """`dataset_options`, which may have been given as a text, as the mapping that it is."""
        return to_mapping("dataset_options", self.dataset_options)


@dataclass
class ImageDataArguments(DatasetOptions):
    """Which data to train on, and what to score in the end."""

    _argument_group_name = "data"
    # The method of a new model where none is named.
    new_model_type: ClassVar[str] = "lavt"

    dataset_name: list[str] | str = field(
        default_factory=lambda: [DEFAULT_DATASETS["image"]],
        metadata={
            "help": "refcoco, refcoco+, refcocog, refshapes ..., a prepared folder, a Hub id; or several: they are "
            "joined, without any image that is in a val or test split of one of them. They share all options but "
            "split_by; prepare those first that take others."
        },
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    split_by: list[str] | None = field(
        default=None, metadata={"help": "Who split the data set (unc, umd, google ...), or each of several."}
    )
    leakage_list: str | None = field(
        default=None,
        metadata={
            "help": "JSON file of COCO image ids that are dropped from the training data as well, such as the "
            "published list of the val and test images of RefCOCO, RefCOCO+ and RefCOCOg."
        },
    )
    mask_overlap: str | None = field(
        default=None, metadata={"help": '"union" or "background", where the polygons of an annotation overlap.'}
    )
    dataset_options: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further options of load_refseg, as a mapping (YAML or JSON). With streaming, of a prepared data "
            "set, train_split is read as it is trained on; splits that are scored are loaded."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    max_train_sentences: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many sentences, drawn from those of train_split of one data set; the same ones in "
            "each run, whatever its seed."
        },
    )
    eval_split: str = field(default="val", metadata={"help": "Split that is scored during training."})
    test_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits that are scored in the end, of several data sets as refcoco/testA; all but train_split if "
            "absent."
        },
    )
    protocol: str = field(default="original", metadata={"help": "Protocol of the scores in the end."})
    max_test_images: int | None = field(default=None, metadata={"help": "Images per split scored in the end."})
    cache_image_features: str | None = field(
        default=None,
        metadata={
            "help": "Folder for what the image encoder, which has to be frozen, makes of each image: it is encoded "
            "once, also if the run is started again. The folder belongs to one encoder and one preprocessing."
        },
    )

    def __post_init__(self):
        self.dataset_options = to_mapping("dataset_options", self.dataset_options)
        if isinstance(self.test_splits, str):
            self.test_splits = [self.test_splits]
        if isinstance(self.split_by, str):
            self.split_by = [self.split_by]
        if isinstance(self.dataset_name, list) and len(self.dataset_name) == 1:
            self.dataset_name = self.dataset_name[0]
        names = self.dataset_names
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise ValueError(f"dataset_name names {repeated[0]} more than once.")
        if self.split_by is not None and len(self.split_by) not in (1, len(names)):
            raise ValueError(
                f"split_by has {len(self.split_by)} values for {len(names)} data sets: give one for all, or one each."
            )
        get_protocol(self.protocol)
        if self.max_train_sentences is not None:
            self._check_subset(self.max_train_sentences)
        if self.streaming:
            self._check_streaming()

    def _check_subset(self, sentences: int) -> None:
        if sentences < 1:
            raise ValueError(f"max_train_sentences has to be 1 at least, got {sentences}.")
        if len(self.dataset_names) > 1 or self.leakage_list is not None:
            raise ValueError(
                "max_train_sentences draws from one data set as it is: it goes neither with several of them nor with "
                "leakage_list."
            )

    def _check_streaming(self) -> None:
        random_access = {
            "several data sets, whose images are compared": len(self.dataset_names) > 1,
            "leakage_list, which is compared with all images": self.leakage_list is not None,
            "cache_image_features, which encodes all images before": self.cache_image_features is not None,
            "max_train_sentences, which draws from all of them": self.max_train_sentences is not None,
        }
        for what, is_given in random_access.items():
            if is_given:
                raise ValueError(f"streaming does not go with {what}: leave one of them out.")
        check_streamed_split(self)

    @property
    def dataset_names(self) -> list[str]:
        return [self.dataset_name] if isinstance(self.dataset_name, str) else self.dataset_name

    @property
    def shown_names(self) -> dict[str, str]:
        """What results and their readers call each data set: by its name, a folder by its own alone."""
        names = self.dataset_names
        return dict(zip(names, unique_names(map(public_name, names)), strict=True))

    def load_options(self) -> dict[str, dict[str, Any]]:
        """The options of `load_refseg` for each data set, by its name.

        Raises:
            ValueError: one of them is given by itself and in `dataset_options`.
        """
        given = {"data_dir": self.data_dir, "mask_overlap": self.mask_overlap}
        return {
            name: join_options({**given, "split_by": split_by}, self.further_options)
            for name, split_by in self.split_by_of_each().items()
        }

    def shown_options(self) -> dict[str, dict[str, Any]]:
        """As `load_options`, by the `shown_names` of the data sets."""
        return {self.shown_names[name]: options for name, options in self.load_options().items()}

    def split_by_of_each(self) -> dict[str, str | None]:
        """Who split each data set, by its name."""
        given: list[str | None] = [*self.split_by] if self.split_by else [None]
        return dict(zip(self.dataset_names, given if len(given) > 1 else given * len(self.dataset_names), strict=True))


@dataclass
class VideoDataArguments(DatasetOptions):
    """Which videos to train on, images as well, and what to score in the end."""

    _argument_group_name = "data"
    new_model_type: ClassVar[str] = "video_lavt"

    dataset_name: str = field(
        default=DEFAULT_DATASETS["video"],
        metadata={"help": f"{', '.join(name for name, spec in DATASETS.items() if spec.kind == 'video')}."},
    )
    data_dir: str | None = field(default=None, metadata={"help": "Folder of the data set's original files."})
    dataset_options: dict | str | None = field(
        default=None,
        metadata={
            "help": "Further options of load_refseg, as a mapping (YAML or JSON). With streaming, of a prepared data "
            "set, train_split is read as it is trained on; splits that are scored are loaded."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str | None = field(
        default=None,
        metadata={"help": "Split of which a clip per referent is scored during training; none if absent."},
    )
    test_splits: list[str] | None = field(
        default=None,
        metadata={
            "help": "Splits that are scored in the end; all with masks but train_split if absent. Of a split without "
            "masks (valid and test of Refer-YouTube-VOS) the file for the evaluation server is written."
        },
    )
    num_frames: int = field(default=8, metadata={"help": "Frames of a clip that is trained on."})
    protocol: str = field(
        default="davis",
        metadata={"help": 'Protocol of the scores in the end: "davis", "davis_unsupervised" or "a2d".'},
    )
    window: int = field(
        default=0, metadata={"help": "Frames that the scored model sees at once; 0 = the whole video as one clip."}
    )
    overlap: int | None = field(
        default=None,
        metadata={"help": "Frames that neighboring windows share; 8, or half a smaller window, if absent."},
    )
    per_frame: bool = field(
        default=False, metadata={"help": "Score a method that takes clips frame by frame, like one for images."}
    )
    max_test_videos: int | None = field(default=None, metadata={"help": "Videos per split scored in the end."})
    image_data: dict | str | None = field(
        default=None,
        metadata={
            "help": "Images to train on as well, in batches of their own: the options of a recipe for images, as a "
            'mapping (YAML or JSON), such as {"dataset_name": "refcoco", "data_dir": "data"}.'
        },
    )
    image_share: float = field(default=0.5, metadata={"help": "Share of the training steps that see images."})

    def __post_init__(self):
        self.dataset_options = to_mapping("dataset_options", self.dataset_options)
        self.image_data = to_mapping("image_data", self.image_data)
        if isinstance(self.test_splits, str):
            self.test_splits = [self.test_splits]
        if self.num_frames < 1:
            raise ValueError(f"num_frames has to be 1 at least, got {self.num_frames}.")
        if not self.image_data and "image_share" in given_options(self):
            raise ValueError("image_share goes with image_data: name the images, or leave it out.")
        check_video_protocol(self.protocol)
        of_images = to_mapping("dataset_options", self.image_options.get("dataset_options"))
        if self.image_data and (self.streaming or of_images.get("streaming")):
            raise ValueError(
                "streaming does not go with image_data, as batches are drawn among all images and videos: leave one "
                "of them out."
            )
        if self.streaming:
            check_streamed_split(self)

    @property
    def image_options(self) -> dict[str, Any]:
        """`image_data`, which may have been given as a text, as the mapping that it is."""
        return to_mapping("image_data", self.image_data)

    def image_arguments(self) -> ImageDataArguments | None:
        """The options for the images; None without any.

        Raises:
            ValueError: an option that does not exist, or that has no meaning here.
        """
        if not self.image_options:
            return None
        taken = [option.name for option in fields(ImageDataArguments) if option.name != "cache_image_features"]
        unknown = [str(name) for name in self.image_options if name not in taken]
        if unknown:
            hint = nearest_names(unknown, taken) or "."
            raise ValueError(f"image_data has no option {', '.join(unknown)}, only {', '.join(taken)}{hint}")
        return ImageDataArguments(**self.image_options)

    @property
    def shown_name(self) -> str:
        """What results and their readers call the data set of videos, see `ImageDataArguments.shown_names`."""
        images = self.image_arguments()
        return unique_names([*(images.shown_names.values() if images else ()), public_name(self.dataset_name)])[-1]

    def load_options(self) -> dict[str, Any]:
        """The options of `load_refseg` for the videos."""
        return join_options({"data_dir": self.data_dir}, self.further_options)

    def shown_options(self) -> dict[str, dict[str, Any]]:
        """The options of `load_refseg` for each data set, those of images as well, by its shown name."""
        images = self.image_arguments()
        return {**(images.shown_options() if images else {}), self.shown_name: self.load_options()}

    def video_window(self) -> VideoWindow:
        """How the scored model goes through a video."""
        return VideoWindow(self.window or None, self.overlap, self.per_frame)


def check_streamed_split(arguments: ImageDataArguments | VideoDataArguments) -> None:
    """Raises ValueError where the split that is streamed is to be scored as well."""
    if arguments.train_split in (arguments.eval_split, *(arguments.test_splits or ())):
        raise ValueError(
            f"{arguments.train_split} is streamed to train on it, but also scored, for which it would be loaded: "
            "score other splits, or leave streaming out."
        )


def with_used_splits(options: dict[str, Any], arguments: ImageDataArguments | VideoDataArguments) -> dict[str, Any]:
    """Options of `load_refseg` with the splits that a run uses, where they are all named; others are not made."""
    if arguments.test_splits is None or "splits" in options:
        return options
    used = (arguments.train_split, arguments.eval_split, *arguments.test_splits)
    return {**options, "splits": [split for split in dict.fromkeys(used) if split is not None]}


def join_options(given: dict[str, Any], dataset_options: dict[str, Any]) -> dict[str, Any]:
    """Options of `load_refseg`: those with a name of their own, None = absent, and those in `dataset_options`."""
    named = {option: value for option, value in given.items() if value is not None}
    twice = sorted(named.keys() & dataset_options.keys())
    if twice:
        raise ValueError(f"{twice[0]} is given by itself and in dataset_options: leave one of them out.")
    return {**named, **dataset_options}


def to_mapping(name: str, value: dict | str | None) -> dict:
    """A mapping given as such or as YAML or JSON."""
    try:
        mapping = read_json_or_yaml(value) if isinstance(value, str) else value
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is neither YAML nor JSON: {error}") from error
    if mapping is not None and not isinstance(mapping, dict):
        raise ValueError(f"{name} has to be a mapping of names to values, not {value!r}.")
    return dict(mapping or {})


def read_json_or_yaml(text: str) -> object:
    # YAML takes JSON's 1e-4 for a text.
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return read_yaml(text)
