"""Videos through processor, windows and pipeline: every kind of source, stitching, bounded memory."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fresh_process import run_python
from PIL import Image
from places import REAL_DATA
from tiny_configs import BERT, VIDEO_SWIN
from tiny_lavt import tiny_lavt, tiny_processor
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_refseg import (
    ReferringSegmentationOutput,
    RefSegImageProcessor,
    RefSegProcessor,
    VideoFrames,
    VideoLavtConfig,
    VideoLavtForReferringSegmentation,
    VideoWindow,
    segment_video,
)
from hf_refseg.modeling.inference_refseg import video_probabilities

CAR_SHADOW = REAL_DATA / "davis_car_shadow" / "JPEGImages" / "480p" / "car-shadow"
TEXTS = ["the left dog", "red circle"]


def noise_frames(count: int, size: tuple[int, int] = (50, 40), seed: int = 0) -> list[Image.Image]:
    """Pictures of random blocks, which survive a video's compression; `size` is width, height."""
    blocks = np.random.default_rng(seed).integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return [Image.fromarray(each).resize(size, Image.Resampling.NEAREST) for each in blocks]


def gray_frames(levels: list[int], size: tuple[int, int] = (8, 8)) -> list[Image.Image]:
    return [Image.new("RGB", size, (level,) * 3) for level in levels]


def write_video(
    path: Path, frames: list[Image.Image], rate: int = 10, rotation: int = 0, title: str | None = None
) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        if title is not None:
            container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "yuv420p"
        stream.bit_rate = 2_000_000
        if rotation:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), format="s16", layout="mono")
        samples.sample_rate = 8000
        container.mux(stream.encode(samples))
        container.mux(stream.encode())
    return path


def difference(first: Image.Image, second: Image.Image) -> float:
    return float(np.abs(np.asarray(first, dtype=float) - np.asarray(second, dtype=float)).mean())


class ClipModel(nn.Module):
    """A model of clips that knows how to do nothing but average: every frame's logits are the mean of a clip's pixels.

    `clips` counts the frames of each clip it has seen. With `mix` False a frame's logits are its own pixels. The
    presence head, where there is one, answers with a logit per text for each clip in turn.
    """

    def __init__(self, mix: bool = True, presence: list[list[float]] | None = None) -> None:
        super().__init__()
        self.config = SimpleNamespace(takes_clips=True)
        self.weight = nn.Parameter(torch.ones(()))
        self.mix, self.presence = mix, presence
        self.clips: list[int] = []
        self.texts = 0

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        self.texts += 1
        return torch.arange(1.0, len(input_ids) + 1)[:, None, None] * self.weight

    def forward(
        self, pixel_values: Tensor, text_embeds: Tensor, attention_mask: Tensor
    ) -> ReferringSegmentationOutput:
        assert not torch.is_grad_enabled()
        assert pixel_values.ndim == 5 and len(pixel_values) == 1
        assert len(text_embeds) == len(attention_mask)
        gray = pixel_values.mean(2)
        logits = gray.mean(1, keepdim=True).expand_as(gray) if self.mix else gray
        logits = logits * text_embeds.mean(2)[..., None, None]
        presence = None if self.presence is None else torch.tensor(self.presence[len(self.clips)])
        self.clips.append(pixel_values.shape[1])
        return ReferringSegmentationOutput(logits=logits, presence_logits=presence)


def gray_processor() -> RefSegProcessor:
    """Pixels of 128 become 0, others keep their distance from it."""
    image_processor = RefSegImageProcessor(
        size={"height": 8, "width": 8}, rescale_factor=1.0, image_mean=[128.0] * 3, image_std=[1.0] * 3
    )
    return RefSegProcessor(image_processor, tiny_processor().tokenizer)


def stitched_scores(levels: list[int], window: int | None, overlap: int) -> tuple[list[float], list[int]]:
    """The mean logit of each frame, read back from the score, and the lengths of the clips."""
    model = ClipModel()
    clips = VideoWindow(window, overlap)
    answers = segment_video(model, gray_processor(), gray_frames(levels), ["red"], window=clips, threshold=0.0)
    scores = [answer.score for (answer,) in answers]
    return torch.tensor(scores).logit().tolist(), model.clips


# Sources


def test_a_folder_is_read_in_natural_order(tmp_path) -> None:
    frames = noise_frames(12)
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_text("no frame")
    video = VideoFrames(tmp_path)
    assert (len(video), video.num_frames, video.size, video.frames_per_second) == (12, 12, (50, 40), None)
    for _ in range(2):
        assert [difference(*pair) for pair in zip(video, frames, strict=True)] == [0] * 12


