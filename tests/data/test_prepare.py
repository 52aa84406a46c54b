"""`prepare_dataset`: what `load_dataset` reads back, going on after a kill, damaged images, counts, the Hub."""

import json
import os
import pickle
import re
import shutil
import signal
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from fresh_process import run_python
from hub_server import TOKEN
from huggingface_hub import DatasetCard, HfApi
from PIL import Image
from places import FIXTURES
from typer.testing import CliRunner

from hf_refseg.data.catalog import DATASETS
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import count_rows, count_total, prepare_dataset, verify_counts
from hf_refseg.data.rows import DataFormatError, row_features
from hf_refseg.files import OutputError
from hf_refseg.hub.dataset_card import size_category
from hf_refseg_cli import app

GOLDEN = FIXTURES / "refer_api"
SPLITS = {"train": 17, "val": 6, "testA": 6, "testB": 6}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    return prepare_dataset("refcoco", GOLDEN, root / "refcoco", max_shard_rows=5, cache_dir=root / "cache")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the golden refcoco with its images, to damage."""
    root = tmp_path / "tree"
    shutil.copytree(GOLDEN / "refcoco", root / "refcoco")
    shutil.copytree(GOLDEN / "images", root / "images")
    return root


def prepare(tree: Path, output: Path, **options) -> Path:
    return prepare_dataset("refcoco", tree, output, **{"max_shard_rows": 5, "cache_dir": tree / "cache", **options})


def shard_states(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each finished shard: both change when a shard is written again."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.glob("data/*.parquet"))}


def without_image(rows: datasets.Dataset) -> list[dict]:
    return rows.remove_columns("image").to_list()


def test_load_dataset_reads_every_split_as_it_was(prepared, tmp_path):
    original = load_refseg("refcoco", GOLDEN, cache_dir=tmp_path / "original")
    read = datasets.load_dataset(str(prepared), cache_dir=tmp_path / "read")
    assert {split: rows.num_rows for split, rows in read.items()} == SPLITS
    assert list(read) == list(SPLITS)
    for split in SPLITS:
        assert read[split].features == row_features()
        assert without_image(read[split]) == without_image(original[split])
        for ours, theirs in zip(read[split], original[split], strict=True):
            assert ours["image"].convert("RGB").tobytes() == theirs["image"].convert("RGB").tobytes()


def test_a_folder_of_an_earlier_version_is_read_as_the_original_files_are(tmp_path):
    """`tests/fixtures/prepared` holds what `prepare` wrote before data sets were records of a catalog."""
    original = load_refseg("grefcoco", GOLDEN, cache_dir=tmp_path / "original")
    read = load_refseg(str(FIXTURES / "prepared" / "grefcoco"), cache_dir=tmp_path / "read")
    assert list(read) == list(original)
    for split, rows in original.items():
        assert without_image(read[split]) == without_image(rows)
        assert [row["image"].tobytes() for row in read[split]] == [row["image"].tobytes() for row in rows]


def test_images_are_embedded_as_their_original_bytes(prepared, tmp_path):
    rows = load_refseg(str(prepared), cache_dir=tmp_path)["testA"].cast_column("image", datasets.Image(decode=False))
    images = GOLDEN / "images" / "mscoco" / "images" / "train2014"
    for row in rows:
        assert row["image"]["bytes"] == (images / row["image"]["path"]).read_bytes()
        assert row["image_id"] in row["image"]["path"]


def test_the_card_lists_every_split_with_counts(prepared):
    card = DatasetCard.load(prepared / "README.md")
    (config,) = card.data.to_dict()["configs"]
    assert [entry["split"] for entry in config["data_files"]] == list(SPLITS)
    assert card.data.task_categories == ["image-segmentation"]
    assert card.data.size_categories == ["n<1K"]
    assert "| train | 17 | 35 | 6 |" in card.text
    assert "mask_overlap = union" in card.text and "CC BY 4.0" in card.text and "1608.00272" in card.text
    assert str(GOLDEN) not in card.content


def test_size_categories_are_the_hubs():
    rows = (999, 1_000, 42_404, 100_000, 2_000_000)
    assert [size_category(count) for count in rows] == ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M"]


def test_a_prepared_folder_is_left_as_it_is(prepared, tmp_path):
    before = shard_states(prepared)
    assert len(before) == 10
    prepare_dataset("refcoco", GOLDEN, prepared, max_shard_rows=5, cache_dir=tmp_path)
    assert shard_states(prepared) == before


KILLED_PREPARE = """
import os, signal
from pathlib import Path
from hf_refseg.data.prepare import prepare_dataset

