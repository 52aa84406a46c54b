"""A data set is one record and one builder: everything else follows from the record."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer
from datasets import DatasetBuilder, DatasetDict
from phrasecut_tree import make_phrasecut
from places import CHECKOUT
from toy_dataset import TOY, write_toy
from typer.main import get_command
from typer.testing import CliRunner
from video_trees import make_a2d, make_davis, make_jhmdb, make_youtube_vos

from hf_refseg.commands.evaluate import choose_protocol
from hf_refseg.commands.info import describe_dataset, describe_installation
from hf_refseg.commands.options import check_data_options, with_data_options
from hf_refseg.data import catalog
from hf_refseg.data.catalog import COCO, DATASETS, DatasetSpec, data_options
from hf_refseg.data.leakage import image_collection, join_training_splits
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.evaluation import VIDEO_PROTOCOLS, protocols
from hf_refseg.evaluation.protocols import PROTOCOLS
from hf_refseg.training.options import holds_videos
from hf_refseg.training.run_options import without_paths

SPECS = pytest.mark.parametrize("spec", DATASETS.values(), ids=DATASETS)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of the toy's files; its record is in the catalog."""
    monkeypatch.setitem(DATASETS, TOY.name, TOY)
    return write_toy(tmp_path / "toy")


def test_a_new_data_set_is_loaded(toy: Path, tmp_path: Path) -> None:
    dataset = load_refseg("toy", toy, cache_dir=tmp_path)
    assert {split: rows["image_id"] for split, rows in dataset.items()} == {"train": ["1", "2", "3"], "val": ["4"]}
    dark = load_refseg("toy", toy, "two", gray=7, cache_dir=tmp_path)
    assert list(dark) == ["train"] and dark["train"][0]["image"].getextrema() == (7, 7)
    with pytest.raises(ValueError, match=r"toy has no option 'grey', only data_dir, .*did you mean gray"):
        load_refseg("toy", toy, grey=7)
    with pytest.raises(ValueError, match="Unknown split_by 'unc' for toy"):
        load_refseg("toy", toy, "unc")
    with pytest.raises(ValueError, match=r"pass data_dir, the folder that holds <split_by>/<split>\.txt"):
        load_refseg("toy")
    with pytest.raises(DataFormatError, match="absent does not exist"):
        load_refseg("toy", tmp_path / "absent")


def test_a_new_data_set_is_prepared(toy: Path, tmp_path: Path) -> None:
    folder = prepare_dataset("toy", toy, tmp_path / "out", verify=True, gray=9, cache_dir=tmp_path / "cache")
    card = (folder / "README.md").read_text()
    for line in ("pretty_name: Toy Halves", "license: cc0-1.0", "Paper: Nobody et al.", "Free for all.", "gray = 9"):
        assert line in card
    assert "split_by = one" in card.replace("\\", "") and str(tmp_path) not in card
    read = load_refseg(str(folder), cache_dir=tmp_path / "read")
    assert read["train"]["image_id"] == ["1", "2", "3"] and describe_dataset(folder).startswith("split")
    (toy / "one/val.txt").write_text("4 left\n6 right")
    with pytest.raises(DataFormatError, match=r"\| val \| referents \| 1 \| 2 \| \+1 \|"):
        prepare_dataset("toy", toy, tmp_path / "more", verify=True, cache_dir=tmp_path / "anew")


def test_the_images_of_a_new_data_set_leak_as_those_of_its_collection(toy: Path, tmp_path: Path) -> None:
    folder = prepare_dataset("toy", toy, tmp_path / "out", cache_dir=tmp_path / "cache")
    assert image_collection("toy") == image_collection(str(folder)) == image_collection("refcoco") == COCO
    loaded = load_refseg("toy", toy, cache_dir=tmp_path / "cache")
    renamed = {"image_id": ["2"]}
    other = DatasetDict(train=loaded["train"], val=loaded["val"].map(lambda _: renamed, batched=True))
    train, parts = join_training_splits({"toy": loaded, "refcoco": other})
    assert set(train["image_id"]) == {"1", "3"} and parts["toy"].dropped_images == 1


def test_the_options_of_a_new_data_set_are_those_of_the_command_line(toy: Path) -> None:
    app, given = typer.Typer(), []

    @app.command()
    @with_data_options
    def command(*, data_options: dict[str, Any]) -> None:
        given.append(data_options)

    helps = {parameter.name: parameter.help for parameter in get_command(app).params}
    assert helps["gray"] == "Toy Halves: value of all pixels." and data_options().keys() <= helps.keys()
    assert CliRunner().invoke(app, ["--gray", "-1"]).exit_code == 2
    assert CliRunner().invoke(app, ["--gray", "5", "--data-dir", "x"]).exit_code == 0
    assert given == [{"data_dir": Path("x"), "gray": 5}]
    with pytest.raises(ValueError, match=r"'refcoco' takes no --gray\. Leave it out\."):
        check_data_options("refcoco", {"gray": 5})
    assert "grefcoco" in describe_installation() and ", toy" in describe_installation()


def test_a_new_data_set_is_trained_on_and_scored(toy: Path, tmp_path: Path) -> None:
    rows = load_refseg("toy", toy, cache_dir=tmp_path)["val"]
    assert choose_protocol(None, "toy", rows) == "rela" and not holds_videos("toy")
    assert without_paths({"data_dir": "/data", "gray": 3}) == {"gray": 3}