def test_a_list_gives_rgb_images() -> None:
    frames = [noise_frames(1)[0].convert("L"), np.asarray(noise_frames(1)[0])]
    video = VideoFrames(frames)
    assert [(frame.mode, frame.size) for frame in video] == [("RGB", (50, 40))] * 2
    assert len(video) == 2


def test_a_video_file_is_read_as_a_stream(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    frames = noise_frames(7, (64, 48))
    write_video(tmp_path / "clip:1.mp4", frames)
    video = VideoFrames("clip:1.mp4")
    assert (len(video), video.size, video.frames_per_second) == (7, (64, 48), 10.0)
    decoded = list(video)
    assert all(frame.mode == "RGB" for frame in decoded)
    for number, frame in enumerate(decoded):
        assert difference(frame, frames[number]) < 12 < difference(frame, frames[number - 1])


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_video_is_turned_upright(tmp_path, rotation: int) -> None:
    (frame,) = noise_frames(1, (64, 48))
    video = VideoFrames(write_video(tmp_path / "turned.mp4", [frame] * 2, rotation=rotation))
    expected = frame.rotate(rotation, expand=True)
    assert video.size == expected.size
    assert difference(next(iter(video)), expected) < 12


def test_damaged_videos_are_named(tmp_path) -> None:
    whole = write_video(tmp_path / "whole.mp4", noise_frames(5, (64, 48))).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("cut.mp4", "text.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=rf"{name} is damaged or no video \(.+\). Replace it with the complete"):
            VideoFrames(tmp_path / name)
    with pytest.raises(ValueError, match=r"sound\.wav holds no video"):
        VideoFrames(write_audio(tmp_path / "sound.wav"))
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: there is no such video file or folder"):
        VideoFrames(tmp_path / "none.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile {.name}\n"),
    ],
)
def test_a_playlist_leads_to_no_other_file(tmp_path, name: str, text: str) -> None:
    pytest.importorskip("av")
    other = tmp_path / "other.mp4"
    write_video(other, noise_frames(3))
    (tmp_path / name).write_text(text.format(other))
    with pytest.raises(ValueError, match=rf"{name} is damaged or no video"):
        VideoFrames(tmp_path / name)