replace, written = Path.replace, []

def replace_until_killed(self, target):
    written.extend([target] if str(target).endswith(".parquet") else [])
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = replace_until_killed
data, output, cache = folders
prepare_dataset("refcoco", data, output, max_shard_rows=5, cache_dir=cache)
"""


@pytest.mark.slow_process
def test_a_killed_run_goes_on_and_keeps_finished_shards(prepared, tmp_path):
    output = tmp_path / "output"
    folders = [str(folder) for folder in (GOLDEN, output, tmp_path / "cache")]
    run_python(f"folders = {folders!r}", KILLED_PREPARE, cwd=tmp_path, exit_status=-signal.SIGKILL)
    finished = shard_states(output)
    assert len(finished) == 3
    assert list(output.glob("data/*.partial"))
    with pytest.raises(DataFormatError, match=r"no prepared data set.*Finish or run"):
        load_refseg(str(output))

    prepare_dataset("refcoco", GOLDEN, output, max_shard_rows=5, cache_dir=tmp_path / "cache")
    after = shard_states(output)
    assert {name: after[name] for name in finished} == finished
    assert not list(output.rglob("*.partial"))
    for path in prepared.glob("data/*.parquet"):
        assert (output / "data" / path.name).read_bytes() == path.read_bytes()
    assert {split: rows.num_rows for split, rows in load_refseg(str(output), cache_dir=tmp_path).items()} == SPLITS


def replace_by_bomb(path: Path) -> None:
    """A PNG of 60000 x 60000 pixels by its header, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b""))


def replace_by_large(path: Path) -> None:
    """An image which PIL would open with no more than a warning."""
    Image.new("1", (10_000, 9_500)).save(path, format="PNG")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def resize(path: Path) -> None:
    Image.new("RGB", (30, 20)).save(path)


def image_of_test_a(tree):
    """The path of the first image of a split, and its row."""
    dataset = load_refseg("refcoco", tree, cache_dir=tree / "cache")
    row = dataset["testA"].cast_column("image", datasets.Image(decode=False))[0]
    return Path(row["image"]["path"]), row


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"is damaged or no image \(image file is truncated.*Download it again"),
        (lambda path: path.write_bytes(b""), "is damaged or no image.*Download it again"),
        (lambda path: path.write_text("<html>404</html>"), "is damaged or no image.*Download it again"),
        (replace_by_bomb, "is too large to open.*Replace it"),
        (replace_by_large, "is too large to open.*Replace it"),
        (resize, "has 30 x 20 pixels, its mask .*Replace it"),
        (Path.unlink, "does not exist. Download it"),
    ],
    ids=["truncated", "empty", "html", "bomb", "large", "resized", "missing"],
)
def test_a_bad_image_is_named_and_finished_shards_stay(damage, message, tree, tmp_path):
    image, row = image_of_test_a(tree)
    damage(image)
    output = tmp_path / "output"
    with pytest.raises(DataFormatError, match=message) as error:
        prepare(tree, output)
    assert str(image) in str(error.value) and f"ref {row['ref_id']}" in str(error.value)
    finished = shard_states(output)
    assert {name.split("-")[0] for name in finished} == {"train", "val"} and len(finished) == 6
    assert not (output / "README.md").exists()


