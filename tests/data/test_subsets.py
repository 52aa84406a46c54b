"""A part of the sentences of a data set is drawn the same each time, and carries along what belongs to it."""

from itertools import chain

import pytest

from hf_refseg import load_refseg
from hf_refseg.data.subsets import draw_sentences


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    options = {"train_size": 6, "val_size": 1, "test_size": 1, "image_size": 64}
    return load_refseg("refshapes", **options, cache_dir=str(tmp_path_factory.mktemp("cache")))["train"]


def drawn_ids(rows) -> list[str]:
    return [sentence["sent_id"] for sentence in chain.from_iterable(rows["sentences"])]


def test_sentences_are_drawn_with_their_referents(rows) -> None:
    whole = drawn_ids(rows)
    few, more = (draw_sentences(rows, number) for number in (5, 12))
    assert len(drawn_ids(few)) == 5 and len(drawn_ids(more)) == 12 < len(whole)
    # Which are a part of those, in their order, and not simply the first ones.
    assert set(drawn_ids(few)) < set(drawn_ids(more)) and drawn_ids(more) == [
        each for each in whole if each in set(drawn_ids(more))
    ]
    assert drawn_ids(more) != whole[:12] and drawn_ids(draw_sentences(rows, 12)) == drawn_ids(more)
    assert few.features == rows.features and few.column_names == rows.column_names
    by_id = {row["ref_id"]: row for row in rows}
    for row in few:
        original = by_id[row["ref_id"]]
        assert row["sentences"] and all(sentence in original["sentences"] for sentence in row["sentences"])
        assert (row["mask"], row["image_id"]) == (original["mask"], original["image_id"])
        assert list(row["image"].getdata()) == list(original["image"].getdata())


def test_all_sentences_are_the_data_set_and_more_are_an_error(rows) -> None:
    total = len(drawn_ids(rows))
    assert draw_sentences(rows, total)[:]["sentences"] == rows[:]["sentences"]
    with pytest.raises(ValueError, match=f"There are {total} sentences .* not {total + 1}: lower max_train_sentences"):
        draw_sentences(rows, total + 1)