def replace_in(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_title_in_another_encoding_is_no_damage(tmp_path, suffix: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}", noise_frames(5, (64, 48)), title="A caf\u00e9")
    replace_in(path, "A caf\u00e9".encode(), b"My caf\xe9")
    video = VideoFrames(path)
    assert (len(list(video)), video.size, video.frames_per_second) == (5, (64, 48), 10.0)


def test_an_unknown_codec_is_named(tmp_path) -> None:
    path = replace_in(write_video(tmp_path / "clip.avi", noise_frames(2, (64, 48))), b"FMP4", b"QQQQ")
    with pytest.raises(ValueError, match=r"clip\.avi is damaged, or of a codec that PyAV does not know\. Convert it"):
        VideoFrames(path)


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".mp4"])
def test_a_video_cut_anywhere_is_read_or_named(tmp_path, suffix: str) -> None:
    whole = write_video(tmp_path / f"whole{suffix}", noise_frames(5, (64, 48)), title="caf\u00e9").read_bytes()
    cut, lengths = tmp_path / f"cut{suffix}", []
    for length in range(0, len(whole), max(1, len(whole) // 50)):
        cut.write_bytes(whole[:length])
        try:
            lengths.append(len(list(VideoFrames(cut))))
        except ValueError as error:
            assert str(error).startswith(str(cut)) and str(error).isprintable() and len(str(error)) < 500
            lengths.append(0)
    assert lengths[0] == 0 and max(lengths) <= 5


@pytest.mark.parametrize(
    ("suffix", "message"),
    [(".avi", "says it has 30 frames, but only"), (".mkv", "says it lasts 3.0 seconds, but its frames end after")],
)
def test_a_video_that_was_cut_off_is_told(tmp_path, caplog, suffix: str, message: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}", noise_frames(30, (64, 48)))
    assert len(list(VideoFrames(path))) == 30 and not caplog.messages
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0 < len(list(VideoFrames(path))) < 25
    assert len(caplog.messages) == 1 and message in caplog.messages[0]


def test_frames_that_grow_on_the_way_are_refused_before_they_are_decoded(tmp_path, monkeypatch) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number, size in enumerate([(64, 48), (64, 48), (128, 96)]):
            buffer = io.BytesIO()
            noise_frames(1, size)[0].save(buffer, "JPEG")
            packet = av.Packet(buffer.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            container.mux(packet)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48)
    with pytest.raises(ValueError, match=r"clip\.avi is damaged or no video"):
        list(VideoFrames(path))


def test_limits_of_pixels_hold_for_videos(tmp_path, monkeypatch) -> None:
    path = write_video(tmp_path / "clip.mp4", noise_frames(2, (64, 48)))
    noise_frames(1, (64, 48))[0].save(tmp_path / "frame.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 - 1)
    with pytest.raises(ValueError, match=r"clip\.mp4 is too large: its frames have 64 x 48 pixels"):
        VideoFrames(path)
    with pytest.raises(ValueError, match=r"frame\.png is too large"):
        VideoFrames(tmp_path)


def test_a_missing_pyav_is_told(tmp_path, monkeypatch) -> None:
    noise_frames(1)[0].save(tmp_path / "frame.png")
    (tmp_path / "clip.mp4").write_bytes(b"video")
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(VideoFrames(tmp_path)) == 1
    with pytest.raises(ImportError, match=r"pip install 'hf_refseg\[video\]'"):
        VideoFrames(tmp_path / "clip.mp4")


def test_bad_folders_are_named(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no frames"):
        VideoFrames(tmp_path)
    frames = noise_frames(2)
    frames[0].save(tmp_path / "1.png")
    frames[1].resize((20, 20)).save(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"frame 1 has 20 x 20 pixels, the first 50 x 40"):
        list(VideoFrames(tmp_path))
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"2\.png is damaged"):
        list(VideoFrames(tmp_path))
    with pytest.raises(ValueError, match="list of frames is empty"):
        VideoFrames([])


# Processor


def test_clips_in_every_form_are_the_same(tmp_path) -> None:
    frames = noise_frames(3)
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    processor = tiny_processor()
    expected = torch.stack([processor(frame, return_tensors="pt")["pixel_values"][0] for frame in frames])
    arrays = np.stack([np.asarray(frame) for frame in frames])
    for clip in (frames, arrays, torch.from_numpy(arrays.transpose(0, 3, 1, 2).copy()), tmp_path, str(tmp_path)):
        assert torch.equal(processor(videos=clip, return_tensors="pt")["pixel_values"], expected[None])
    inputs = processor(videos=[frames, arrays, tmp_path], text=["red", "the left dog", "dog"], return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected.expand(3, -1, -1, -1, -1))
    assert inputs["input_ids"].shape == (3, 5)
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"}
    assert torch.equal(processor(videos=np.stack([arrays] * 2), return_tensors="pt")["pixel_values"][1], expected)


def test_a_video_file_is_a_clip(tmp_path) -> None:
    write_video(tmp_path / "clip.mp4", noise_frames(3))
    processor, frames = tiny_processor(), VideoFrames(tmp_path / "clip.mp4")
    expected = processor(videos=list(frames), return_tensors="pt")["pixel_values"]
    assert expected.shape == (1, 3, 3, 64, 64)
    for clip in (str(tmp_path / "clip.mp4"), frames, (frame for frame in frames)):
        assert torch.equal(processor(videos=clip, return_tensors="pt")["pixel_values"], expected)


def test_masks_alone_become_labels() -> None:
    masks = np.stack([np.asarray(frame.convert("L")) > 127 for frame in noise_frames(4)])
    processor, images = tiny_processor(), noise_frames(4)
    expected = processor(images, segmentation_maps=list(masks), return_tensors="pt")["mask_labels"]
    assert 0.1 < expected.float().mean() < 0.9
    pictures = [Image.fromarray(mask) for mask in masks]
    for given in (masks, list(masks), pictures, torch.from_numpy(masks), masks[:2]):
        labels = processor(segmentation_maps=given, return_tensors="pt")
        assert set(labels) == {"mask_labels"}
        assert torch.equal(labels["mask_labels"], expected[: len(given)])
    for given in (masks[0], pictures[0]):
        assert torch.equal(processor(segmentation_maps=given, return_tensors="pt")["mask_labels"], expected[:1])
    alone = processor.image_processor(segmentation_maps=list(masks), return_tensors="pt")
    assert set(alone) == {"mask_labels"} and torch.equal(alone["mask_labels"], expected)
    with_texts = processor(text=TEXTS, segmentation_maps=list(masks[:2]), return_tensors="pt")
    assert set(with_texts) == {"input_ids", "attention_mask", "mask_labels"}
    with pytest.raises(ValueError, match="Got 3 masks for 2 texts"):
        processor(text=TEXTS, segmentation_maps=list(masks[:3]))


def test_masks_of_clips_alone_become_labels_of_clips() -> None:
    masks = np.stack([np.asarray(frame.convert("L")) > 127 for frame in noise_frames(4)]).reshape(2, 2, 40, 50)
    clips = [noise_frames(4)[:2], noise_frames(4)[2:]]
    expected = tiny_processor()(videos=clips, segmentation_maps=list(masks), return_tensors="pt")["mask_labels"]
    assert expected.shape == (2, 2, 64, 64)
    for given in (masks, torch.from_numpy(masks), list(masks), [list(clip) for clip in masks]):
        labels = tiny_processor()(segmentation_maps=given, return_tensors="pt")
        assert set(labels) == {"mask_labels"} and torch.equal(labels["mask_labels"], expected)


@pytest.mark.parametrize("size", [{"height": 30, "width": 20}, {"longest_edge": 32}], ids=str)
def test_masks_of_many_sizes_become_labels_of_one(size: dict[str, int]) -> None:
    """As large as the images that a model sees; what pads these is background."""
    image_processor = RefSegImageProcessor(size=size)
    masks = [np.ones(shape, dtype=bool) for shape in ((10, 40), (40, 10), (7, 7))]
    images = [Image.fromarray(mask).convert("RGB") for mask in masks]
    expected = image_processor(images, segmentation_maps=masks, return_tensors="pt")
    labels = image_processor(segmentation_maps=masks, return_tensors="pt")["mask_labels"]
    assert torch.equal(labels, expected["mask_labels"]) and labels.shape[1:] == expected["pixel_values"].shape[2:]


def test_nothing_to_prepare_is_refused() -> None:
    with pytest.raises(ValueError, match="Pass `images` or `videos`, `text`, or both; or `segmentation_maps` alone"):
        tiny_processor()()
    with pytest.raises(ValueError, match="Pass `images`, `segmentation_maps`, or both"):
        tiny_processor().image_processor()
    with pytest.raises(ValueError, match="There is no mask: pass one at least"):
        tiny_processor()(segmentation_maps=[])
    with pytest.raises(TypeError, match="A mask is a PIL image, an array or a tensor, not str"):
        tiny_processor()(segmentation_maps=["mask.png"])


def test_frames_of_another_kind_are_refused() -> None:
    for frames in (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), np.zeros((2, 8, 8, 3))):
        with pytest.raises(ValueError, match=r"pass uint8 \(height, width, 3\)"):
            VideoFrames(frames)
    for frame in (5, None, [[1]], "frame.png"):
        with pytest.raises(TypeError, match="A frame is a PIL image, an array or a tensor, not"):
            VideoFrames([frame])


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        (5, TypeError, "A clip is a list, an array or a tensor of frames, or a path, not int"),
        ([5], TypeError, "A clip is a list, an array or a tensor of frames, or a path, not int"),
        ({"video": "clip.mp4"}, TypeError, "A clip is .*, not dict"),
        (Image.new("RGB", (8, 8)), TypeError, "A clip is .*, not Image"),
        ([[5, 5]], TypeError, "An image is a path, .*, not int"),
        ([[noise_frames(1), noise_frames(2)]], ValueError, "Clips are lists of single frames"),
    ],
)
def test_what_is_no_clip_is_a_clear_error(clip, error, message: str) -> None:
    with pytest.raises(error, match=message):
        tiny_processor()(videos=clip, text="red")


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((2, 20, 50)), "Mask 0 has 20 x 50 pixels .* its image 40 x 50"),
        (np.full((2, 40, 50), np.nan), "negative values, NaN or infinity"),
        (np.zeros((3, 2, 40, 50)), "Got 3 masks for 1 texts"),
    ],
)
def test_what_are_no_masks_of_the_clip_is_a_clear_error(masks: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_processor()(videos=noise_frames(2), text="red", segmentation_maps=masks)


def test_masks_of_clips_become_labels() -> None:
    frames, processor = noise_frames(3), tiny_processor()
    masks = np.random.default_rng(1).random((2, 3, 40, 50)) > 0.5
    inputs = processor(videos=[frames, frames], segmentation_maps=list(masks), return_tensors="pt")
    assert inputs["mask_labels"].shape == (2, 3, 64, 64) and inputs["mask_labels"].dtype == torch.int64
    for clip in range(2):
        for number in range(3):
            alone = processor(frames[number], segmentation_maps=masks[clip, number], return_tensors="pt")
            assert torch.equal(inputs["mask_labels"][clip, number], alone["mask_labels"][0])
    one = processor(videos=frames, text="red", segmentation_maps=torch.from_numpy(masks[1]), return_tensors="pt")
    assert torch.equal(one["mask_labels"], inputs["mask_labels"][1:])
    # One clip with two texts: encoded once, a mask for each text.
    several = processor(videos=frames, text=TEXTS, segmentation_maps=masks, return_tensors="pt")
    assert len(several["pixel_values"]) == 1 and torch.equal(several["mask_labels"], inputs["mask_labels"])


def test_clips_of_unequal_lengths_are_refused() -> None:
    processor = tiny_processor()
    for videos, masks in (
        ([noise_frames(2), noise_frames(3)], None),
        (noise_frames(3), np.zeros((2, 40, 50))),
        ([], None),
    ):
        with pytest.raises(ValueError, match="need one frame at least, and equally many"):
            processor(videos=videos, segmentation_maps=masks)
    with pytest.raises(ValueError, match="`images` or `videos`, not both"):
        processor(noise_frames(1)[0], videos=noise_frames(2))


def test_clips_are_post_processed_frame_by_frame() -> None:
    processor, logits = tiny_processor(), torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    logits[1, 1] = -5
    output = ReferringSegmentationOutput(logits=logits)
    results = processor.post_process_referring_video_segmentation(output, [(40, 50), (16, 20)], threshold=0.6)
    for text, size in enumerate([(40, 50), (16, 20)]):
        frames = ReferringSegmentationOutput(logits=logits[text])
        alone = processor.post_process_referring_segmentation(frames, [size] * 3, threshold=0.6)
        assert torch.equal(results[text]["masks"], torch.stack([frame["mask"] for frame in alone]))
        assert results[text]["scores"] == [frame["score"] for frame in alone]
        assert results[text]["present"] is True
    assert results[1]["scores"][1] == 0.0 and results[0]["masks"].any(dim=(1, 2)).all()
    output.presence_logits = torch.tensor([0.0, 0.1])
    absent, present = processor.post_process_referring_video_segmentation(output)
    assert (absent["present"], absent["scores"], bool(absent["masks"].any())) == (False, [0.0] * 3, False)
    assert present["present"] and present["masks"].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="got 1 sizes for 2 texts"):
        processor.post_process_referring_video_segmentation(output, target_sizes=[(8, 8)])


