"""What the demo page reads, shows and writes, without the page."""

from __future__ import annotations

import io
import json
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from color_systems import BLUE_SQUARE, RED_SQUARE, SIZE, ColorMaskSystem, ColorSystem, square_mask, two_squares
from PIL import Image
from tiny_lavt import WORDS, tiny_lavt, tiny_processor
from tiny_methods import TinyVideoLavt

from hf_refseg.data.masks import decode_mask
from hf_refseg.demo import segmenting, showing
from hf_refseg.demo.examples import examples_in, write_scenes
from hf_refseg.demo.exporting import write_files
from hf_refseg.demo.segmenting import RequestError, Segmentation, read_expressions, read_picture, read_video, segment
from hf_refseg.demo.showing import describe_masks, draw_picture, explain, tells_how
from hf_refseg.evaluation.systems import ModelSystem
from hf_refseg.modeling.inference_refseg import VideoWindow
from hf_refseg.modeling.video_refseg import VideoFrames
from hf_refseg.visualization import distinct_color
from hf_refseg.visualization.videos import VideoWriter

TEXTS = ("the red one", "the blue one", "no green")


def ignore(share: float, what: str) -> None:
    assert 0 <= share <= 1 and what


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "My photo.png"
    two_squares().save(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def system() -> ColorSystem:
    return ColorSystem()


@pytest.fixture
def found(system: ColorSystem, photo: Path) -> Segmentation:
    return segment(system, read_picture(photo), TEXTS, ignore)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames, on the last of which nothing is red."""
    path = tmp_path_factory.mktemp("videos") / "My clip.mp4"
    with VideoWriter(path, 10) as video:
        for picture in (two_squares(), two_squares(), Image.new("RGB", SIZE, (20, 20, 20))):
            video.add(picture)
    return path


def test_a_threshold_makes_other_masks_and_does_not_ask_again(found: Segmentation, system: ColorSystem) -> None:
    """The blue square has 150 of 255."""
    low, high = ([each.mask.numpy() for each in next(found.masks(threshold))] for threshold in (0.5, 0.7))
    np.testing.assert_array_equal(low[0], square_mask(RED_SQUARE))
    np.testing.assert_array_equal(low[1], square_mask(BLUE_SQUARE))
    np.testing.assert_array_equal(high[0], square_mask(RED_SQUARE))
    assert not high[1].any()
    assert not low[2].any() and found.answers[0][2].foreground(0.01).any()
    assert describe_masks(found, 0.5) == [
        "1. the red one: score 0.90, 15.0 % of pixels",
        "2. the blue one: score 0.59, 15.0 % of pixels",
        "3. no green: not there, says the system",
    ]
    assert describe_masks(found, 0.7)[1] == "2. the blue one: no pixel"
    assert system.calls == 1 and found.seconds > 0
    sure = segment(system, found.subject, ["surely red"], ignore)
    assert describe_masks(sure, 0.5) == ["1. surely red: there, score 0.90, 15.0 % of pixels"]


def test_the_picture_shows_the_masks_that_are_switched_on_in_their_own_colors(found: Segmentation) -> None:
    both, second = (np.asarray(draw_picture(found, 0.5, shown), dtype=float) for shown in ([0, 1], [1]))
    plain, inside_red, inside_blue = np.asarray(two_squares(), dtype=float), (50, 50), (70, 150)
    for picture, place, inside in ((both, 0, inside_red), (both, 1, inside_blue), (second, 1, inside_blue)):
        np.testing.assert_allclose(picture[inside], (plain[inside] + distinct_color(place)) / 2, atol=0.5)
    np.testing.assert_array_equal(second[inside_red], plain[inside_red])
    np.testing.assert_array_equal(both[5, 5], plain[5, 5])


def test_a_large_picture_is_drawn_small_with_its_masks(found: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "SHOWN_SIDE", 50)
    small = draw_picture(found, 0.5, [0])
    assert small.size == (50, 30)
    assert np.abs(np.asarray(small, dtype=float)[12, 12] - (np.array([230, 10, 10]) + distinct_color(0)) / 2).max() < 3


def test_files_hold_all_masks_at_the_threshold_and_what_is_switched_on(found: Segmentation, files: Path) -> None:
    archive, description, overlay = write_files(found, 0.5, [1], files)
    assert [path.name for path in (archive, description, overlay)] == [
        "my-photo_masks.zip",
        "my-photo.json",
        "my-photo_overlay.png",
    ]
    (entry,) = json.loads(description.read_text())
    assert entry["image"] == "My photo.png" and [each["text"] for each in entry["predictions"]] == list(TEXTS)
    with ZipFile(archive) as file:
        assert file.namelist() == [each["file"] for each in entry["predictions"]]
        pictures = [np.asarray(Image.open(io.BytesIO(file.read(name)))) for name in file.namelist()]
    wanted = [square_mask(RED_SQUARE), square_mask(BLUE_SQUARE), np.zeros(SIZE[::-1], dtype=bool)]
    for picture, each, mask in zip(pictures, entry["predictions"], wanted, strict=True):
        np.testing.assert_array_equal(picture, mask * np.uint8(255))
        np.testing.assert_array_equal(decode_mask(each["mask"]), mask)
        assert each["present"] == mask.any()
    drawn = Image.open(overlay)
    # A legend of one expression.
    assert drawn.width == SIZE[0] and SIZE[1] < drawn.height < 2 * SIZE[1]
    np.testing.assert_array_equal(np.asarray(drawn)[50, 50], (230, 10, 10))


def test_a_video_is_asked_once_and_goes_into_files(system: ColorSystem, clip: Path, files: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    subject, shares = read_video(clip), []
    found = segment(system, subject, TEXTS[:2], lambda share, what: shares.append(share))
    assert system.calls == 3 and shares == [0, 1 / 3, 2 / 3, 1]
    assert [line.partition(",")[0] for line in describe_masks(found, 0.5)] == [
        "1. the red one: on 2 of 3 frames",
        "2. the blue one: on 2 of 3 frames",
    ]
    assert describe_masks(found, 0.99) == ["1. the red one: on 0 of 3 frames", "2. the blue one: on 0 of 3 frames"]
    archive, description, overlay = write_files(found, 0.5, [0], files)
    (entry,) = json.loads(description.read_text())
    with ZipFile(archive) as file:
        assert file.namelist() == [f"{entry['folder']}/0000{number}.png" for number in range(3)]
        numbers = np.asarray(Image.open(io.BytesIO(file.read(file.namelist()[0]))))
    assert numbers[50, 50] == 1 and numbers[70, 150] == 2 and numbers[5, 5] == 0
    assert [each["present"] for each in entry["predictions"][1]["frames"]] == [True, True, False]
    first = np.asarray(next(iter(VideoFrames(overlay))), dtype=float)
    tinted = (np.array([230, 10, 10]) + distinct_color(0)) / 2
    assert np.abs(first[50, 50] - tinted).max() < 20 and np.abs(first[70, 150] - (10, 10, 150)).max() < 20
    assert system.calls == 3


def test_a_video_that_is_gone_or_too_long_is_told_by_its_name(
    system: ColorSystem, clip: Path, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    copy = tmp_path / "gone.mp4"
    copy.write_bytes(clip.read_bytes())
    found = segment(system, read_video(copy), TEXTS[:1], ignore)
    copy.unlink()
    with pytest.raises(RequestError, match=r"^gone\.mp4 .*No such file"):
        write_files(found, 0.5, [0], files)
    monkeypatch.setattr(segmenting, "MAX_PIXELS", 2 * SIZE[0] * SIZE[1])
    with pytest.raises(RequestError, match=r"video has too many pixels for 1 expression at once: .*shorter"):
        segment(system, read_video(clip), TEXTS[:1], ignore)
    untold = read_video(clip)
    monkeypatch.setattr(untold.frames, "num_frames", None)
    with pytest.raises(RequestError, match="video has too many pixels"):
        segment(system, untold, TEXTS[:1], ignore)


@pytest.mark.parametrize("text", [None, "", " \n\t\n"])
def test_an_empty_text_is_told(text: str | None) -> None:
    with pytest.raises(RequestError, match="type what to segment"):
        read_expressions(text)


def test_expressions_are_lines() -> None:
    assert read_expressions(" the  red one\n\nthe blue one \r\n") == TEXTS[:2]
    with pytest.raises(RequestError, match="21 expressions: ask for at most 20"):
        read_expressions("dog\n" * 21)


def test_files_that_are_no_pictures_or_videos_are_told_by_their_names(
    photo: Path, tmp_path: Path, system: ColorSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:200])
    with pytest.raises(RequestError, match=r"^broken\.png is damaged or no image"):
        read_picture(broken)
    for read in (read_picture, read_video):
        with pytest.raises(RequestError, match="upload"):
            read(None)
    pytest.importorskip("av", reason="PyAV is not installed")
    with pytest.raises(RequestError, match=r"^broken\.png is damaged or no video"):
        read_video(broken)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(RequestError, match=r"^My photo\.png is too large to open: .*Scale it down"):
        read_picture(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr(segmenting, "MAX_PIXELS", 2 * SIZE[0] * SIZE[1])
    with pytest.raises(RequestError, match="picture has too many pixels for 3 expressions at once: scale it down, or"):
        segment(system, read_picture(photo), TEXTS, ignore)


def test_masks_alone_are_shown_at_any_threshold(photo: Path) -> None:
    found = segment(ColorMaskSystem(), read_picture(photo), TEXTS[:2], ignore)
    assert describe_masks(found, 0.99) == describe_masks(found, 0.01)
    assert describe_masks(found, 0.5)[0] == "1. the red one: score 1.00, 15.0 % of pixels"


def test_models_of_this_library_tell_where_words_look_and_others_do_not(photo: Path) -> None:
    lavt = ModelSystem(tiny_lavt(), tiny_processor())
    assert tells_how(lavt, of_videos=False) and not tells_how(lavt, of_videos=True)
    assert not tells_how(ColorSystem(), of_videos=False)
    found = segment(lavt, read_picture(photo), ["the red dog", "the left circle"], ignore)
    names = {name for _, name in explain(lavt, found, 1)}
    assert {"decoder maps", "word attention 1"} <= names


def test_a_model_of_clips_tells_where_words_look_in_a_video(clip: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    fields = {**TinyVideoLavt.fields["text_config"], "vocab_size": len(WORDS)}
    system = ModelSystem(TinyVideoLavt().build(text_config=fields), tiny_processor(), window=VideoWindow(frames=2))
    assert tells_how(system, of_videos=True)
    found = segment(system, read_video(clip), ["the red dog"], ignore)
    assert len(found.answers) == 3
    pictures = {name: picture for picture, name in explain(system, found, 0)}
    # Three frames below each other.
    assert pictures["decoder maps"].height > 3 * 120


def test_examples_are_files_with_the_lines_beside_them(photo: Path, clip: Path, tmp_path: Path) -> None:
    photo.with_suffix(".txt").write_text("the red one\nthe blue one\n")
    (tmp_path / "clip.MP4").write_bytes(clip.read_bytes())
    (tmp_path / "other.txt").write_text("of nothing")
    first, second = examples_in(tmp_path)
    assert (first.path, first.expressions, first.is_video) == (photo, "the red one\nthe blue one", False)
    assert (second.path.name, second.expressions, second.is_video) == ("clip.MP4", "", True)
    photo.with_suffix(".txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"My photo\.txt is no text in UTF-8"):
        examples_in(tmp_path)
    for folder in (tmp_path / "none", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"is no folder|holds no pictures"):
            examples_in(folder)


def test_generated_scenes_are_examples(tmp_path: Path) -> None:
    for example in write_scenes(tmp_path):
        assert read_picture(example.path).size == (256, 256)
        assert 1 <= len(read_expressions(example.expressions)) <= 4
