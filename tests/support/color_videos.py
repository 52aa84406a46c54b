"""Videos of squares that move, one in each of three colors, and a model that finds the color of a sentence's word."""

from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch import Tensor, nn
from transformers import BertTokenizer

from hf_refseg import RefSegImageProcessor, RefSegProcessor
from hf_refseg.data.masks import encode_mask
from hf_refseg.data.rows import video_features

COLORS = ["red", "green", "blue"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *COLORS, "square"]
SIDE, FRAMES = 64, 6
ANNOTATED = [0, 2, 3, 5]


class ColorModel(nn.Module):
    """Finds the color of the sentence's first word: its channel of the image, as a logit that is 0 at half brightness.

    As a model of clips it takes the mean over the frames of a clip for each of them.
    """

    def __init__(self, takes_clips: bool = False) -> None:
        super().__init__()
        self.config = SimpleNamespace(takes_clips=takes_clips)
        self.scale = nn.Parameter(torch.tensor(4.0))
        self.frozen = nn.BatchNorm2d(3).eval()
        self.seen_frames = 0

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return input_ids[:, 1] - WORDS.index(COLORS[0])

    def forward(self, pixel_values: Tensor, text_embeds: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.seen_frames += pixel_values.flatten(0, -4).shape[0]
        if pixel_values.ndim == 5:
            pixel_values = pixel_values.mean(dim=1, keepdim=True).expand_as(pixel_values)
        # (texts, height, width), or (texts, frames, height, width)
        channels = pixel_values[0].movedim(-3, 0)[text_embeds]
        return SimpleNamespace(logits=self.scale * (channels - 0.5), presence_logits=None)


def color_processor() -> RefSegProcessor:
    """Pixels as they are, and a token for each word."""
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)})
    size = {"height": SIDE, "width": SIDE}
    return RefSegProcessor(RefSegImageProcessor(size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3), tokenizer)


def square_at(left: int, top: int, side: int = 12) -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def masks_of(color: int, step: int, frames: int = FRAMES) -> list[np.ndarray]:
    """A square of each color, moving to the right by so many pixels each frame."""
    return [square_at(left=2 + step * number, top=2 + 20 * color) for number in range(frames)]


def make_row(video: int, sentences: list[str], frames: int = FRAMES, annotated: list[int] = ANNOTATED) -> dict:
    """Three squares, the blue one too dim to be found; the referents are red, green and blue, whatever is said."""
    step = video + 1
    pictures = []
    for number in range(frames):
        pixels = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
        for color in range(3):
            pixels[masks_of(color, step, frames)[number], color] = 255 if color < 2 else 100
        pictures.append(Image.fromarray(pixels))
    referents = [
        {
            "ref_id": f"{video}-{COLORS[color]}",
            "category": "square",
            "annotated_frames": annotated,
            "masks": [encode_mask(masks_of(color, step, frames)[number]) for number in annotated],
            "sentences": [
                {"sent_id": f"{video}{color}{place}", "raw": text, "sent": text, "annotator": ""}
                for place, text in enumerate([sentence, f"{sentence} square"][: 1 + color % 2])
            ],
        }
        for color, sentence in enumerate(sentences)
    ]
    names = [f"{number:05d}" for number in range(frames)]
    return {"video_id": f"video{video}", "frame_names": names, "frames": pictures, "referents": referents}


def as_dataset(*rows: dict) -> Dataset:
    return Dataset.from_list(list(rows), features=video_features())