# Windows


@pytest.mark.parametrize(
    ("count", "window", "overlap", "starts"),
    [
        (9, 4, 1, [0, 3, 5]),
        (10, 4, 1, [0, 3, 6]),
        (8, 4, 0, [0, 4]),
        (9, 4, 0, [0, 4, 5]),
        (4, 4, 3, [0]),
        (7, 4, 3, [0, 1, 2, 3]),
        (3, 1, 0, [0, 1, 2]),
    ],
)
def test_windows_cover_every_frame_and_are_averaged(count, window, overlap, starts) -> None:
    levels = np.random.default_rng(0).integers(126, 131, count)
    logits = levels - 128.0
    expected = [
        np.mean([logits[start : start + window].mean() for start in starts if start <= frame < start + window])
        for frame in range(count)
    ]
    found, clips = stitched_scores(levels.tolist(), window, overlap)
    assert clips == [window] * len(starts)
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("window", [None, 10, 5])
def test_a_short_video_is_one_clip(window: int | None) -> None:
    found, clips = stitched_scores([126, 128, 129, 130, 128], window, 3)
    assert clips == [5]
    assert found == pytest.approx([0.2] * 5, abs=1e-4)


def test_without_mixing_in_time_windows_change_nothing() -> None:
    frames, processor = noise_frames(11), gray_processor()
    whole = list(segment_video(ClipModel(mix=False), processor, frames, TEXTS, window=VideoWindow(None)))
    windowed = list(segment_video(ClipModel(mix=False), processor, frames, TEXTS, window=VideoWindow(4, 2)))
    assert len(whole) == len(windowed) == 11
    for one, other in zip(whole, windowed, strict=True):
        for first, second in zip(one, other, strict=True):
            assert first.mask.shape == (40, 50) and first.mask.dtype == torch.bool
            assert torch.equal(first.mask, second.mask) and first.score == pytest.approx(second.score)
    assert any(0.1 < answer.mask.float().mean() < 0.9 for frame in whole for answer in frame)