def test_a_run_goes_on_once_its_image_is_whole(tree, tmp_path):
    image, _ = image_of_test_a(tree)
    content, output = image.read_bytes(), tmp_path / "output"
    image.unlink()
    with pytest.raises(DataFormatError):
        prepare(tree, output)
    finished = shard_states(output)
    assert len(finished) == 6
    image.write_bytes(content)
    prepare(tree, output)
    after = shard_states(output)
    assert len(after) == 10
    assert {name: after[name] for name in finished} == finished


def test_shards_of_other_inputs_or_options_are_never_reused(tree, tmp_path):
    output = prepare(tree, tmp_path / "output")
    before = shard_states(output)
    with pytest.raises(DataFormatError, match=r"different: mask_overlap, rows\).*Choose another output folder"):
        prepare(tree, output, mask_overlap="background")
    with pytest.raises(DataFormatError, match="different: max_shard_rows"):
        prepare(tree, output, max_shard_rows=6)
    instances = tree / "refcoco" / "instances.json"
    content = json.loads(instances.read_text())
    for annotation in content["annotations"]:
        annotation["bbox"][0] += 1
    instances.write_text(json.dumps(content))
    with pytest.raises(DataFormatError, match=r"different: rows\)"):
        prepare(tree, output)
    assert shard_states(output) == before


