"""Every data set of the library, told once: what it is, where it comes from, and how it is read, split and scored.

A new data set is a builder in `datasets_scripts` and a record here. Nothing else names data sets: loading, preparing,
leakage, cards and the command line read the records. The command line shows their options in its help: it imports this
file alone, without the rest of the package, so that nothing is imported here that takes time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datasets import DatasetBuilder


@dataclass(frozen=True)
class DataOption:
    """An option of `load_refseg`, and of the commands that load data.

    Attributes:
        name: its name in Python.
        help: what it means, and which data sets take it.
        kind: the type of its value.
        least: the least number; None = any.
        default: what is meant without it, where that is part of what the data is; else the builder knows it.
        is_place: whether it says where files lie, not what the data is.
        of_split: the split that it is about, where it leaves the others as they are.
    """

    name: str
    help: str
    kind: type = int
    least: int | None = None
    default: str | None = None
    is_place: bool = False
    of_split: str | None = None


@dataclass(frozen=True)
class Partition:
    """One way to split a data set.

    Attributes:
        splits: the names of the splits, in order; none where the files name them.
        split_by: who split it; None where it is split in one way alone.
        published: of each split of a complete copy the numbers of referents, of sentences and, where it is published,
            of images (or videos); None = not published.
        totals: the same of all splits together: "referents", "sentences" and different "images" (or "videos").
    """

    splits: tuple[str, ...]
    split_by: str | None = None
    published: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)
    totals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSpec:
    """A data set.

    Attributes:
        name: what `load_refseg` calls it.
        title: its usual name, by which the card of a prepared folder names it.
        kind: whether its rows are referents of images (`row_features`) or videos (`video_features`).
        builder: module and class that make its rows, a `datasets.DatasetBuilder`. It is given the options (`splits`
            are those to make, without it all) and `settings`, `data_dir` where the data set has files, and `split_by`
            and `known_splits`, all splits of that partition, where it is split in several ways.
        partitions: how it is split, the usual way first.
        options: what `load_refseg` takes for it.
        collection: where its images come from. Within one, equal `image_id`s are one image: what is in a val or test
            split of one data set leaks into the training split of another one. None = unknown, as of files that
            people made themselves: they are compared with each other alone.
        other_ids: further columns, with the ids that its images have in other collections, null where they are not in
            them; by column the collection.
        paper: what to cite.
        terms: what is known of the licenses of images and expressions.
        license: the same in the metadata of a card, an id of the Hub.
        layout: the original files under `data_dir`; none for a data set that is generated.
        protocol: how masks are scored unless something else is asked for.
        settings: fixed arguments of the builder.
        package: a package of the extra "video" that reading the files needs.
        words: module and name of all words of a data set that is generated, for a tokenizer with a token for each.
    """

    name: str
    title: str
    kind: Literal["image", "video"]
    builder: str
    partitions: tuple[Partition, ...]
    options: tuple[DataOption, ...]
    collection: str | None
    paper: str
    terms: str
    license: str = "other"
    layout: tuple[str, ...] = ()
    protocol: str = "original"
    settings: Mapping[str, Any] = field(default_factory=dict)
    package: str | None = None
    words: str | None = None
    other_ids: Mapping[str, str] = field(default_factory=dict)

    def load_builder_class(self) -> type[DatasetBuilder]:
        """The class that makes the rows."""
        return _named_object(self.builder)

    def load_words(self) -> tuple[str, ...] | None:
        """All words of a data set that is generated; None for another one."""
        return None if self.words is None else _named_object(self.words)

    def complete_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options, and the defaults of those that they leave out."""
        defaults = {option.name: option.default for option in self.options if option.default is not None}
        return {**defaults, **options}

    def partition(self, split_by: str | None) -> Partition:
        """How somebody split the data set, None = as usual; raises ValueError where nobody of that name did.

        Where the files name the splits, they name who made them as well: anybody may be meant.
        """
        if split_by is None:
            return self.partitions[0]
        known = {partition.split_by: partition for partition in self.partitions}
        if None in known:
            raise ValueError(f"{self.name} is split in one way alone: leave split_by out.")
        if split_by not in known:
            if not self.partitions[0].splits:
                return Partition((), split_by)
            raise ValueError(
                f"Unknown split_by '{split_by}' for {self.name}. Choose one of: {', '.join(filter(None, known))}."
            )
        return known[split_by]