@pytest.mark.parametrize(("window", "overlap"), [(4, 1), (4, 0), (1, 0)])
def test_no_more_than_a_window_is_read_ahead(window: int, overlap: int) -> None:
    read = 0

    def counted() -> Iterator[Image.Image]:
        nonlocal read
        for frame in gray_frames([128] * 30):
            read += 1
            yield frame

    model = ClipModel()
    ahead = []
    answers = segment_video(model, gray_processor(), counted(), ["red"], window=VideoWindow(window, overlap))
    for number, _ in enumerate(answers):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        ahead.append(read - number)
    assert len(ahead) == 30 and max(ahead) == window + 1
    assert model.texts == 1


def test_the_presence_head_is_averaged_over_windows() -> None:
    # Windows of frames 0-2, 2-4 and 3-5.
    model = ClipModel(presence=[[1.0, -1.0], [-3.0, 1.0], [4.0, 1.5]])
    answers = list(segment_video(model, gray_processor(), gray_frames([130] * 6), TEXTS, window=VideoWindow(3, 1)))
    first, second = ([frame[text].present for frame in answers] for text in range(2))
    assert first == [True, True, False, True, True, True]
    assert second == [False, False, False, True, True, True]
    for frame in answers:
        for answer in frame:
            assert bool(answer.mask.any()) is answer.present and (answer.score > 0) is answer.present