def test_folders_of_others_are_left_alone(tree, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(DataFormatError, match=r"holds other files.*empty folder"):
        prepare(tree, tmp_path)
    with pytest.raises(OutputError, match=r"letter\.txt cannot be written \(.*letter\.txt: Not a directory\)"):
        prepare(tree, tmp_path / "letter.txt")
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_a_damaged_shard_is_named(tree, tmp_path):
    output = prepare(tree, tmp_path / "output")
    shard = output / "data" / "val-00000-of-00002.parquet"
    content = shard.read_bytes()
    shard.write_bytes(content[:-50])
    with pytest.raises(DataFormatError, match=rf"{shard.name} is damaged.*Delete it"):
        prepare(tree, output)
    shard.write_bytes((output / "data" / "val-00001-of-00002.parquet").read_bytes())
    with pytest.raises(DataFormatError, match=r"has 1 rows instead of 5. Delete it"):
        prepare(tree, output)
    shard.unlink()
    prepare(tree, output)
    assert shard.read_bytes() == content


def garble_page(folder: Path) -> None:
    path = folder / "data" / "val-00000-of-00002.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:3] + b"\5" + content[3:])


def garble_footer(folder: Path) -> None:
    path = folder / "data" / "val-00000-of-00002.parquet"
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    path.write_bytes(content[: -8 - length] + b"\xff" * length + content[-8:])


def edit_card(old: str, new: bytes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "README.md"
        assert old.encode() in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old.encode(), new))

    return edit


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (garble_page, "output is damaged .*Prepare it again"),
        (garble_footer, r"val-00000-of-00002.parquet is damaged .*Prepare the data set again"),
        (edit_card("language", b"\xe8\xff"), r"README\.md: its metadata are damaged"),
        (edit_card("configs:", b"configs: [:"), r"README\.md: its metadata are damaged"),
        (edit_card("path: data/", b"path: /etc/"), r"README\.md lists files outside its folder: '/etc/"),
        (edit_card("path: data/", b"path: ../other/data/"), r"README\.md lists files outside its folder: '../other"),
    ],
    ids=["page", "footer", "no UTF-8", "no YAML", "absolute", "outside"],
)
def test_damage_of_a_prepared_folder_is_named(damage, message, prepared, tmp_path):
    for name in ("output", "other"):
        shutil.copytree(prepared, tmp_path / name)
    damage(tmp_path / "output")
    with pytest.raises(DataFormatError, match=message) as error:
        load_refseg(str(tmp_path / "output"), cache_dir=tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_verify_reports_every_difference_before_anything_is_written(tree, tmp_path):
    with pytest.raises(DataFormatError) as error:
        prepare(tree, tmp_path / "output", verify=True)
    for line in (
        "| train | referents | 42404 | 17 | -42387 |",
        "| testA | sentences | 5657 | 13 | -5644 |",
        "Download its annotation files again",
    ):
        assert line in str(error.value)
    assert not (tmp_path / "output").exists()


PUBLISHED = [
    (spec.name, partition)
    for spec in DATASETS.values()
    for partition in spec.partitions
    if spec.kind == "image" and (partition.published or partition.totals)
]


@pytest.mark.parametrize(("name", "partition"), PUBLISHED)
def test_verify_accepts_the_published_counts_alone(name, partition):
    counted = ("referents", "sentences", "videos" if DATASETS[name].kind == "video" else "images")
    counts = {
        split: dict.fromkeys(counted, 1) | {what: number or 1 for what, number in zip(counted, numbers, strict=False)}
        for split, numbers in partition.published.items()
    } or {split: dict.fromkeys(counted, 1) for split in partition.splits}
    verify_counts(name, partition.split_by, counts, partition.totals)
    for split, numbers in partition.published.items():
        for what, number in zip(counted, numbers, strict=False):
            changed = {**counts, split: {**counts[split], what: counts[split][what] - 1}}
            if number is None:
                verify_counts(name, partition.split_by, changed, partition.totals)
                continue
            line = rf"\| {split} \| {what} \| {number} \| {number - 1} \| -1 \|"
            with pytest.raises(DataFormatError, match=line):
                verify_counts(name, partition.split_by, changed, partition.totals)
            # A split that was not asked for is not missed.
            others = {other: counts[other] for other in counts if other != split}
            verify_counts(name, partition.split_by, others, None)
            with pytest.raises(DataFormatError, match="not the complete published data set"):
                verify_counts(name, partition.split_by, others, partition.totals)
    for what, number in partition.totals.items():
        line = rf"\| all splits \| {what} \| {number} \| {number + 1} \| \+1 \|"
        with pytest.raises(DataFormatError, match=line):
            verify_counts(name, partition.split_by, counts, {**partition.totals, what: number + 1})
    unknown = dict.fromkeys(counted, 1)
    if partition.published:
        with pytest.raises(DataFormatError, match=r"\| other \| referents \| 0 \| 1 \|"):
            verify_counts(name, partition.split_by, {**counts, "other": unknown}, partition.totals)


def test_published_totals_are_the_sums_of_their_splits():
    for name, partition in PUBLISHED:
        for place, what in enumerate(("referents", "sentences")):
            numbers = [published[place] for published in partition.published.values()]
            if what in partition.totals and numbers and None not in numbers:
                assert partition.totals[what] == sum(numbers), (name, partition.split_by, what)


def test_verify_needs_published_counts():
    with pytest.raises(ValueError, match=r"No counts are published for refclef berkeley.*Known: refcoco unc, "):
        verify_counts("refclef", "berkeley", {}, {})


def test_an_image_of_several_splits_is_counted_once(tmp_path):
    rows = load_refseg("refcoco", GOLDEN, cache_dir=tmp_path)["val"]
    dataset = {"train": rows, "val": rows.select(range(3))}
    total = count_total(dataset, {split: count_rows(rows) for split, rows in dataset.items()})
    assert total == {
        "referents": rows.num_rows + 3,
        "sentences": sum(len(row["sentences"]) for row in without_image(rows) + without_image(dataset["val"])),
        "images": len(set(rows["image_id"])),
    }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("coco", {}, "Unknown data set 'coco'.*refcocog.*grefshapes"),
        ("refcoco", {"split_by": "umd"}, "Unknown split_by 'umd'.*unc, google"),
        ("refcoco", {"mask_overlap": "sum"}, "Unknown mask_overlap 'sum'.*union, background"),
        ("refcoco", {"max_shard_rows": 0}, "max_shard_rows is 0"),
        ("refshapes", {"mask_overlap": "background"}, "refshapes has no option 'mask_overlap'"),
    ],
)
def test_an_unknown_choice_names_the_allowed_ones(name, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare_dataset(name, GOLDEN, tmp_path / "output", **options)
    assert not (tmp_path / "output").exists()


def test_grefcoco_can_be_prepared(tmp_path):
    folder = prepare_dataset("grefcoco", GOLDEN, tmp_path / "output", cache_dir=tmp_path / "cache")
    rows = load_refseg(str(folder), cache_dir=tmp_path / "cache")["testB"]
    assert sum(rows["no_target"]) == 3 and max(len(ann_ids) for ann_ids in rows["ann_ids"]) == 3


def test_a_single_split_can_be_prepared(tree, tmp_path):
    path = tree / "refcoco" / "refs(unc).p"
    refs = [ref for ref in pickle.loads(path.read_bytes(), encoding="latin1") if ref["split"] == "testB"]
    path.write_bytes(pickle.dumps(refs, protocol=2))
    folder = prepare(tree, tmp_path / "output")
    assert list(load_refseg(str(folder), cache_dir=tmp_path)) == ["testB"]


def test_a_foreign_data_set_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "data" / "train-0.parquet")
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    with pytest.raises(DataFormatError, match=r"lacks the columns .*mask.*prepare"):
        load_refseg(str(tmp_path), cache_dir=tmp_path / "cache")


