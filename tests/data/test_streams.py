"""Streamed rows and their examples: the same as those that are loaded, shared out, and shuffled."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import datasets
import pytest
from pyarrow.parquet import ParquetFile
from torch.utils.data import DataLoader, IterableDataset

from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError, InvalidRowError
from hf_refseg.data.streams import StreamedImages, StreamedReferents

SIZES = {"train_size": 8, "val_size": 3, "test_size": 2, "image_size": 64}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def prepared(cache: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """25 rows to train on, in five files."""
    folder = tmp_path_factory.mktemp("prepared") / "shapes"
    return str(prepare_dataset("refshapes", None, folder, max_shard_rows=5, cache_dir=cache, **SIZES))


@pytest.fixture(scope="module")
def train(prepared: str) -> datasets.IterableDataset:
    return load_refseg(prepared, streaming=True)["train"]


@pytest.fixture(scope="module")
def ref_ids(train: datasets.IterableDataset) -> list[str]:
    return list(train["ref_id"])


def drawn(examples: StreamedReferents, epoch: int = 0) -> list[tuple[str, str]]:
    """Referent and sentence of the items of an epoch."""
    return [(item["ref_id"], item["sent_id"]) for item in examples.items_of_epoch(epoch)]


def refs(examples: StreamedReferents, epoch: int = 0) -> list[str]:
    return [ref_id for ref_id, _ in drawn(examples, epoch)]


def test_streamed_rows_are_those_that_are_loaded(prepared, cache):
    streamed, loaded = load_refseg(prepared, streaming=True), load_refseg(prepared, cache_dir=cache)
    assert isinstance(streamed, datasets.IterableDatasetDict)
    assert list(streamed) == list(loaded) == ["train", "val", "test"]
    for split, rows in streamed.items():
        assert rows.features == loaded[split].features
        assert list(rows) == list(loaded[split])
    assert list(load_refseg(prepared, streaming=True, splits=["test"])) == ["test"]


def test_streamed_ids_that_were_numbers_are_texts_and_missing_columns_are_named(train, tmp_path):
    rows = datasets.Dataset.from_list(list(train.take(2)), features=train.features)
    rows = rows.map(lambda row: {"ann_ids": [7, 8]}).cast_column("ann_ids", datasets.List(datasets.Value("int64")))
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Shapes")
    rows.to_parquet(tmp_path / "data" / "train-0.parquet")
    streamed = load_refseg(str(tmp_path), streaming=True)["train"]
    assert [row["ann_ids"] for row in streamed] == [["7", "8"]] * 2
    rows.remove_columns("sentences").to_parquet(tmp_path / "data" / "train-0.parquet")
    with pytest.raises(DataFormatError, match="lacks the columns sentences"):
        load_refseg(str(tmp_path), streaming=True)


@pytest.mark.parametrize(("name", "arguments"), [("refshapes", "refshapes"), ("refcoco", "refcoco DIR")])
def test_rows_that_have_to_be_made_are_not_streamed(name, arguments):
    with pytest.raises(ValueError, match=f"{name} cannot be streamed.*hf-refseg prepare {arguments} --output FOLDER"):
        load_refseg(name, streaming=True)


def test_the_order_follows_from_seed_and_epoch(train, ref_ids):
    first, second = (refs(StreamedReferents(train, seed=3), epoch) for epoch in (0, 1))
    assert first != second
    assert first != ref_ids
    assert sorted(first) == sorted(second) == sorted(ref_ids)
    assert refs(StreamedReferents(train, seed=3)) == first
    assert refs(StreamedReferents(train, seed=4)) != first


@pytest.fixture
def one_file(train: datasets.IterableDataset, tmp_path: Path) -> datasets.IterableDataset:
    """The same rows in one file, in five groups."""
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("# Shapes")
    rows = datasets.Dataset.from_list(list(train), features=train.features)
    rows.to_parquet(tmp_path / "data" / "train-0.parquet", batch_size=5)
    return load_refseg(str(tmp_path), streaming=True)["train"]


def test_rows_are_drawn_among_those_in_the_buffer(train, one_file, ref_ids):
    """With one row there, the groups of rows alone come in another order, in one file as well as in five."""
    groups = [ref_ids[start : start + 5] for start in range(0, 25, 5)]
    for rows in (train, one_file):
        drawn_refs = refs(StreamedReferents(rows, buffer_size=1))
        assert sorted(drawn_refs[start : start + 5] for start in range(0, 25, 5)) == groups
        assert drawn_refs != ref_ids


def test_the_sentence_of_a_row_is_drawn_anew_in_each_epoch_and_alike_on_all_nodes(train):
    whole = StreamedReferents(train, seed=1)
    sentences = dict(drawn(whole))
    assert sentences != dict(drawn(whole, epoch=1))
    for nodes in (2, 5):
        shared = [pair for rank in range(nodes) for pair in drawn(StreamedReferents(train, 1, rank, nodes))]
        assert dict(shared) == sentences


@pytest.mark.parametrize("nodes", [2, 5])
def test_nodes_see_rows_of_their_own_that_make_the_whole(train, ref_ids, nodes):
    """Five files divide evenly among five nodes; of two nodes each takes every other row."""
    for epoch in (0, 1):
        parts = [refs(StreamedReferents(train, 0, rank, nodes), epoch) for rank in range(nodes)]
        assert sorted(chain.from_iterable(parts)) == sorted(ref_ids)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


class OneEpoch(IterableDataset):
    """The referents of an epoch, as each worker process of a DataLoader sees its own."""

    def __init__(self, examples: StreamedReferents) -> None:
        self.examples = examples

    def __iter__(self) -> Iterator[str]:
        yield from refs(self.examples, epoch=1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("nodes", "workers"), [(2, 2), (1, 6)])
def test_workers_see_rows_of_their_own_as_well(train, ref_ids, nodes, workers):
    """Of six workers one finds none of the five files left."""
    seen = [
        ref_id
        for rank in range(nodes)
        for ref_id in DataLoader(OneEpoch(StreamedReferents(train, 0, rank, nodes)), None, num_workers=workers)
    ]
    assert sorted(seen) == sorted(ref_ids)


def test_rows_that_are_damaged_or_have_gaps_are_named(train, one_file, tmp_path):
    file = tmp_path / "data" / "train-0.parquet"
    content, column = bytearray(file.read_bytes()), ParquetFile(file).metadata.row_group(2).column(0)
    content[column.data_page_offset : column.data_page_offset + 30] = bytes([255] * 30)
    file.write_bytes(content)
    for examples in (StreamedReferents(one_file), StreamedImages(one_file)):
        with pytest.raises(DataFormatError, match=r"cannot be read further: .* prepare the data set again"):
            list(islice(examples, 25))
    for column in ("image", "mask", "sentences", "image_id"):
        gaps = train.map(lambda row, name=column: {name: None}, features=train.features)
        with pytest.raises(InvalidRowError, match=f"Row train-000000-0 has no {column}. Remove it"):
            next(iter(StreamedImages(gaps)))


def test_a_stream_has_no_end_and_an_empty_one_is_an_error(train, ref_ids):
    examples = iter(StreamedReferents(train))
    epochs = [sorted(next(examples)["ref_id"] for _ in ref_ids) for _ in range(2)]
    assert epochs == [sorted(ref_ids)] * 2
    with pytest.raises(ValueError, match="nothing to train on: node 0 of 1 finds no row"):
        next(iter(StreamedReferents(train.filter(lambda row: False))))
