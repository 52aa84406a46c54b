"""Scores of groups of sentences: groups share sentences out, and their scores are those of their records."""

import dataclasses
import json

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from hf_refseg.data.masks import InvalidMaskError, encode_mask
from hf_refseg.data.rows import VOID, row_features, video_features
from hf_refseg.evaluation.groups import (
    FEWEST_OF_CATEGORY,
    Description,
    break_down,
    breakdown_table,
    describe_sentences,
    draw_breakdown,
    group_records,
)
from hf_refseg.evaluation.record_scores import intervals_of_records, scores_of_records
from hf_refseg.evaluation.video import SequenceScores
from hf_refseg.visualization.bar_charts import BAR_COLOR, draw_bars

SIDE = 20
TEXTS = [
    "left one",
    "the red one",
    "not the left one",
    "dog",
    "two dogs next to the tree on the far side of the street",
]


def mask_of(pixels: int) -> dict:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask.flat[:pixels] = True
    return encode_mask(mask)


def row(image: str, ref: str, category: str, pixels: int, ann_ids: list[str], sentences: int = 1) -> dict:
    return {
        "image": Image.new("RGB", (SIDE, SIDE)),
        "image_id": image,
        "ref_id": ref,
        "ann_ids": ann_ids,
        "category": category,
        "mask": mask_of(pixels),
        "bbox": [0.0] * 4,
        "no_target": pixels == 0,
        "sentences": [{"sent_id": f"{ref}-{number}", "raw": "it", "sent": "it"} for number in range(sentences)],
    }


def image_rows(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=row_features())


def image_records(images: int = 40) -> list[dict]:
    generator, records = np.random.default_rng(0), []
    for image in range(images):
        for number, text in enumerate(TEXTS):
            union = int(generator.integers(1, 100))
            hit = int(generator.integers(union + 1))
            ids = {"image_id": str(image), "ref_id": str(number), "sent_id": str(number), "text": text}
            is_none = number == 3 and image % 2 == 0
            record = {**ids, "intersection": 0 if is_none else hit, "union": union, "no_target": is_none}
            records.append({**record, "present": bool(generator.integers(2)), "iou": hit / union})
    return records


def descriptions_of(records: list[dict]) -> dict:
    """Dogs, one cat for each two dogs, and few birds."""
    categories = ["dog", "dog", "cat", "", "dog"]
    found = {}
    for number, record in enumerate(records):
        category = "bird" if number < 10 else categories[number % 5]
        area = None if record["no_target"] else (number % 7) / 10
        found[record["image_id"], record["ref_id"], record["sent_id"]] = Description(
            category, area, None if record["no_target"] else number % 6 + 1
        )
    return found


def test_rows_tell_category_size_and_how_many_of_a_kind_there_are():
    rows = image_rows(
        row("a", "1", "dog", 40, ["11"], sentences=2),
        row("a", "2", "dog", 4, ["12"]),
        # The same dog once more, and all dogs with a cat.
        row("a", "3", "dog", 4, ["12"]),
        row("a", "4", "dog, cat", 200, ["11", "12", "13"]),
        row("a", "5", "", 10, ["14"]),
        row("a", "6", "", 0, []),
        row("b", "7", "dog", 400, []),
        row("b", "8", "dog", 400, []),
    )
    found = describe_sentences(rows)
    assert found == {
        ("a", "1", "1-0"): Description("dog", 0.1, 2),
        ("a", "1", "1-1"): Description("dog", 0.1, 2),
        ("a", "2", "2-0"): Description("dog", 0.01, 2),
        ("a", "3", "3-0"): Description("dog", 0.01, 2),
        ("a", "4", "4-0"): Description("dog, cat", 0.5, 3),
        ("a", "5", "5-0"): Description("", 0.025, None),
        ("a", "6", "6-0"): Description("", None, None),
        # Without annotations every referent is one object.
        ("b", "7", "7-0"): Description("dog", 1.0, 2),
        ("b", "8", "8-0"): Description("dog", 1.0, 2),
    }
    assert describe_sentences(rows.to_iterable_dataset()) == found


def test_a_damaged_mask_is_named():
    damaged = {**row("a", "ref-1", "dog", 4, []), "mask": {"size": [SIDE, SIDE], "counts": "1"}}
    with pytest.raises(InvalidMaskError, match="A mask of ref-1 cannot be decoded"):
        describe_sentences(image_rows(damaged))


def test_videos_tell_the_same_of_the_frames_that_show_the_target():
    def referent(ref: str, category: str, *pixels: int, texts: int = 1) -> dict:
        sentences = [{"sent_id": str(each), "raw": "it", "sent": "it", "annotator": ""} for each in range(texts)]
        masks = list(map(mask_of, pixels))
        numbers = list(range(len(pixels)))
        return {
            **{"ref_id": ref, "category": category, "annotated_frames": numbers, "masks": masks},
            "sentences": sentences,
        }

    referents = [
        referent("1", "dog", 40, 0, 80),
        referent("2", "dog", 4, 4, 4, texts=0),
        referent("3", "cat", 0, 0, 0),
        referent("4", VOID, 9, 9, 9, texts=0),
    ]
    video = {"video_id": "v", "frame_names": list("abc"), "frames": [Image.new("RGB", (SIDE, SIDE))] * 3}
    rows = Dataset.from_list([{**video, "referents": referents}], features=video_features())
    assert describe_sentences(rows) == {
        ("v", "1", "0"): Description("dog", pytest.approx(0.15), 2),
        ("v", "3", "0"): Description("cat", None, None),
    }


