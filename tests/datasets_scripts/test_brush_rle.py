"""Label Studio's brush masks: bytes written by hand, an encoder of the tests, and what is no such mask."""

import re

import numpy as np
import pytest
from export_trees import pack_words

from hf_refseg.data.masks import InvalidMaskError
from hf_refseg.datasets_scripts.brush_rle import decode_brush

# Two pixels, so eight words of 8 bits; lengths have 3, 4, 8 or 16 bits.
HEAD = "00000000000000000000000000001000" + "00111" + "0010" + "0011" + "0111" + "1111"
# One run, its length of the first kind: eight times 255.
ALL_PAINTED = "1" + "00" + "111" + "11111111"
# A run of four zeros with a length of the second kind, then four words as they are, of which the last is alpha.
SECOND_PAINTED = "1" + "01" + "0011" + "00000000" + "0" + "00" + "011" + "00000000" * 3 + "00000111"
FIRST_WITHOUT_ALPHA = "0" + "00" + "111" + "11111111" * 3 + "00000000" + "00000000" * 3 + "00000001"


def as_bytes(bits: str) -> list[int]:
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def test_bytes_written_by_hand() -> None:
    assert as_bytes(HEAD + ALL_PAINTED)[:6] == [0, 0, 0, 8, 57, 27]
    assert decode_brush(as_bytes(HEAD + ALL_PAINTED), 1, 2).tolist() == [[True, True]]
    assert decode_brush(as_bytes(HEAD + SECOND_PAINTED), 2, 1).tolist() == [[False], [True]]
    # What has a color but no alpha is not painted.
    assert decode_brush(as_bytes(HEAD + FIRST_WITHOUT_ALPHA), 1, 2).tolist() == [[False, True]]


@pytest.mark.parametrize("run_bits", [(3, 4, 8, 16), (1, 2, 3, 4), (16, 16, 16, 16)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (40, 30)])
def test_what_an_encoder_writes_is_read_again(height: int, width: int, run_bits: tuple[int, ...]) -> None:
    random = np.random.default_rng(height)
    for share in (0.02, 0.5):
        mask = random.random((height, width)) < share
        pixels = np.repeat(mask[..., None] * 255, 4, axis=2)
        assert np.array_equal(decode_brush(pack_words(pixels.ravel().tolist(), run_bits), height, width), mask)
        # Other tools keep the color, so that blocks begin and end within a pixel.
        pixels[..., :3] = random.integers(0, 3, (height, width, 3))
        pixels[..., 3] = mask * random.integers(1, 256, (height, width))
        assert np.array_equal(decode_brush(pack_words(pixels.ravel().tolist(), run_bits), height, width), mask)


def test_a_run_longer_than_a_length_can_be() -> None:
    mask = np.zeros((200, 200), dtype=bool)
    mask[150:] = True
    encoded = pack_words(np.repeat(mask.ravel() * 255, 4).tolist())
    assert len(encoded) < 40 and np.array_equal(decode_brush(encoded, 200, 200), mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (None, "as a list of numbers from 0 to 255, found None"),
        ("eJw", "as a list of numbers from 0 to 255, found 'eJw'"),
        (8, "as a list of numbers from 0 to 255, found 8"),
        ([0, 0, 0, 256], "found [0, 0, 0, 256]"),
        ([0, 0, 0, -1], "found [0, 0, 0, -1]"),
        ([0, 0, 0, True], "found [0, 0, 0, True]"),
        ([0, 0, 0, 8.0], "found [0, 0, 0, 8.0]"),
        ([], "ends too early, after 0 bytes"),
        (as_bytes(HEAD), "ends too early, after 7 bytes"),
        (as_bytes(HEAD + ALL_PAINTED)[:-1], "ends too early, after 8 bytes"),
        (as_bytes(HEAD + SECOND_PAINTED)[:-1], "ends too early"),
        (as_bytes(HEAD + "1" + "01" + "1111" + "00000000"), "goes on behind the last of its 8 values"),
        ([0, 0, 0, 12, *as_bytes(HEAD + ALL_PAINTED)[4:]], "12 values of 8 bits, a picture of 2 x 1 pixels 8 of 8"),
        ([255, 255, 255, 255, *as_bytes(HEAD + ALL_PAINTED)[4:]], "4294967295 values"),
        (as_bytes(HEAD.replace("00111", "01111", 1) + ALL_PAINTED), "8 values of 16 bits"),
    ],
)
def test_what_is_no_such_mask(rle: object, message: str) -> None:
    with pytest.raises(InvalidMaskError, match=re.escape(message)):
        decode_brush(rle, 1, 2)


def test_a_size_without_pixels_or_with_too_many_is_refused() -> None:
    for height, width in ((0, 5), (2**20, 2**20)):
        with pytest.raises(InvalidMaskError, match="a picture of"):
            decode_brush(as_bytes("0" * 32 + HEAD[32:]), height, width)
