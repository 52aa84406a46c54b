"""Two processes that write one folder: the second one waits and says so, and nothing of the first one is lost."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import datasets.table
import numpy as np
import pytest
import torch
from PIL import Image
from places import FIXTURES
from train_tiny import build_model, build_processor

from hf_refseg import files
from hf_refseg.data.loading import load_refseg
from hf_refseg.data.prepare import prepare_dataset
from hf_refseg.data.rows import DataFormatError
from hf_refseg.evaluation import submission
from hf_refseg.evaluation.submission import write_submission
from hf_refseg.files import write_whole
from hf_refseg.training import feature_cache
from hf_refseg.training.feature_cache import FeatureCache, FeatureCacheError

GOLDEN = FIXTURES / "refer_api"
# Only reached where something hangs.
SECONDS = 120
# Forked processes need no import of their own.
FORKED = multiprocessing.get_context("fork")


class Race:
    """Two processes, of which the second one starts in the middle of the first one's work."""

    def __init__(self) -> None:
        self.is_paused, self.goes_on = FORKED.Event(), FORKED.Event()
        self.warned, self.results = FORKED.SimpleQueue(), (FORKED.SimpleQueue(), FORKED.SimpleQueue())

    def pause(self) -> None:
        """Where the first process calls this, it stays until the second one waits for it or has ended."""
        if not self.is_paused.is_set():
            self.is_paused.set()
            assert self.goes_on.wait(SECONDS)

    def pause_in(self, module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Pauses before that function of the module runs."""
        original = getattr(module, name)

        def paused(*arguments, **keywords):
            self.pause()
            return original(*arguments, **keywords)

        monkeypatch.setattr(module, name, paused)

    def run(
        self, first: Callable[[], object], second: Callable[[], object], kill_first: bool = False
    ) -> tuple[object, object, str | None]:
        """What the two return, or the errors that they raise (None after a kill), and a warning of the second one."""
        processes = [
            FORKED.Process(target=self._work, args=(work, result), daemon=True)
            for work, result in zip((first, second), self.results, strict=True)
        ]
        processes[0].start()
        assert self.is_paused.wait(SECONDS)
        processes[1].start()
        while processes[1].is_alive() and self.warned.empty():
            processes[1].join(0.02)
        if kill_first:
            processes[0].kill()
        else:
            self.goes_on.set()
        for process in processes:
            process.join(SECONDS)
        assert [process.exitcode for process in processes] == [-9 if kill_first else 0, 0]
        returned = [None if result.empty() else result.get() for result in self.results]
        return *returned, None if self.warned.empty() else self.warned.get()

    def _work(self, work: Callable[[], object], result) -> None:
        # Threads of OpenMP do not survive a fork.
        torch.set_num_threads(1)
        files.logger.warning = lambda message, *values: self.warned.put(message % values)
        try:
            result.put(work())
        except (OSError, ValueError) as error:
            result.put(error)


@pytest.fixture
def race() -> Race:
    return Race()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    return prepare_dataset("refcoco", GOLDEN, root / "refcoco", max_shard_rows=5, cache_dir=root / "cache")


@pytest.mark.slow_process
@pytest.mark.parametrize("kill_first", [False, True])
def test_a_second_prepare_waits_for_the_first_one(race, prepared, kill_first, monkeypatch, tmp_path) -> None:
    race.pause_in(datasets.table, "embed_table_storage", monkeypatch)
    output = tmp_path / "output"

    def prepare() -> Path:
        return prepare_dataset("refcoco", GOLDEN, output, max_shard_rows=5, cache_dir=prepared.parent / "cache")

    first, second, warning = race.run(prepare, prepare, kill_first)
    assert (first, second) == (None if kill_first else output, output)
    assert warning == f"Another process is writing to {output}: waiting until it has finished or ended."
    assert sorted(path.name for path in output.rglob("*") if path.is_file() and path.name != ".lock") == sorted(
        path.name for path in prepared.rglob("*") if path.is_file() and path.name != ".lock"
    )
    for path in prepared.glob("data/*.parquet"):
        assert (output / "data" / path.name).read_bytes() == path.read_bytes()
    assert len(load_refseg(str(output), cache_dir=tmp_path / "read")["val"]) == 6


@pytest.mark.slow_process
def test_a_second_prepare_with_other_options_is_refused(race, prepared, monkeypatch, tmp_path) -> None:
    race.pause_in(files, "write_json", monkeypatch)

    def prepare(rows: int) -> Path:
        return prepare_dataset("refcoco", GOLDEN, tmp_path / "output", max_shard_rows=rows, cache_dir=cache)

    cache = prepared.parent / "cache"
    first, second, warning = race.run(lambda: prepare(5), lambda: prepare(6))
    assert first == tmp_path / "output" and warning is not None
    assert isinstance(second, DataFormatError) and "different: max_shard_rows" in str(second)


@pytest.mark.slow_process
def test_two_processes_fill_one_cache_and_encode_each_image_once(race, monkeypatch, tmp_path) -> None:
    rows = load_refseg(
        "refshapes", train_size=6, val_size=2, test_size=1, image_size=64, cache_dir=str(tmp_path / "rows")
    )
    model, processor = build_model(), build_processor()
    model.backbone.requires_grad_(False)
    race.pause_in(feature_cache, "_pack", monkeypatch)
    encode, encoded = model.encode_image, []
    monkeypatch.setattr(model, "encode_image", lambda values: (encoded.append(len(values)), encode(values))[1])

    def fill(splits: list[str]) -> int:
        cache = FeatureCache.open(tmp_path / "cache", model, processor)
        cache.fill(model, processor, [rows[split] for split in splits], batch_size=2, progress=False)
        return sum(encoded)

    first, second, warning = race.run(lambda: fill(["train"]), lambda: fill(["train", "val"]))
    images = {split: len(set(data["image_id"])) for split, data in rows.items()}
    assert (first, second) == (images["train"], images["val"])
    assert "waiting" in warning
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == images["train"] + images["val"]
    assert not list((tmp_path / "cache").rglob("*.partial"))


@pytest.mark.slow_process
def test_of_two_models_with_one_new_cache_the_second_one_is_refused(race, monkeypatch, tmp_path) -> None:
    models = [build_model(), build_model()]
    for model in models:
        model.backbone.requires_grad_(False)
    with torch.no_grad():
        next(models[1].backbone.parameters()).add_(1)
    race.pause_in(files, "write_json", monkeypatch)

    def open_cache(model) -> str:
        return str(FeatureCache.open(tmp_path / "cache", model, build_processor()).folder)

    first, second, warning = race.run(lambda: open_cache(models[0]), lambda: open_cache(models[1]))
    assert first == str(tmp_path / "cache") and "waiting" in warning
    assert isinstance(second, FeatureCacheError) and "encoder weights differ" in str(second)
    assert open_cache(models[0]) == first


@pytest.mark.slow_process
def test_a_second_submission_goes_on_where_the_first_one_is_killed(race, monkeypatch, tmp_path) -> None:
    frames = [Image.new("RGB", (4, 3))] * 2
    video = {"frames": frames, "frame_names": ["0", "1"], "texts": ["dog"], "sent_ids": ["7"]}
    examples = [{**video, "video_id": name} for name in ("a", "b")]
    race.pause_in(submission, "_write_mask", monkeypatch)

    def write() -> Path:
        answers = [[SimpleNamespace(mask=np.ones((3, 4), dtype=bool))]] * 2
        return write_submission(examples, lambda frames, texts: answers, tmp_path / "submission", {"model": "m"})

    first, second, warning = race.run(write, write, kill_first=True)
    assert (first, second) == (None, tmp_path / "submission" / "submission.zip") and "waiting" in warning
    written = (tmp_path / "submission" / "Annotations").rglob("*.png")
    assert sorted(str(path.relative_to(tmp_path)).split("/", 2)[2] for path in written) == [
        "a/7/0.png",
        "a/7/1.png",
        "b/7/0.png",
        "b/7/1.png",
    ]


@pytest.mark.slow_process
def test_two_processes_write_one_file_and_both_finish(race, tmp_path) -> None:
    path = tmp_path / "mask.png"

    def write_slowly(partial: Path) -> None:
        partial.write_text("the first")
        race.pause()

    first, second, _ = race.run(
        lambda: write_whole(path, write_slowly),
        lambda: write_whole(path, lambda partial: partial.write_text("the second")),
    )
    assert (first, second) == (None, None)
    assert path.read_text() == "the first" and [each.name for each in tmp_path.iterdir()] == ["mask.png"]


def test_what_cannot_be_finished_leaves_nothing_behind(tmp_path) -> None:
    path = tmp_path / "picture.png"
    path.write_text("before")

    def fail(partial: Path) -> None:
        partial.write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(path, fail)
    assert path.read_text() == "before" and [each.name for each in tmp_path.iterdir()] == ["picture.png"]
