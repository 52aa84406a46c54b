"""Data set cards: README.md whose metadata tells `load_dataset` every split, with counts, source and licence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from huggingface_hub import DatasetCard, DatasetCardData

from ..data.catalog import DATASETS, DatasetSpec
from ..data.findings import FILE as FINDINGS
from ..data.findings import Findings
from ..data.prepared import preview_name
from .markdown import escape, quoted, to_table


@dataclass(frozen=True)
class RowText:
    """What a card says about a row: what it is, a line of code that decodes a mask of it, and the list of columns."""

    rows: str
    decoding: str
    columns: str


STORED_IMAGE = """\
- `image`, `image_id`; rows of one image follow each other. Masks and boxes are of the image as it is stored;
  where its EXIF orientation says so, `row["image"]` is turned: PIL opens the bytes, which
  `dataset.cast_column("image", datasets.Image(decode=False))` has, as they are stored"""
MASK_AND_SENTENCES = """\
- `mask`: COCO's compressed run-length encoding, `{"size": [height, width], "counts": text}`; empty without a target
- `bbox`: x, y, width, height in pixels
- `no_target`: True where the sentence means nothing in the image
- `sentences`: `sent_id`, `raw` as written, `sent` normalized"""
IMAGE_TEXT = RowText(
    "One row for each referent of an image: the image, the mask of what is meant, and the sentences that mean it.",
    'mask = decode_mask(row["mask"])  # boolean, height x width of the image as it is stored',
    f"""{STORED_IMAGE}
- `ref_id`, `ann_ids`, `category` of the referent in the original files
{MASK_AND_SENTENCES}""",
)
VIDEO_TEXT = RowText(
    "One row for each video: its frames and its referents, each with masks and the sentences that mean it.",
    'masks = [decode_mask(mask) for mask in row["referents"][0]["masks"]]  # boolean, height x width of the frames',
    """- `video_id`, `frames`, `frame_names` of the original files without ending
- `referents`, each with
  - `ref_id`, `category`
  - `annotated_frames`: numbers of the frames that have a mask, places in `frames`; none where masks are not public
  - `masks`: theirs, COCO's compressed run-length encoding, `{"size": [height, width], "counts": text}`; empty where
    the referent is out of sight
  - `sentences`: `sent_id`, `raw` as written, `sent` normalized, `annotator` where each is scored on their own""",
)
ROW_TEXTS = {"image": IMAGE_TEXT, "video": VIDEO_TEXT}


def build_dataset_card(
    name: str,
    counts: Mapping[str, Mapping[str, int]],
    options: Mapping[str, str | int | None],
    findings: Findings,
) -> DatasetCard:
    """The card of a prepared data set, whose shards lie in `data/<split>-*.parquet`.

    Args:
        name: a key of `DATASETS`.
        counts: for each split, in order, the numbers of "referents", "sentences" and "images" (or "videos").
        options: the options the data set was prepared with, listed in the card.
        findings: what was repaired in the original files, or left out of them; the card says how many records.
    """
    spec = DATASETS[name]
    metadata = DatasetCardData(
        language="en",
        license=spec.license,
        pretty_name=spec.title,
        task_categories=["image-segmentation"],
        tags=["referring-segmentation", "hf_refseg"],
        size_categories=[size_category(sum(split["referents"] for split in counts.values()))],
        configs=data_files(counts),
    )
    return DatasetCard(f"---\n{metadata.to_yaml()}\n---\n\n{_body(spec, counts, options, findings)}")


def data_files(splits: Iterable[str]) -> list[dict[str, Any]]:
    """What a card's metadata say of the files of each split: `data/<split>-*.parquet`.

    Without it load_dataset renames val and leaves out testA and testB without a word.
    """
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    return [{"config_name": "default", "default": True, "data_files": files}]


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows."""
    limits = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
    return next((text for limit, text in limits.items() if rows < limit), "1M<n<10M")


def _body(
    spec: DatasetSpec,
    counts: Mapping[str, Mapping[str, int]],
    options: Mapping[str, str | int | None],
    findings: Findings,
) -> str:
    text = ROW_TEXTS[spec.kind]
    table = to_table(
        ("split", *next(iter(counts.values()))), ((split, *numbers.values()) for split, numbers in counts.items())
    )
    given = [escape(f"{option} = {value}") for option, value in options.items() if value is not None]
    prepared = ", ".join(given) or "defaults"
    other_ids = "".join(
        f"\n- `{column}`: the image's id in {collection}, null where it is not there"
        for column, collection in spec.other_ids.items()
    )
    found = "".join(f"\n- {escape(kind)}: {len(records)}" for kind, records in findings.records.items())
    repaired = f"\nFound in the original files, each listed in `{FINDINGS}`:\n{found}\n" if found else ""
    # Of a split without referents there is no picture.
    previews = "\n\n".join(
        f"{escape(split)}:\n\n![{escape(split)}]({quote(preview_name(split))})"
        for split, numbers in counts.items()
        if numbers["referents"]
    )
    return f"""# {spec.title} for referring segmentation

{text.rows}

{table}

Prepared by hf_refseg with: {prepared}.
{repaired}
```python
from hf_refseg import load_refseg
from hf_refseg.data.masks import decode_mask

dataset = load_refseg("this folder or repository")
row = dataset[{quoted(next(iter(counts)))}][0]
{text.decoding}
```

## Preview

{previews}

## Columns

{text.columns}{other_ids}

## Source and licence

Paper: {spec.paper}.

{spec.terms}
"""