def test_the_groups_of_a_kind_share_the_sentences_out():
    records = image_records()
    descriptions = descriptions_of(records)
    grouped = group_records(records, descriptions)
    assert list(grouped) == ["words", "length", "target", "area", "same category", "category"]
    assert {name: len(members) for name, members in grouped["words"].items()} == {
        **{"place": 120, "relation": 40, "color": 40, "negation": 40, "plural": 40},
        "none of these": 40,
    }
    assert {name: len(members) for name, members in grouped["length"].items()} == {
        **{"1 or 2 words": 80, "3 to 5 words": 80},
        "11 words or more": 40,
    }
    assert {name: len(members) for name, members in grouped["target"].items()} == {"target": 180, "no target": 20}
    for kind, known in (("area", 180), ("same category", 180), ("category", 10 + 4 * 38)):
        members = [id(record) for of_group in grouped[kind].values() for record in of_group]
        assert len(members) == len(set(members)) == known, kind
    # Ten birds are too few, and what has no category is in no group.
    assert {name: len(members) for name, members in grouped["category"].items()} == {
        **{"dog": 114, "cat": 38},
        "all others": 10,
    }
    assert FEWEST_OF_CATEGORY == 30
    areas = [
        descriptions[tuple(record[name] for name in ("image_id", "ref_id", "sent_id"))].area for record in records
    ]
    assert len(grouped["area"]["below 1 %"]) == areas.count(0.0)
    assert len(grouped["area"]["20 % or more"]) == sum(area is not None and area >= 0.2 for area in areas)
    assert len(grouped["same category"]["4 objects or more"]) == sum(
        each.same_category is not None and each.same_category > 3 for each in descriptions.values()
    )


def test_words_and_length_need_no_data_set_and_targets_are_told_apart_where_some_have_none():
    records = [record for record in image_records() if not record["no_target"]]
    assert list(group_records(records)) == ["words", "length"]


@pytest.mark.parametrize("protocol", ["original", "rela"])
def test_the_scores_of_groups_are_those_of_their_records(protocol):
    records = image_records()
    breakdown = break_down(records, protocol, descriptions_of(records), samples=50, seed=3)
    grouped = group_records(records, descriptions_of(records))
    assert [(each.kind, each.group) for each in breakdown] == [
        (kind, name) for kind in grouped for name in grouped[kind]
    ]
    for each in breakdown:
        members = grouped[each.kind][each.group]
        assert each.metrics == scores_of_records(members, protocol)
        assert each.intervals == intervals_of_records(members, protocol, samples=50, seed=3)
        assert each.sentences == len(members)
        assert each.images == len({record["image_id"] for record in members})
    mean = "gIoU" if protocol == "rela" else "mIoU"
    lengths = [each for each in breakdown if each.kind == "length"]
    whole = sum(each.metrics[mean] * each.sentences for each in lengths) / sum(each.sentences for each in lengths)
    assert whole == pytest.approx(scores_of_records(records, protocol)[mean])
    json.dumps(list(map(dataclasses.asdict, breakdown)), allow_nan=False)


def test_the_table_has_a_line_for_each_group():
    records = image_records()
    breakdown = break_down(records, "original", samples=20)
    header, *lines = breakdown_table(breakdown).splitlines()
    assert header.split() == [
        "kind",
        "group",
        "sentences",
        "oIoU",
        "95",
        "%",
        "interval",
        "mIoU",
        "95",
        "%",
        "interval",
    ]
    assert len(lines) == len(breakdown)
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["words", "length", "target"]
    place = breakdown[0]
    assert lines[0].split()[:5] == [
        "words",
        "place",
        "120",
        f"{place.metrics['oIoU']:.2f}",
        f"{place.intervals['oIoU'][0]:.2f}",
    ]
    assert "95 % interval" in header and "nan" not in breakdown_table(break_down(records, "original", samples=0))


def test_the_picture_has_a_bar_for_each_group():
    records = image_records()
    breakdown = break_down(records, "original", samples=20)
    picture = draw_breakdown(breakdown, "shapes val")
    heights = [draw_breakdown(breakdown[:count], "shapes val").height for count in (1, 2)]
    # One line for each group and each kind.
    kinds = len({each.kind for each in breakdown})
    assert picture.height - heights[0] == (len(breakdown) - 1 + kinds - 1) * (heights[1] - heights[0])
    longer = [
        dataclasses.replace(each, metrics={"mIoU": value}) for each, value in zip(breakdown, (0, 50), strict=False)
    ]
    lengths = [np.count_nonzero((np.asarray(draw_breakdown([each], "")) == BAR_COLOR).all(axis=-1)) for each in longer]
    assert lengths[0] < lengths[1] / 50
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_bars([], "")


def test_sentences_of_other_data_are_named():
    records = image_records()
    descriptions = descriptions_of(records)
    del descriptions["7", "2", "2"]
    with pytest.raises(ValueError, match="Image '7', reference '2', sentence '2' is not in the data set"):
        break_down(records, "original", descriptions)


def test_sentences_about_videos_are_grouped_alike_and_objects_without_one_are_left_out():
    records = [
        {
            **{"video_id": f"v{number // 3}", "ref_id": "1", "sent_id": str(number), "annotator": "1"},
            **{"text": ["a dog", "left dog", ""][number % 3], "frames": 2},
            **SequenceScores([number / 20] * 2, [0.5] * 2).measures(),
        }
        for number in range(12)
    ]
    breakdown = break_down(records, "davis", samples=20)
    assert [(each.kind, each.group, each.sentences, each.images) for each in breakdown] == [
        ("words", "place", 4, 4),
        ("words", "none of these", 4, 4),
        ("length", "1 or 2 words", 8, 4),
    ]
    assert breakdown[0].metrics["J"] == pytest.approx(100 * np.mean([1, 4, 7, 10]) / 20)