def _named_object(place: str) -> Any:
    """What "module:name" means, a module of the package's own as ".module"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module, "hf_refseg"), name)


SPLITS = DataOption(
    "splits", "Make these splits alone; give it once for each. Files of other splits are not needed.", list[str]
)
ON_BAD_RECORD = DataOption(
    "on_bad_record",
    "What becomes of a record that is damaged: error (default), or skip, which leaves it out and says so.",
    str,
)
ON_SIZE_MISMATCH = DataOption(
    "on_size_mismatch",
    "What becomes of a mask of another size than its picture: error (default) or resize_mask.",
    str,
)
FILE_OPTIONS = (SPLITS, ON_BAD_RECORD, ON_SIZE_MISMATCH)
DATA_DIR = DataOption(
    "data_dir",
    "Folder of the original files: holds <name>/ and images/, or is that of the videos or of own pictures.",
    Path,
    is_place=True,
)
CACHE_DIR = DataOption(
    "cache_dir", "Folder for the rows that are read; by default that of datasets.", Path, is_place=True
)
SEED = DataOption("seed", "RefShapes: of all randomness; folder: of splits that are drawn.")
IMAGE_DIR = DataOption(
    "image_dir",
    "Folder of the images, COCO's train2014, Visual Genome's or others, if not in --data-dir.",
    Path,
    is_place=True,
)
REFER_OPTIONS = (
    DATA_DIR,
    DataOption("split_by", "Who split the data set: unc, google, umd or berkeley; as its file of refs is named.", str),
    DataOption(
        "mask_overlap",
        "Overlapping polygons of RefCOCO and its like: union (default) or background.",
        str,
        default="union",
    ),
    IMAGE_DIR,
    *FILE_OPTIONS,
    CACHE_DIR,
)
DATASET = DataOption("dataset", "refer: what the data set is called, the folder of its annotation files.", str)
SCENE_OPTIONS = (
    DataOption("train_size", "RefShapes: number of training scenes.", of_split="train"),
    DataOption("val_size", "RefShapes: number of validation scenes.", of_split="val"),
    DataOption("test_size", "RefShapes: number of test scenes.", of_split="test"),
    DataOption("image_size", "RefShapes: width and height in pixels."),
    SEED,
    SPLITS,
    CACHE_DIR,
)
FOLDER_OPTIONS = (
    DATA_DIR,
    DataOption(
        "format",
        "folder: metadata, labels, phrases, coco, labelme or label_studio, where its files tell several.",
        str,
    ),
    DataOption(
        "sentence_from",
        "folder: sentence (default), or category where the names of categories are the sentences.",
        str,
    ),
    DataOption(
        "orientation",
        "folder: of photographs that programs turn (EXIF): upright if masks are of what they show, else stored.",
        str,
    ),
    DataOption("val_share", "folder: share of the pictures that is drawn for val, by default 0.1.", float, least=0),
    DataOption("test_share", "folder: share of the pictures that is drawn for test, by default 0.1.", float, least=0),
    SEED,
    *FILE_OPTIONS,
    CACHE_DIR,
)
NUM_FRAMES = DataOption("num_frames", "refshapes_video: frames of a video.")
ANNOTATIONS = DataOption(
    "annotations",
    "ref_davis17: masks that are read, semi_supervised (default, if they are there) or unsupervised.",
    str,
)
CONTEXT_FRAMES = DataOption("context_frames", "a2d_sentences: frames kept on each side of an annotated one.", least=0)

COCO = "COCO train2014"
COCO_IMAGES = ("images/mscoco/images/train2014", "images/train2014")
COCO_TERMS = (
    "COCO annotations: CC BY 4.0. COCO photographs: each under its own Flickr licence, some of them non-commercial or "
    "without derivatives; check before passing them on. "
)
REFCOCO_TERMS = COCO_TERMS + "Expressions: their authors state no licence for the data."
CONTEXT = "Yu et al., Modeling Context in Referring Expressions, https://huggingface.co/papers/1608.00272"
ACTOR_ACTION = (
    "Gavrilyuk et al., Actor and Action Video Segmentation from a Sentence, https://huggingface.co/papers/1803.07485"
)
UNC = ("train", "val", "testA", "testB")
TRAIN_VAL_TEST = ("train", "val", "test")


def _refer(
    name: str,
    *partitions: Partition,
    title: str,
    paper: str,
    terms: str,
    builder: str = ".datasets_scripts.refer:Refer",
    refs_file: str = "refs(<split_by>).p",
    images: tuple[str, ...] = COCO_IMAGES,
    collection: str = COCO,
) -> DatasetSpec:
    """A data set of photographs in the layout of the REFER collection."""
    return DatasetSpec(
        name=name,
        title=title,
        kind="image",
        builder=builder,
        partitions=partitions,
        options=REFER_OPTIONS,
        collection=collection,
        paper=paper,
        terms=terms,
        layout=(f"{name}/{refs_file}", f"{name}/instances.json", " or ".join(f"{place}/" for place in images)),
        settings={"dataset": name, "usual_image_dirs": images},
    )


def _refshapes(
    name: str,
    kind: Literal["image", "video"] = "image",
    *options: DataOption,
    builder: str = ".datasets_scripts.refshapes:RefShapes",
    words: str = ".datasets_scripts.refshapes:REFSHAPES_WORDS",
    protocol: str = "original",
) -> DatasetSpec:
    """Scenes that are generated from a seed."""
    return DatasetSpec(
        name=name,
        title="RefShapes",
        kind=kind,
        builder=builder,
        partitions=(Partition(TRAIN_VAL_TEST),),
        options=(*SCENE_OPTIONS, *options),
        collection="RefShapes",
        paper="none; generated by hf_refseg from a seed",
        terms="Images and expressions are generated: Apache-2.0.",
        license="apache-2.0",
        protocol=protocol,
        words=words,
    )


# Published counts are those of the files as they were released. Papers differ: that of RefCOCO says 142,209 sentences,
# that of RefCOCOg 104,560, with objects that were never released, that of gRefCOCO 278,232, a part of which was not.
SPECS = (
    _refer(
        "refcoco",
        Partition(
            UNC,
            "unc",
            {"train": (42404, 120624), "val": (3811, 10834), "testA": (1975, 5657), "testB": (1810, 5095)},
            {"referents": 50000, "sentences": 142210, "images": 19994},
        ),
        # Its splits share images.
        Partition(
            TRAIN_VAL_TEST,
            "google",
            {"train": (40000, None), "val": (5000, None), "test": (5000, None)},
            {"sentences": 142210, "images": 19994},
        ),
        title="RefCOCO",
        paper=CONTEXT,
        terms=REFCOCO_TERMS,
    ),
    # Nobody but UNC's authors published a partition of it.
    _refer(
        "refcoco+",
        Partition(
            UNC,
            "unc",
            {"train": (42278, 120191), "val": (3805, 10758), "testA": (1975, 5726), "testB": (1798, 4889)},
            {"referents": 49856, "sentences": 141564, "images": 19992},
        ),
        title="RefCOCO+",
        paper=CONTEXT,
        terms=REFCOCO_TERMS,
    ),
    _refer(
        "refcocog",
        Partition(
            TRAIN_VAL_TEST,
            "umd",
            {"train": (42226, 80512), "val": (2573, 4896), "test": (5023, 9602)},
            {"referents": 49822, "sentences": 95010, "images": 25799},
        ),
        Partition(
            ("train", "val"),
            "google",
            {"train": (44822, 85474), "val": (5000, 9536)},
            {"referents": 49822, "sentences": 95010},
        ),
        title="RefCOCOg",
        paper="Mao et al., Generation and Comprehension of Unambiguous Object Descriptions, "
        "https://huggingface.co/papers/1511.02283",
        terms=COCO_TERMS + "Expressions (Google RefExp): CC BY 4.0.",
    ),
    _refer(
        "refclef",
        Partition(
            (*UNC, "testC"),
            "unc",
            # The published numbers count a sentence under the name that its ref has in the file. The 116 of testAB
            # belong to testA and to testB, the 86 of testBC to testB and to testC, and are rows of both.
            {
                "train": (None, None),
                "val": (None, 12029),
                "testA": (None, 3449 + 116),
                "testB": (None, 3221 + 116 + 86),
                "testC": (None, 2664 + 86),
            },
        ),
        Partition(TRAIN_VAL_TEST, "berkeley"),
        builder=".datasets_scripts.refclef:RefClef",
        images=("images/saiapr_tc-12",),
        collection="SAIAPR TC-12",
        title="RefCLEF",
        paper="Kazemzadeh et al., ReferItGame: Referring to Objects in Photographs of Natural Scenes, EMNLP 2014",
        terms="Photographs and segmentations: the terms of SAIAPR TC-12. Expressions: their authors state no licence.",
    ),
    _refer(
        "grefcoco",
        Partition(UNC, "unc", totals={"sentences": 259859}),
        builder=".datasets_scripts.grefcoco:GRefCoco",
        refs_file="grefs(<split_by>).json or .p",
        title="gRefCOCO",
        paper="Liu et al., GRES: Generalized Referring Expression Segmentation, "
        "https://huggingface.co/papers/2306.00968",
        terms=COCO_TERMS + "Expressions: see the authors' page.",
    ),
    DatasetSpec(
        name="phrasecut",
        title="PhraseCut",
        kind="image",
        builder=".datasets_scripts.phrasecut:PhraseCut",
        partitions=(
            Partition(
                ("train", "val", "test", "miniv"),
                # The published 20,316 phrases of val are those of both its files: miniv is a part of val in a file of
                # its own, which is not in that of val.
                published={
                    "train": (310816, 310816),
                    "val": (20316 - 821, 20316 - 821),
                    "test": (14354, 14354),
                    "miniv": (821, 821),
                },
                totals={"referents": 345486, "sentences": 345486, "images": 77262},
            ),
        ),
        options=(DATA_DIR, IMAGE_DIR, *FILE_OPTIONS, CACHE_DIR),
        collection="Visual Genome",
        other_ids={"coco_id": COCO},
        paper="Wu et al., PhraseCut: Language-Based Image Segmentation in the Wild, "
        "https://huggingface.co/papers/2008.01187",
        terms="Photographs: the terms of Visual Genome, CC BY 4.0, and of Flickr, each its own. Phrases and regions: "
        "see the authors' page.",
        layout=(
            "VGPhraseCut_v0/refer_{train,val,test,miniv}.json",
            "VGPhraseCut_v0/image_data_split.json",
            "VGPhraseCut_v0/images/<image_id>.jpg or VG_100K/ and VG_100K_2/",
        ),
        protocol="phrasecut",
    ),
    DatasetSpec(
        name="refer",
        title="REFER format",
        kind="image",
        builder=".datasets_scripts.refer_format:ReferFormat",
        partitions=(Partition((), "unc"),),
        options=(*REFER_OPTIONS, DATASET),
        collection=None,
        paper="that of the data set, which is in the format of the REFER collection",
        terms="Images and expressions: the terms of the data set.",
        layout=("<dataset>/refs(<split_by>).p or .json", "<dataset>/instances.json", "images/<dataset>/ or image_dir"),
        settings={
            "usual_image_dirs": (
                *("images/{dataset}/JPEGImages", "images/{dataset}", "{dataset}/JPEGImages", "{dataset}/images"),
                *COCO_IMAGES,
            )
        },
    ),
    _refshapes("refshapes"),
    _refshapes("refshapes+"),
    _refshapes("grefshapes"),
    _refshapes(
        "refshapes_video",
        "video",
        NUM_FRAMES,
        builder=".datasets_scripts.refshapes_video:RefShapesVideo",
        words=".datasets_scripts.refshapes_video:REFSHAPES_VIDEO_WORDS",
        protocol="davis",
    ),
    DatasetSpec(
        name="ref_youtube_vos",
        title="Refer-YouTube-VOS",
        kind="video",
        builder=".datasets_scripts.ref_youtube_vos:ReferYouTubeVos",
        # Of test few people have the frames, and then it is no split of theirs.
        partitions=(
            Partition(
                ("train", "valid", "test"),
                published={"train": (6388, 12913, 3471), "valid": (None, None, 202), "test": ()},
            ),
        ),
        options=(DATA_DIR, *FILE_OPTIONS, CACHE_DIR),
        collection="YouTube-VOS",
        paper="Seo et al., URVOS: Unified Referring Video Object Segmentation Network with a Large-Scale Benchmark, "
        "ECCV 2020",
        terms="Videos and masks: the terms of YouTube-VOS. Expressions: see the authors' page.",
        layout=(
            "meta_expressions/{train,valid,test}/meta_expressions.json",
            "{train,valid,test}/JPEGImages/<video>/<frame>.jpg",
            "train/Annotations/<video>/<frame>.png",
        ),
        protocol="davis",
    ),
    DatasetSpec(
        name="ref_davis17",
        title="Ref-DAVIS17",
        kind="video",
        builder=".datasets_scripts.ref_davis17:RefDavis17",
        partitions=(Partition(("train", "val"), published={"train": (None, None, 60), "val": (61, 244, 30)}),),
        options=(DATA_DIR, *FILE_OPTIONS, CACHE_DIR, ANNOTATIONS),
        collection="DAVIS 2017",
        paper="Khoreva et al., Video Object Segmentation with Language Referring Expressions, "
        "https://huggingface.co/papers/1803.08006",
        terms="Videos and masks: the terms of DAVIS 2017, non-commercial. Expressions: see the authors' page.",
        layout=(
            "DAVIS/JPEGImages/480p/<video>/<frame>.jpg",
            "DAVIS/{Annotations_unsupervised,Annotations}/480p/<video>/<frame>.png",
            "DAVIS/ImageSets/2017/{train,val}.txt",
            "davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt",
        ),
        protocol="davis",
    ),
    DatasetSpec(
        name="a2d_sentences",
        title="A2D-Sentences",
        kind="video",
        builder=".datasets_scripts.a2d_sentences:A2dSentences",
        # The copied line of the files and their 28 videos without sentences are not counted.
        partitions=(
            Partition(
                ("train", "test"),
                published={"train": (None, None, 3017), "test": (None, None, 737)},
                totals={"referents": 6654, "sentences": 6654, "videos": 3754},
            ),
        ),
        options=(DATA_DIR, *FILE_OPTIONS, CACHE_DIR, CONTEXT_FRAMES),
        collection="A2D",
        paper=ACTOR_ACTION,
        terms="Videos and masks: the terms of the Actor-Action Dataset (A2D). Expressions: see the authors' page.",
        layout=(
            "a2d_annotation.txt, a2d_missed_videos.txt (also under text_annotations/)",
            "a2d_annotation_with_instances/<video>/<frame>.h5",
            "Release/videoset.csv",
            "Release/frames/<video>/<number>.jpg or Release/clips320H/<video>.mp4",
        ),
        protocol="a2d",
        package="h5py",
    ),
    DatasetSpec(
        name="jhmdb_sentences",
        title="JHMDB-Sentences",
        kind="video",
        builder=".datasets_scripts.jhmdb_sentences:JhmdbSentences",
        partitions=(Partition(("test",), published={"test": (928, 928, 928)}),),
        options=(DATA_DIR, *FILE_OPTIONS, CACHE_DIR),
        collection="JHMDB",
        paper=ACTOR_ACTION,
        terms="Videos and puppet masks: the terms of JHMDB. Expressions: see the authors' page.",
        layout=(
            "jhmdb_annotation.txt or samples_metadata.json",
            "Rename_Images/<action>/<video>/<number>.png",
            "puppet_mask/<action>/<video>/puppet_mask.mat",
        ),
        protocol="a2d",
        package="scipy",
    ),
    DatasetSpec(
        name="folder",
        title="Own pictures",
        kind="image",
        builder=".datasets_scripts.folder:Folder",
        partitions=(Partition(()),),
        options=FOLDER_OPTIONS,
        collection=None,
        paper="none; pictures and sentences of one's own",
        terms="Whoever shares the pictures and sentences has to say under which terms.",
        layout=("pictures and metadata.jsonl, labels.csv, an export of COCO's format ..., see docs/own_data.md",),
    ),
)
DATASETS = {spec.name: spec for spec in SPECS}
# What is trained on where nothing is named: they need no files.
DEFAULT_DATASETS = {"image": "refshapes", "video": "refshapes_video"}


def data_options() -> dict[str, DataOption]:
    """Every option that some data set takes, by its name."""
    return {option.name: option for spec in DATASETS.values() for option in spec.options}


def collections() -> set[str]:
    """All that images of these data sets are known to come from."""
    return {spec.collection for spec in DATASETS.values() if spec.collection is not None}
