"""The card of labels: who made them out of which images, under which rules, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from huggingface_hub import DatasetCardData

from ..data.prepared import preview_name
from ..hub.dataset_card import IMAGE_TEXT, MASK_AND_SENTENCES, STORED_IMAGE, data_files, size_category
from ..hub.markdown import escape, front_matter, quoted, to_table
from ..yaml_texts import read_yaml
from .images import ImagesToLabel
from .shards import COUNTED

OUTCOME_TEXTS = {
    "images": "images",
    "unreadable": "images that could not be read",
    "failed": "images that the system failed on",
    "labeled": "masks",
    "no_target": "texts without a target",
    "not_found": "answers without a mask, left out",
    "low_score": "masks of a low score, left out",
}


def describe_counts(counts: Mapping[str, int]) -> str:
    """What there is of `COUNTED`, in words."""
    return ", ".join(f"{counts[name]:,} {OUTCOME_TEXTS[name]}" for name in COUNTED if counts[name])


def build_label_card(
    images: ImagesToLabel, made_by: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]
) -> str:
    """The text of the card of labels, whose shards lie in `data/<split>-*.parquet`.

    Args:
        images: what was labeled.
        made_by: all that answers depend on, by name: the "system", options, rules.
        counts: of each split with rows how many there are of `COUNTED`.
    """
    system = str(made_by["system"])
    metadata = DatasetCardData(
        license="other",
        pretty_name=f"{images.name}, labeled by {system}",
        task_categories=["image-segmentation"],
        tags=["referring-segmentation", "hf_refseg"],
        annotations_creators=["machine-generated"],
        source_datasets=list(images.source_datasets),
        size_categories=[size_category(sum(each["labeled"] + each["no_target"] for each in counts.values()))],
        configs=data_files(counts),
    )
    described = front_matter(read_yaml(metadata.to_yaml()))
    return f"{described}\n{_body(images, system, made_by, counts)}"


def _body(
    images: ImagesToLabel, system: str, made_by: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]]
) -> str:
    shown = [name for name in COUNTED if any(numbers[name] for numbers in counts.values())]
    table = to_table(
        ("split", *(OUTCOME_TEXTS[name] for name in shown)),
        ((split, *(numbers[name] for name in shown)) for split, numbers in counts.items()),
    )
    given = {escape(name): escape(str(value)) for name, value in made_by.items() if value is not None}
    options = "\n".join(f"- {name}: {value}" for name, value in given.items())
    previews = "\n\n".join(f"{escape(split)}:\n\n![{escape(split)}]({quote(preview_name(split))})" for split in counts)
    return f"""# {escape(images.name)}, labeled by {escape(system)}

No person has drawn or checked these masks: they are what a system answered.

{table}

{options}

```python
from hf_refseg import load_refseg
from hf_refseg.data.masks import decode_mask

dataset = load_refseg("this folder or repository")
row = dataset[{quoted(next(iter(counts)))}][0]
{IMAGE_TEXT.decoding}
```

## Preview

{previews}

## Columns

One row for each answer that was kept.

{STORED_IMAGE}
- `ref_id`: the image's id and a hash of the text; `ann_ids` the same where there is a mask; `category` is empty
{MASK_AND_SENTENCES}; `sent_id` is that of the sentence where it was one of the data set's own
- `score`: 0 to 1, how sure the system is of the mask

## Source and licence

The images, and the sentences where they have some of their own, are those of {escape(images.name)}, under the terms of
their authors; of the masks those of the system may say more.
"""