def test_a_prepared_data_set_is_scored_as_its_original_is(tmp_path: Path) -> None:
    cache = {"cache_dir": tmp_path / "cache"}
    folder = prepare_dataset("a2d_sentences", make_a2d(tmp_path / "a2d"), tmp_path / "out", **cache)
    rows = load_refseg(str(folder), **cache)["test"]
    assert choose_protocol(None, "a2d_sentences", rows) == choose_protocol(None, str(folder), rows) == "a2d"
    # Images and videos of one title are told apart by their rows.
    sizes = {"train_size": 1, "val_size": 1, "test_size": 1, "image_size": 64, "num_frames": 4}
    folder = prepare_dataset("refshapes_video", None, tmp_path / "shapes", **sizes, **cache)
    assert choose_protocol(None, str(folder), load_refseg(str(folder), **cache)["test"]) == "davis"
    assert choose_protocol(None, "elsewhere", rows) == "davis"


@SPECS
def test_a_record_is_whole(spec: DatasetSpec) -> None:
    assert DATASETS[spec.name] is spec and issubclass(spec.load_builder_class(), DatasetBuilder)
    assert spec.protocol in (VIDEO_PROTOCOLS if spec.kind == "video" else PROTOCOLS)
    for partition in spec.partitions:
        assert set(partition.published) <= set(partition.splits)
        assert partition.splits or not partition.totals
        assert set(partition.totals) <= {"referents", "sentences", "images" if spec.kind == "image" else "videos"}
    options = {option.name for option in spec.options}
    assert ("data_dir" in options) == bool(spec.layout) and "splits" in options
    assert ("split_by" in options) == all(partition.split_by for partition in spec.partitions)
    assert (spec.words is None) == bool(spec.layout)
    if spec.words is not None:
        assert len(set(spec.load_words())) == len(spec.load_words()) > 20


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("ref_youtube_vos", make_youtube_vos),
        ("ref_davis17", partial(make_davis, form="texts")),
        ("a2d_sentences", make_a2d),
        ("jhmdb_sentences", make_jhmdb),
        ("phrasecut", make_phrasecut),
    ],
)
def test_the_splits_of_a_record_are_those_of_its_builder(
    name: str, make: Callable[[Path], Path], tmp_path: Path
) -> None:
    dataset = load_refseg(name, make(tmp_path / "data"), cache_dir=tmp_path / "cache")
    assert tuple(dataset) == DATASETS[name].partition(None).splits


def test_an_option_means_the_same_for_all_data_sets() -> None:
    given = [option for spec in DATASETS.values() for option in spec.options]
    assert {option.name: option for option in reversed(given)} == data_options()


def test_each_title_is_that_of_one_collection() -> None:
    collections = {(spec.title, spec.collection) for spec in DATASETS.values()}
    assert len({title for title, _ in collections}) == len(collections)


def test_no_other_file_names_a_data_set() -> None:
    named = {}
    paths = [
        *(CHECKOUT / "hf_refseg").rglob("*.py"),
        *(CHECKOUT / "modeling").glob("*.py"),
        CHECKOUT / "hf_refseg_cli.py",
    ]
    assert len(paths) > 60
    for path in paths:
        if path != Path(catalog.__file__):
            texts = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
            # A protocol may be called after the data set that it is for.
            own = PROTOCOLS.keys() if path == Path(protocols.__file__) else set()
            named[path.name] = {text for text in texts if isinstance(text, str)} & DATASETS.keys() - own
    # An ordinary word, by which `predict --json` says where masks of a video lie.
    assert {name: found for name, found in named.items() if found} == {"shown_masks.py": {"folder"}}


# --- Documentation ---------------------------------------------------------------------------------------------------


def test_the_page_of_data_sets_names_every_one() -> None:
    page = (CHECKOUT / "docs" / "data.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `")]
    assert {name for line in table for name in line.split("|")[1].replace("`", "").replace(",", " ").split()} == {
        *DATASETS
    }


@pytest.mark.parametrize("spec", [spec for spec in DATASETS.values() if spec.kind == "video" and spec.layout])
def test_the_page_of_videos_tells_the_layout(spec: DatasetSpec) -> None:
    page = (CHECKOUT / "docs" / "video_data.md").read_text()
    section = page.partition(f"\n## {spec.title}: `{spec.name}`\n")[2].partition("\n## ")[0]
    assert section.split("```")[1].strip().splitlines() == list(spec.layout)
    (splits,) = (partition.splits for partition in spec.partitions)
    assert all(split in section for split in splits)


def test_the_page_of_images_tells_the_layout_of_phrasecut() -> None:
    spec = DATASETS["phrasecut"]
    page = (CHECKOUT / "docs" / "image_data.md").read_text()
    section = page.partition(f"\n## {spec.title}: `{spec.name}`\n")[2].partition("\n## ")[0]
    assert section.split("```")[1].strip().splitlines() == list(spec.layout)
    assert f"{spec.partitions[0].published['val'][1]:,}" in section
    assert all(f"{number:,}" in section for number in spec.partitions[0].totals.values())


@pytest.mark.parametrize("spec", [spec for spec in DATASETS.values() if "usual_image_dirs" in spec.settings])
def test_the_page_of_images_tells_partitions_and_places(spec: DatasetSpec) -> None:
    page = (CHECKOUT / "docs" / "image_data.md").read_text()
    (line,) = (line for line in page.splitlines() if line.startswith(f"| `{spec.name}` |"))
    _, _, _, who, splits, _ = line.split("|")
    if spec.partitions[0].splits:
        assert who.strip() == "; ".join(partition.split_by for partition in spec.partitions)
        assert splits.strip() == "; ".join(", ".join(partition.splits) for partition in spec.partitions)
    for place in spec.settings["usual_image_dirs"]:
        assert f"`{place.format(dataset='<dataset>')}/`" in page
