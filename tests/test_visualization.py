"""Pictures show what they claim: tinted masks, distinct colors, wrapped text, and no crash on any text."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont

from hf_refseg.visualization import ComparisonRow, can_draw, draw_comparison, draw_masks, draw_overlay
from hf_refseg.visualization.layout import distinct_color, find_font, wrap_text

GRAY = (100, 100, 100)


def square_mask(height: int = 60, width: int = 80) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[20:40, 30:60] = True
    return mask


def test_overlay_tints_inside_outlines_the_edge_and_leaves_the_rest():
    image = Image.new("RGB", (80, 60), GRAY)
    picture = np.asarray(draw_overlay(image, square_mask(), color=(200, 0, 50), opacity=0.5))
    assert (picture[30, 45] == (150, 50, 75)).all()
    assert (picture[20, 45] == (200, 0, 50)).all()
    assert (picture[~square_mask()] == GRAY).all()
    assert image.getpixel((45, 30)) == GRAY


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_overlay_takes_any_image_mode(mode):
    picture = draw_overlay(Image.new("RGB", (80, 60), GRAY).convert(mode), torch.from_numpy(square_mask()))
    assert (picture.mode, picture.size) == ("RGB", (80, 60))


def test_overlay_of_an_empty_mask_changes_nothing():
    image = Image.new("RGB", (80, 60), GRAY)
    assert draw_overlay(image, np.zeros((60, 80), dtype=bool)).tobytes() == image.tobytes()


def test_masks_that_do_not_fit_are_refused():
    image = Image.new("RGB", (80, 60))
    with pytest.raises(ValueError, match=r"\(60, 80\).*\(80, 60\)"):
        draw_overlay(image, square_mask().T)
    with pytest.raises(ValueError, match=r"boolean.*uint8"):
        draw_overlay(image, square_mask().astype(np.uint8))
    with pytest.raises(ValueError, match="opacity"):
        draw_overlay(image, square_mask(), opacity=50)
    with pytest.raises(ValueError, match="1 masks for 2 labels"):
        draw_masks(image, [square_mask()], ["one", "two"])
    with pytest.raises(ValueError, match="no row"):
        draw_comparison([])


def test_every_mask_has_its_color_in_the_picture_and_in_the_legend():
    image = Image.new("RGB", (400, 300), GRAY)
    masks = [np.zeros((300, 400), dtype=bool) for _ in range(3)]
    for number, mask in enumerate(masks):
        mask[50:250, 20 + 120 * number : 100 + 120 * number] = True
    picture = np.asarray(draw_masks(image, masks, ["left", "middle", "right"], opacity=1.0))
    assert picture.shape[1] == 400
    assert picture.shape[0] > 300
    for number, mask in enumerate(masks):
        color = distinct_color(number)
        assert (picture[:300][mask] == color).all()
        assert (picture[300:] == color).all(axis=-1).sum() > 100


def test_a_legend_has_room_for_long_texts_but_an_end():
    image, mask = Image.new("RGB", (400, 300), GRAY), np.zeros((300, 400), dtype=bool)
    heights = [draw_masks(image, [mask], ["a b " * repeats]).height for repeats in (1, 50, 1000, 2000)]
    assert 300 < heights[0] < heights[1] < heights[2] == heights[3] < 450


def test_colors_stay_apart():
    colors = np.array([distinct_color(index) for index in range(8)], dtype=float)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1000 * np.eye(8)
    assert distances.min() > 50


def comparison_row(text: str, size: tuple[int, int] = (80, 60)) -> ComparisonRow:
    mask = square_mask(size[1], size[0])
    return ComparisonRow(Image.new("RGB", size, GRAY), text, truth=mask, prediction=~mask, iou=0.25)


def test_comparison_has_four_columns_and_a_row_per_example():
    one = draw_comparison([comparison_row("left dog")], cell_width=160)
    two = draw_comparison([comparison_row("left dog"), comparison_row("right dog", (60, 90))], cell_width=160)
    assert one.width == two.width > 4 * 160
    assert two.height - one.height >= 160
    # The truth column shows the square, the prediction column all but the square.
    pixels = np.asarray(one).astype(int)
    row = pixels.shape[0] - 65
    first, _, truth, prediction = (pixels[row, 80 + column * 166] for column in range(4))
    assert (first == GRAY).all()
    assert (truth != GRAY).any()
    assert (prediction == GRAY).all()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "大きい犬",
        "🐶👩‍👩‍👧",
        "الكلب",
        "lone surrogate \ud800",
        "null \x00 tab \t bell \x07",
        "line\nbreak\u2028end",
        "x" * 5000,
    ],
)
def test_any_text_can_be_drawn(text):
    row = comparison_row(text)
    assert draw_comparison([row], cell_width=120).height < 400
    assert draw_masks(row.image, [row.truth], [text]).height > 60


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("color", [distinct_color(index) for index in range(4)])
def test_a_mask_of_the_pictures_own_color_is_seen_by_its_outline(color, opacity):
    picture = np.asarray(draw_overlay(Image.new("RGB", (80, 60), color), square_mask(), color, opacity)).astype(int)
    edge = square_mask()
    edge[21:39, 31:59] = False
    assert (np.abs(picture[edge] - color).sum(1) > 200).all()
    assert (picture[~square_mask()] == color).all()


def test_a_legend_shows_the_number_of_a_text_that_no_font_can_draw(monkeypatch):
    monkeypatch.setattr("hf_refseg.visualization.layout.SYSTEM_FONTS", ())
    image, masks = Image.new("RGB", (200, 100), GRAY), [np.zeros((100, 200), dtype=bool)] * 2
    assert [can_draw(text) for text in ("the left dog", "大きい犬", "ж", "🐶", "")] == [
        True,
        False,
        False,
        False,
        True,
    ]
    unknown = draw_masks(image, masks, ["the left dog", "大きい犬"])
    assert unknown.tobytes() == draw_masks(image, masks, ["the left dog", "2"]).tobytes()


def test_text_is_drawn_with_a_font_that_has_its_glyphs(monkeypatch):
    other = ImageFont.load_default(size=20)
    monkeypatch.setattr("hf_refseg.visualization.layout.SYSTEM_FONTS", ("absent.ttf", "other.ttf"))
    monkeypatch.setattr(
        "hf_refseg.visualization.layout._system_font", lambda name, size: {"other.ttf": other}.get(name)
    )
    monkeypatch.setattr(
        "hf_refseg.visualization.layout._has_glyphs", lambda font, text: font is other or text.isascii()
    )
    assert find_font("大きい犬", 20) is other and find_font("dog", 20) is not other


def test_text_wraps_within_the_width():
    font = ImageFont.load_default(size=14)
    text = "the second person from the left who wears a supercalifragilisticexpialidocious hat"
    lines = wrap_text(text, font, 120)
    assert len(lines) > 3
    assert all(font.getlength(line) <= 120 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert wrap_text("", font, 120) == [""]
