"""Masks painted with Label Studio's brush: their run-length encoding, read bit by bit and checked before it is filled.

The bytes are those of rle-pack (https://www.npmjs.com/package/@thi.ng/rle-pack), most significant bit first: 32 bits
count the words, 5 bits hold the bits of a word less one, four times 4 bits the bits of a block's length less one. Then
blocks follow: 1 bit says whether one word is repeated, 2 bits which of the four kinds of length is next, then come the
length less one, and one word or so many of them. Words are red, green, blue and alpha of the pixels, row by row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_refseg.data.masks import MAX_PIXELS, InvalidMaskError
from hf_refseg.messages import short_text

CHANNELS = 4
ALPHA = 3
REMEDY = "Export the project again as JSON."


def decode_brush(rle: Any, height: int, width: int) -> np.ndarray:
    """The painted pixels (boolean, height x width): those whose alpha is not 0.

    Args:
        rle: bytes as a list of integers from 0 to 255.
        height, width: of the picture that was painted on.

    Raises:
        InvalidMaskError: no such list; another number of words than the picture has, or words that have not 8 bits;
            bytes that end too early, or a block that goes on behind the last word.
    """
    bits = Bits(_as_bytes(rle))
    words, word_bits = bits.number(32), bits.number(5) + 1
    length_bits = [bits.number(4) + 1 for _ in range(4)]
    if not 0 < height * width <= MAX_PIXELS or words != CHANNELS * height * width or word_bits != 8:
        raise InvalidMaskError(
            f"The brush's mask has {words} values of {word_bits} bits, a picture of {width} x {height} pixels "
            f"{CHANNELS * height * width} of 8: it belongs to another picture, or to another size of this one. "
            f"{REMEDY}"
        )
    painted = np.zeros(height * width, dtype=bool)
    start = 0
    while start < words:
        is_run = bits.number(1)
        end = start + bits.number(length_bits[bits.number(2)]) + 1
        if end > words:
            raise InvalidMaskError(f"The brush's mask goes on behind the last of its {words} values. {REMEDY}")
        # Pixel p has its alpha at 4 p + 3: those from start // 4 to end // 4 lie in this block.
        first, last = start // CHANNELS, end // CHANNELS
        if is_run:
            painted[first:last] = bits.number(word_bits) > 0
        else:
            values = bits.octets(end - start)
            painted[first:last] = values[CHANNELS * first + ALPHA - start :: CHANNELS] > 0
        start = end
    return painted.reshape(height, width)


class Bits:
    """Numbers out of bytes, most significant bit first; raises `InvalidMaskError` behind the end."""

    def __init__(self, data: bytes):
        self.data = data
        self.place = 0

    def _take(self, count: int) -> tuple[int, int]:
        """The place of the next bits, and the one behind them."""
        start, self.place = self.place, self.place + count
        if self.place > 8 * len(self.data):
            raise InvalidMaskError(f"The brush's mask ends too early, after {len(self.data)} bytes. {REMEDY}")
        return start, self.place

    def number(self, count: int) -> int:
        """The number that the next bits make, at most 32 of them."""
        start, end = self._take(count)
        window = int.from_bytes(self.data[start // 8 : (end + 7) // 8], "big")
        return (window >> (-end % 8)) & ((1 << count) - 1)

    def octets(self, count: int) -> np.ndarray:
        """The next so many numbers of 8 bits (uint8)."""
        start, end = self._take(8 * count)
        shift = start % 8
        window = np.frombuffer(self.data[start // 8 : (end + 7) // 8], dtype=np.uint8)
        if not shift:
            return window
        return (window[:-1] << shift) | (window[1:] >> (8 - shift))


def _as_bytes(rle: Any) -> bytes:
    # Of a number alone bytes() would make so many zeros.
    if isinstance(rle, list) and all(type(byte) is int and 0 <= byte < 256 for byte in rle):
        return bytes(rle)
    raise InvalidMaskError(
        f"Expected a brush's mask as a list of numbers from 0 to 255, found {short_text(rle)}. {REMEDY}"
    )