def test_probabilities_are_those_of_the_masks() -> None:
    presence, window = [[1.0, -1.0], [-3.0, 1.0], [4.0, 1.5]], VideoWindow(3, 1)
    given = (gray_processor(), gray_frames([127, 130, 128, 129, 131, 126], size=(20, 12)), TEXTS)
    answers = segment_video(ClipModel(presence=presence), *given, window=window, threshold=0.4)
    probabilities = list(video_probabilities(ClipModel(presence=presence), *given, window=window))
    for of_frame, masks in zip(probabilities, answers, strict=True):
        assert len(of_frame) == 2
        for found, answer in zip(of_frame, masks, strict=True):
            values = found.probabilities
            assert values.shape == (12, 20) and found.is_found is answer.is_found
            assert torch.equal(values > 0.4, answer.foreground)
            assert answer.present is (found.is_found and bool((values > 0.4).any()))
            assert values.mean().item() == pytest.approx(answer.score) if answer.present else answer.score == 0


def test_batches_of_texts_go_through_a_video_together() -> None:
    """Each clip is shown to one batch after the other, and every frame is read once."""
    window, frames = VideoWindow(3, 1), gray_frames([130] * 6)
    (alone,) = zip(*video_probabilities(ClipModel(), gray_processor(), frames, TEXTS[:1], window=window), strict=True)
    model = ClipModel(presence=[[1.0], [-1.0]] * 3)
    both = video_probabilities(model, gray_processor(), iter(frames), TEXTS, window=window, batch_size=1)
    first, second = zip(*both, strict=True)
    for found, same in zip(first, alone, strict=True):
        assert torch.equal(found.probabilities, same.probabilities) and found.probabilities.min() > 0.5
    assert [found.is_found for found in (*first, *second)] == [True] * 6 + [False] * 6
    assert (model.clips, model.texts) == ([3] * 6, 2)


@pytest.mark.parametrize(("window", "overlap"), [(8, 4), (1, 0), (40, 8), (None, 8)])
def test_a_small_window_overlaps_by_its_half(window: int | None, overlap: int) -> None:
    assert VideoWindow(window) == VideoWindow(window, overlap)


def test_masks_are_plain_tensors_which_may_be_changed_in_place() -> None:
    answers = segment_video(ClipModel(), gray_processor(), gray_frames([130] * 2), ["red"])
    assert [answer.mask.logical_not_().any().item() for (answer,) in answers] == [False, False]


@pytest.mark.parametrize(
    ("window", "overlap"), [(0, 0), (4, 4), (8, 9), (4, -1), (None, -1), (2.5, 1), (4, 1.5), ("4", None), (-1, None)]
)
@pytest.mark.parametrize("per_frame", [False, True])
def test_impossible_windows_are_refused(window: int, overlap: int, per_frame: bool) -> None:
    with pytest.raises(ValueError, match=f"got {-1 if window == -1 else overlap} and {window} frames"):
        VideoWindow(window, overlap, per_frame)


def test_nothing_to_segment_is_refused() -> None:
    with pytest.raises(ValueError, match="pass one text at least"):
        segment_video(ClipModel(), gray_processor(), [], [])
    with pytest.raises(ValueError, match="empty"):
        segment_video(ClipModel(), gray_processor(), [], ["red", " "])