def write_rows(folder: Path, rows: list[dict], features: datasets.Features) -> str:
    """A folder like a prepared one, with rows of somebody's own."""
    (folder / "data").mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=features).to_parquet(folder / "data" / "train-0.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return str(folder)


def test_rows_of_another_type_and_gaps_are_named(prepared, tmp_path):
    rows = load_refseg(str(prepared), cache_dir=tmp_path / "cache")["val"].to_list()
    features = row_features()
    whole = load_refseg(write_rows(tmp_path / "whole", rows, features), cache_dir=tmp_path / "cache")
    assert whole["train"].num_rows == len(rows)

    texts = [{**row, "sentences": [sentence["raw"] for sentence in row["sentences"]]} for row in rows]
    numbers = [{**row, "mask": {"size": row["mask"]["size"], "counts": 5}} for row in rows]
    gaps = [{**row, "sentences": None} for row in rows[:2]] + rows[2:]
    boxes = [{**row, "bbox": []} for row in rows[:2]] + rows[2:]
    holes = [*rows[:2], *({**row, "bbox": [0.0, 0.0, 1.0, None]} for row in rows[2:])]
    text, number = datasets.Value("string"), datasets.Value("int64")
    for name, changed, types, message in (
        (
            "texts",
            texts,
            {"sentences": datasets.List(text)},
            "columns sentences.raw, sentences.sent, sentences.sent_id,",
        ),
        (
            "numbers",
            numbers,
            {"mask": {"size": datasets.List(number), "counts": number}},
            "lacks the columns mask.counts,",
        ),
        ("gaps", gaps, {}, r"gaps \(train\): 2 rows have no sentences. Remove them"),
        (
            "boxes",
            boxes,
            {"bbox": datasets.List(datasets.Value("float64"))},
            r"boxes \(train\): a bbox is not four finite numbers",
        ),
        ("holes", holes, {}, r"holes \(train\): a bbox is not four finite numbers"),
    ):
        folder = write_rows(tmp_path / name, changed, datasets.Features({**features, **types}))
        with pytest.raises(DataFormatError, match=message):
            load_refseg(folder, cache_dir=tmp_path / "cache")


@pytest.mark.slow_process
def test_the_pushed_data_set_is_read_by_a_fresh_process(hub, tree, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for rows in (3, 5):
        prepare(tree, tmp_path / f"output{rows}", max_shard_rows=rows, push_to_hub="tester/refs")
    for path in (tmp_path / "output5" / "data").glob("train-*"):
        path.write_bytes(b"nobody reads this")
    api = HfApi(hub.endpoint)
    api.create_repo("tester/damaged", repo_type="dataset")
    api.upload_folder(repo_id="tester/damaged", folder_path=tmp_path / "output5", repo_type="dataset")

    read = """
        import datasets
        from hf_refseg.data.loading import load_refseg
        from hf_refseg.data.rows import DataFormatError

        plain, ours = datasets.load_dataset("tester/refs"), load_refseg("tester/refs")
        print({split: rows.num_rows for split, rows in plain.items()}, plain["testA"][0]["image"].size)
        assert all(plain[split].to_list() == ours[split].to_list() for split in plain)
        for streaming in (False, True):
            part = load_refseg("tester/damaged", splits=["val"], streaming=streaming)
            assert {split: list(rows) for split, rows in part.items()} == {"val": list(plain["val"])}
            try:
                load_refseg("tester/damaged", splits=["train"], streaming=streaming)
            except DataFormatError as error:
                assert str(error).startswith("tester/damaged is damaged (Parquet magic bytes not found")
            else:
                raise AssertionError("the files of train were not read")
    """
    printed = run_python(read, cwd=tmp_path, env=hub.environment("reader"))
    with Image.open(GOLDEN / "images/mscoco/images/train2014/COCO_train2014_000000300017.jpg") as image:
        assert printed.strip().endswith(f"{SPLITS} {image.size}")


def counts_by_split(folder: Path, cache: Path) -> dict[str, int]:
    return {split: rows.num_rows for split, rows in load_refseg(str(folder), cache_dir=cache).items()}


@pytest.mark.parametrize("times", ["new", "kept"])
def test_a_folder_prepared_again_under_its_name_shows_its_own_rows(tree, tmp_path, times):
    masks = []
    for mask_overlap in ("union", "background"):
        folder = prepare(tree, tmp_path / "mydata", mask_overlap=mask_overlap)
        if times == "kept":
            for path in folder.rglob("*"):
                os.utime(path, (1, 1))
        read = load_refseg(str(folder), cache_dir=tmp_path / "cache")
        original = load_refseg("refcoco", tree, mask_overlap=mask_overlap, cache_dir=tree / "cache")
        assert read["train"]["mask"][:] == original["train"]["mask"][:]
        masks.append(read["train"]["mask"][:])
        shutil.rmtree(folder)
    assert masks[0] != masks[1]


def test_folders_of_one_name_are_not_mixed_up(tmp_path):
    for size in (1, 2):
        sizes = {"train_size": size, "val_size": 1, "test_size": 1, "image_size": 64}
        prepare_dataset("refshapes", None, tmp_path / str(size) / "shapes", cache_dir=tmp_path / "cache", **sizes)
    for size in (1, 2, 1):
        rows = load_refseg(str(tmp_path / str(size) / "shapes"), cache_dir=tmp_path / "cache")["train"]
        assert len(set(rows["image_id"])) == size


@pytest.mark.parametrize("name", ["refs[1]", "refs?", "refs*", "[a-z]**"])
def test_a_folder_may_have_any_name(prepared, tmp_path, monkeypatch, name):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shutil.copytree(prepared, tmp_path / name)
    shutil.copytree(prepared, tmp_path / "refs1")
    (tmp_path / "refs1" / "data" / "val-00001-of-00002.parquet").unlink()
    assert counts_by_split(tmp_path / name, tmp_path / "cache") == SPLITS
    printed = CliRunner().invoke(app, ["info", str(tmp_path / name)]).stdout
    assert [line.split()[:2] for line in printed.splitlines()[1:]] == [[key, str(SPLITS[key])] for key in SPLITS]


@pytest.mark.parametrize(("name", "sibling"), [("run[1]", "run1"), ("a?b", "acb"), ("a*b", "ab")])
def test_folders_of_original_files_and_caches_may_have_any_name(tree, tmp_path, name, sibling):
    shutil.copytree(tree, tmp_path / "data" / name)
    for kind in ("data", "cache", "output"):
        (tmp_path / kind / sibling).mkdir(parents=True)
    cache = tmp_path / "cache" / name
    output = prepare(tmp_path / "data" / name, tmp_path / "output" / name, cache_dir=cache)
    assert counts_by_split(output, cache) == SPLITS
    for kind in ("data", "cache", "output"):
        assert not list((tmp_path / kind / sibling).iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a::b", "holds '::', which the library datasets takes for the end of an archive's name"),
        ("$PLACE", "holds the name of an environment variable"),
    ],
)
def test_a_folder_that_would_be_taken_for_another_one_is_refused(prepared, tree, tmp_path, monkeypatch, name, message):
    monkeypatch.setenv("PLACE", "a")
    shutil.copytree(prepared, tmp_path / "a")
    shutil.copytree(tree / "refcoco", tmp_path / "a" / "refcoco")
    folder = tmp_path / name
    shutil.copytree(prepared, folder)
    refused = pytest.raises(
        DataFormatError, match=rf"The name of the folder .*{re.escape(name)}.* {message}. Rename it"
    )
    for call in (
        lambda: load_refseg(str(folder), cache_dir=tmp_path / "cache"),
        lambda: load_refseg("refcoco", folder, cache_dir=tmp_path / "cache"),
        lambda: load_refseg("refcoco", tree, image_dir=folder, cache_dir=tmp_path / "cache"),
        lambda: load_refseg("refcoco", tree, cache_dir=folder),
        lambda: load_refseg(str(tmp_path / "a"), cache_dir=folder),
        lambda: prepare(tree, folder / "output"),
    ):
        with refused:
            call()
    assert not (folder / "output").exists() and not (tree / "cache").exists()
    printed = CliRunner().invoke(app, ["info", str(folder)])
    assert printed.exit_code == 1 and message in printed.stderr


@pytest.mark.parametrize("pattern", ["../other/data/*.parquet", "/etc/*", "data/../../other/*", "."])
def test_a_card_lists_no_files_outside_its_folder(prepared, tmp_path, pattern):
    shutil.copytree(prepared, tmp_path / "other")
    shutil.copytree(prepared, tmp_path / "refs")
    card = tmp_path / "refs" / "README.md"
    card.write_text(card.read_text().replace("data/val-*.parquet", pattern))
    with pytest.raises(
        DataFormatError, match=r"refs/README\.md lists files outside its folder: .*Prepare the data set"
    ):
        load_refseg(str(tmp_path / "refs"), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize(
    "metadata",
    ["configs: [", "configs: 5", "configs: [{config_name: 5, data_files: {a: {b: c}}}]", "- a", "\0", "\xff"],
)
def test_a_damaged_card_is_named(prepared, tmp_path, metadata):
    shutil.copytree(prepared, tmp_path / "refs")
    (tmp_path / "refs" / "README.md").write_bytes(f"---\n{metadata}\n---\n".encode("latin-1"))
    with pytest.raises(DataFormatError, match=r"refs/README\.md: its metadata are damaged \(.*\. Prepare") as error:
        load_refseg(str(tmp_path / "refs"), cache_dir=tmp_path / "cache")
    assert str(error.value).isprintable()


def test_a_card_without_a_list_of_splits_leaves_them_to_the_names_of_the_files(prepared, tmp_path):
    shutil.copytree(prepared / "data", tmp_path / "refs" / "data")
    (tmp_path / "refs" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert counts_by_split(tmp_path / "refs", tmp_path / "cache") == SPLITS
