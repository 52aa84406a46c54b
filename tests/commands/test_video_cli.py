"""`hf-refseg predict --video`: overlay videos and palette PNGs, their errors, and the writers behind them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor
from typer.testing import CliRunner, Result

from hf_refseg import FrameMask, VideoFrames, segment_video
from hf_refseg.data.masks import decode_mask, mask_to_bbox
from hf_refseg.visualization.videos import VideoWriter, davis_palette, number_masks, write_video_masks
from hf_refseg_cli import app

av = pytest.importorskip("av")

TEXTS = ["the left dog", "red circle"]
SIZE = (50, 41)


def noise_frames(count: int) -> list[Image.Image]:
    blocks = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize(SIZE, Image.Resampling.NEAREST) for each in blocks]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose masks are neither empty nor full."""
    folder, model, processor = tmp_path_factory.mktemp("model"), tiny_lavt(), tiny_processor()
    with torch.no_grad():
        logits = model(**processor(noise_frames(1), TEXTS, return_tensors="pt")).logits
    processor.image_processor.mask_threshold = logits.sigmoid().median().item()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def frame_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six frames, in the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = tmp_path / "Noise"
    folder.mkdir()
    for number, frame in enumerate(noise_frames(6)):
        frame.save(folder / f"{number}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def error_of(*arguments: object) -> str:
    """The one line with which the command fails."""
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    assert not any("Traceback" in line for line in result.stderr.splitlines()), result.stderr
    return result.stderr.splitlines()[-1].removeprefix("Error: ")


def written(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_predict_writes_overlay_and_masks(model_folder: Path, frame_folder: Path) -> None:
    with VideoWriter(Path("noise.mp4"), 12.5) as video:
        for frame in VideoFrames(frame_folder):
            video.add(frame)
    result = run(
        "predict", model_folder, frame_folder, "noise.mp4", "-t", TEXTS[0], "-t", TEXTS[1], "-o", "out", "--video"
    )
    assert result.exit_code == 0, result.output
    masks = {f"{name}/{number:05}.png" for name in ("noise", "noise-2") for number in range(6)}
    assert written(Path("out")) == masks | {"noise", "noise-2", "noise.mp4", "noise-2.mp4"}

    processor = tiny_processor().from_pretrained(model_folder)
    answers = list(segment_video(tiny_lavt(), processor, VideoFrames(frame_folder), TEXTS))
    for number, answer in enumerate(answers):
        picture = Image.open(f"out/noise/{number:05}.png")
        assert (picture.mode, picture.size, picture.getpalette()) == ("P", SIZE, davis_palette())
        expected = np.where(answer[1].mask, 2, np.where(answer[0].mask, 1, 0))
        assert np.array_equal(np.asarray(picture), expected)
    found = np.unique([np.asarray(Image.open(path)) for path in Path("out/noise").iterdir()])
    assert found.tolist() == [0, 1, 2]
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    for text, line in enumerate(lines[:2]):
        scores = [answer[text].score for answer in answers if answer[text].present]
        expected = f"on {len(scores)} of 6 frames, mean score {np.mean(scores):.3f}"
        assert line == f"out/noise  {text + 1} {TEXTS[text]}: {expected}"
    assert lines[2].startswith(f"out/noise-2  1 {TEXTS[0]}: on ")

    overlays = [VideoFrames(f"out/{name}.mp4") for name in ("noise", "noise-2")]
    assert [overlay.frames_per_second for overlay in overlays] == [25.0, 12.5]
    for overlay in overlays:
        assert len(list(overlay)) == len(overlay) == 6
        # The legend stands below the frame.
        assert overlay.size[0] == 50 and overlay.size[1] > 41 + 2 * 12
    with av.open("out/noise.mp4") as container:
        assert container.streams.video[0].codec_context.name == "h264"


def test_videos_are_known_by_their_names_and_described_as_json(model_folder: Path, frame_folder: Path) -> None:
    with VideoWriter(Path("moving.mp4"), 12.5) as video:
        for frame in VideoFrames(frame_folder):
            video.add(frame)
    Path("bad.mov").write_text("no video")
    options = ["-t", TEXTS[0], "-t", TEXTS[1], "-o", "out", "--json", "all.json"]
    result = run("predict", model_folder, "moving.mp4", "bad.mov", frame_folder / "0.png", *options, "--window", 0)
    assert result.exit_code == 1 and "Error: bad.mov is damaged or no video" in result.stderr
    assert {"moving.mp4", "moving/00005.png", "0_overlay.png"} <= written(Path("out"))
    of_video, of_image = json.loads(Path("all.json").read_text())
    assert (of_video["video"], of_image["image"]) == ("moving.mp4", str(frame_folder / "0.png"))
    assert [each["text"] for each in of_video["predictions"]] == TEXTS
    for number in range(6):
        first, second = (each["frames"][number] for each in of_video["predictions"])
        picture = np.asarray(Image.open(f"out/moving/{number:05}.png"))
        assert np.array_equal(decode_mask(second["mask"]), picture == 2)
        assert np.array_equal(decode_mask(first["mask"]) & (picture != 2), picture == 1)
        assert second["bbox"] == mask_to_bbox(picture == 2) and 0 < second["score"] < 1


def test_a_video_that_is_no_video_stops_no_other(model_folder: Path, frame_folder: Path) -> None:
    with VideoWriter(Path("sound.mp4"), 12.5) as video:
        for frame in VideoFrames(frame_folder):
            video.add(frame)
    with av.open("sound.mp4") as source, av.open("titled.mkv", "w") as target:
        target.metadata["title"] = "caf\u00e9"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    content = Path("titled.mkv").read_bytes()
    Path("titled.mkv").write_bytes(content.replace("caf\u00e9".encode(), b"caf\xe9s"))
    Path("unknown.mkv").write_bytes(content.replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    result = run("predict", model_folder, "unknown.mkv", "titled.mkv", "-t", "red", "-o", "out", "--video")
    assert result.exit_code == 1
    assert "Error: unknown.mkv is damaged, or of a codec that PyAV does not know" in result.stderr
    assert "Traceback" not in result.stderr
    assert "titled/00005.png" in written(Path("out"))


def test_predict_says_that_there_is_no_target(model_folder: Path, frame_folder: Path) -> None:
    options = ["-t", "red", "-o", "out", "--video", "--threshold", 1.0]
    result = run("predict", model_folder, frame_folder, *options, "--window", 0, "--per-frame")
    assert result.stdout == "out/noise  1 red: on 0 of 6 frames, no target\n"
    assert not np.asarray(Image.open("out/noise/00005.png")).any()


def test_bad_videos_are_one_line(model_folder: Path, frame_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["-t", "red", "-o", "out", "--video"]
    Path("bad.mp4").write_text("no video")
    assert error_of("predict", "model", "bad.mp4", *options).startswith("bad.mp4 is damaged or no video (")
    assert error_of("predict", "model", "none.mp4", *options).startswith("none.mp4: there is no such video file")
    assert error_of("predict", "model", ".", *options).startswith(". holds no frames")
    assert error_of("predict", "model", frame_folder, *options, "-t", " ").startswith("An expression is empty")
    assert error_of("predict", "model", frame_folder, *options, *["-t", "red"] * 255).startswith("256 expressions")
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'hf_refseg[video]'" in error_of("predict", "model", "bad.mp4", *options)
    assert "pip install 'hf_refseg[video]'" in error_of("predict", model_folder, frame_folder, *options)


def test_what_belongs_to_videos_is_refused_for_images(model_folder: Path, frame_folder: Path) -> None:
    arguments = ["predict", model_folder, frame_folder / "0.png", "--text", "red circle", "--output", "out"]
    for option in (["--window", 4], ["--overlap", 1], ["--per-frame"]):
        assert "--window, --overlap and --per-frame go with --video" in error_of(*arguments, *option)
    assert not Path("out").exists()


def test_nothing_is_overwritten(model_folder: Path, frame_folder: Path) -> None:
    Path("noise.mp4").write_text("the user's own")
    message = error_of("predict", model_folder, frame_folder, "-t", "red", "-o", ".", "--video")
    assert message == "noise.mp4 is there already. Choose another folder as output."
    assert Path("noise.mp4").read_text() == "the user's own"


def test_a_damaged_frame_leaves_nothing_half_done(model_folder: Path, frame_folder: Path) -> None:
    whole = (frame_folder / "4.png").read_bytes()
    (frame_folder / "4.png").write_bytes(whole[: len(whole) // 2])
    message = error_of("predict", model_folder, frame_folder, "-t", "red", "-o", "out", "--video")
    assert message.startswith(str(frame_folder / "4.png is damaged"))
    assert written(Path("out")) == set()
    (frame_folder / "4.png").write_bytes(whole)
    assert run("predict", model_folder, frame_folder, "-t", "red", "-o", "out", "--video").exit_code == 0


def test_two_processes_write_one_video_and_the_second_one_is_refused(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, frame in enumerate(noise_frames(2)):
        frame.save(frames / f"{number}.png")
    video, out = VideoFrames(frames), tmp_path / "out"

    def masks(value: bool) -> Iterator[list[FrameMask]]:
        for _ in range(2):
            mask = torch.full((SIZE[1], SIZE[0]), value)
            yield [FrameMask(mask, score=0.5, present=value, foreground=mask, is_found=None)]

    def masks_of_the_first() -> Iterator[list[FrameMask]]:
        yield from masks(True)
        # Another process begins and ends while this one writes.
        write_video_masks(video, masks(False), ["the second"], out / "clip")

    with pytest.raises(FileExistsError, match="clip is there already"):
        write_video_masks(video, masks_of_the_first(), ["the first"], out / "clip")
    assert written(out) == {"clip", "clip/00000.png", "clip/00001.png", "clip.mp4"}
    assert not np.asarray(Image.open(out / "clip/00001.png")).any()


def test_the_palette_of_davis() -> None:
    colors = np.reshape(davis_palette(), (256, 3)).tolist()
    assert colors[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colors[8] == [64, 0, 0] and colors[20] == [0, 64, 128]
    assert colors[255] == [224, 224, 192] and len({tuple(color) for color in colors}) == 256


def test_masks_are_numbered() -> None:
    masks = [np.array([[True, True, False]]), torch.tensor([[False, True, False]])]
    picture = number_masks(masks)
    assert np.asarray(picture).tolist() == [[1, 2, 0]]
    assert np.asarray(picture.convert("RGB")).tolist() == [[[128, 0, 0], [0, 128, 0], [0, 0, 0]]]
    for wrong in ([], masks * 128):
        with pytest.raises(ValueError, match="1 to 255 masks"):
            number_masks(wrong)


def test_a_video_needs_pictures_of_one_size(tmp_path: Path) -> None:
    cases = {
        "no picture was added": [],
        r"\(20, 20\), the first \(50, 41\)": [noise_frames(1)[0], Image.new("RGB", (20, 20))],
        "holds pictures of 8 x 20000": [Image.new("RGB", (8, 20_000))],
    }
    for message, pictures in cases.items():
        with pytest.raises(ValueError, match=message), VideoWriter(tmp_path / "a.mp4", 5) as video:
            for picture in pictures:
                video.add(picture)