@pytest.fixture(scope="module")
def threshold() -> float:
    """One that leaves the tiny model's masks neither empty nor full."""
    with torch.no_grad():
        logits = tiny_lavt()(**tiny_processor()(noise_frames(1), TEXTS[:1], return_tensors="pt")).logits
    return logits.sigmoid().median().item()


def image_answers(frames: list[Image.Image], threshold: float) -> list[list[dict]]:
    segment = pipeline("referring-image-segmentation", model=tiny_lavt(), processor=tiny_processor())
    return segment(frames, text=TEXTS, threshold=threshold)


def test_an_image_model_goes_frame_by_frame(count_calls, threshold) -> None:
    frames, model = noise_frames(4), tiny_lavt()
    images, texts = count_calls(model, "encode_image"), count_calls(model, "encode_text")
    answers = list(segment_video(model, tiny_processor(), frames, TEXTS, threshold=threshold))
    assert [len(arguments[0]) for arguments in images] == [1] * 4 and len(texts) == 1
    for answer, expected in zip(answers, image_answers(frames, threshold), strict=True):
        for found, wanted in zip(answer, expected, strict=True):
            assert torch.equal(found.mask, torch.from_numpy(np.asarray(wanted["mask"]) == 255))
            assert found.score == pytest.approx(wanted["score"], abs=1e-6) and found.present is wanted["present"]
    assert any(0.1 < found.mask.float().mean() < 0.9 for answer in answers for found in answer)


def test_a_video_model_sees_clips(count_calls, threshold) -> None:
    frames, processor = noise_frames(5), tiny_processor()
    model = VideoLavtForReferringSegmentation.from_image_lavt(tiny_lavt(), num_window_frames=2)
    with torch.no_grad():
        outputs = model(**processor(videos=frames, text=TEXTS, return_tensors="pt"))
    expected = processor.post_process_referring_video_segmentation(outputs, [(40, 50)] * 2, threshold)
    calls = count_calls(model, "encode_image")
    answers = list(segment_video(model, processor, frames, TEXTS, window=VideoWindow(None), threshold=threshold))
    for text in range(2):
        masks = torch.stack([answer[text].mask for answer in answers])
        assert (masks == expected[text]["masks"]).float().mean() > 0.999
        assert [answer[text].score for answer in answers] == pytest.approx(expected[text]["scores"], abs=1e-5)
    list(segment_video(model, processor, frames, TEXTS, window=VideoWindow(3, 1)))
    list(segment_video(model, processor, frames[:2], TEXTS, window=VideoWindow(per_frame=True)))
    shapes = [tuple(arguments[0].shape[:-3]) for arguments in calls]
    assert shapes == [(1, 5), (1, 3), (1, 3), (1,), (1,)]


def test_bfloat16_stays_close() -> None:
    frames = noise_frames(2)
    exact = list(segment_video(tiny_lavt(), tiny_processor(), frames, TEXTS, threshold=0.01))
    rough = list(segment_video(tiny_lavt().bfloat16(), tiny_processor(), frames, TEXTS, threshold=0.01))
    scores = [torch.tensor([[answer.score for answer in frame] for frame in answers]) for answers in (exact, rough)]
    assert_close(*scores, atol=0.02, rtol=0)


# Pipeline


def test_pipeline_gives_a_mask_for_each_frame(tmp_path, threshold) -> None:
    frames = noise_frames(3)
    for number, frame in enumerate(frames):
        frame.save(tmp_path / f"{number}.png")
    segment = pipeline("referring-video-segmentation", model=tiny_lavt(), processor=tiny_processor())
    expected = image_answers(frames, threshold)
    results = segment(str(tmp_path), text=TEXTS, threshold=threshold, window=2, overlap=0)
    for text, result in enumerate(results):
        assert set(result) == {"label", "masks", "scores", "present"}
        assert result["label"] == TEXTS[text] and result["present"] is True
        for number, mask in enumerate(result["masks"]):
            assert mask.mode == "L" and mask.size == (50, 40)
            assert difference(mask, expected[number][text]["mask"]) == 0
            assert result["scores"][number] == pytest.approx(expected[number][text]["score"], abs=1e-6)
    (absent,) = segment(frames, text="red circle", threshold=1.0)
    assert (absent["present"], absent["scores"]) == (False, [0.0] * 3)
    several = segment([frames[:2], str(tmp_path)], text="red circle", threshold=threshold)
    assert [len(result["masks"]) for (result,) in several] == [2, 3]
    assert difference(several[1][0]["masks"][2], results[1]["masks"][2]) == 0
    with pytest.raises(TypeError, match="takes `text`, threshold, window, overlap, per_frame"):
        segment(frames, text="red", windows=3)


def test_pipeline_takes_several_videos_in_any_form(tmp_path) -> None:
    for number, frame in enumerate(noise_frames(2)):
        frame.save(tmp_path / f"{number}.png")
    segment = pipeline("referring-video-segmentation", model=tiny_lavt(), processor=tiny_processor())
    videos = [noise_frames(3), str(tmp_path), np.stack([np.asarray(frame) for frame in noise_frames(1)])]
    requests = [{"video": video, "text": TEXTS[:1]} for video in videos]
    expected = [segment(video, text=TEXTS[:1])[0]["scores"] for video in videos]
    assert [len(scores) for scores in expected] == [3, 2, 1]
    for forms in (
        [(videos, TEXTS[0]), (requests, None)],
        [(iter(videos), TEXTS[0]), (iter(requests), None)],
        [(KeyDataset(requests, "video"), TEXTS[0])],
    ):
        for inputs, text in forms:
            results = list(segment(inputs, text=text, batch_size=2))
            assert [result["label"] for (result,) in results] == TEXTS[:1] * 3
            for (result,), scores in zip(results, expected, strict=True):
                assert result["scores"] == pytest.approx(scores, abs=1e-6)
    assert segment(requests[0])[0]["scores"] == pytest.approx(expected[0], abs=1e-6)


def test_what_is_no_video_is_one_clear_error() -> None:
    segment = pipeline("referring-video-segmentation", model=tiny_lavt(), processor=tiny_processor())
    with pytest.raises(TypeError, match="A video is a file, a folder of frames or a list of frames, not Image"):
        segment(noise_frames(1)[0], text="red")
    with pytest.raises(FileNotFoundError, match=r"absent\.mp4: there is no such video file"):
        segment("absent.mp4", text="red")
    with pytest.raises(ValueError, match="There is no video: pass one at least"):
        segment([], text="red")
    with pytest.raises(ValueError, match="There is no text for the video"):
        segment(noise_frames(1))


@pytest.mark.slow_process
@torch.no_grad()
def test_saved_pipelines_need_no_package(tmp_path, threshold) -> None:
    """Those of a model for images and of one for videos, without PyAV."""
    frames = noise_frames(3)
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(frames):
        frame.save(tmp_path / "frames" / f"{number}.png")
    video_model = VideoLavtForReferringSegmentation(VideoLavtConfig(backbone_config=VIDEO_SWIN, text_config=BERT))
    expected = []
    for name, model, level in (("image", tiny_lavt(), threshold), ("video", video_model.eval(), 0.0)):
        segment = pipeline("referring-video-segmentation", model=model, processor=tiny_processor())
        segment.save_pretrained(tmp_path / name)
        (result,) = segment(frames, text="red circle", threshold=level, window=2)
        expected.append((result["scores"], [np.asarray(mask).tolist() for mask in result["masks"]]))
    code = f"""
    import json, sys
    import numpy as np
    from PIL import Image
    from transformers import pipeline
    sys.modules["av"] = None
    for name, threshold in (("image", {threshold}), ("video", 0.0)):
        segment = pipeline(model=name, trust_remote_code=True)
        for frames in ("frames", [Image.open(f"frames/{{number}}.png") for number in range(3)]):
            (result,) = segment(frames, text="red circle", threshold=threshold, window=2)
            print(json.dumps([result["scores"], [np.asarray(mask).tolist() for mask in result["masks"]]]))
    """
    answers = [json.loads(line) for line in run_python(code, cwd=tmp_path, package=None).splitlines()[-4:]]
    for answer, (scores, masks) in zip(answers, [expected[0]] * 2 + [expected[1]] * 2, strict=True):
        assert answer == [pytest.approx(scores, abs=1e-5), masks]


@pytest.mark.skipif(not CAR_SHADOW.is_dir(), reason=f"no DAVIS frames in {CAR_SHADOW}; set HF_REFSEG_REAL_DATA")
def test_real_frames() -> None:
    video = VideoFrames(CAR_SHADOW)
    assert len(video) == 40
    answers = list(islice(segment_video(tiny_lavt(), tiny_processor(), video, ["the left dog"]), 5))
    assert [tuple(answer.mask.shape) for (answer,) in answers] == [video.size[::-1]] * 5
