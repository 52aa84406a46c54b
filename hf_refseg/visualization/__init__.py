"""Pictures of masks, of data sets and of explanations."""

from .answers import draw_answer_strips, draw_answers
from .bar_charts import Bar, draw_bars
from .contact_sheets import SheetFrame, SheetRow, draw_image_sheet, draw_video_sheet
from .explanations import (
    MaskedImage,
    MaskedWords,
    draw_heat_maps,
    draw_impact_tokens,
    draw_pixel_words,
    draw_reconstruction,
    draw_word_table,
)
from .layout import can_draw, distinct_color
from .overlays import (
    ComparisonRow,
    ComparisonStrip,
    StripFrame,
    draw_comparison,
    draw_masks,
    draw_overlay,
    draw_strips,
    spread,
    tint_masks,
)

__all__ = [
    "Bar",
    "ComparisonRow",
    "ComparisonStrip",
    "MaskedImage",
    "MaskedWords",
    "SheetFrame",
    "SheetRow",
    "StripFrame",
    "can_draw",
    "distinct_color",
    "draw_answer_strips",
    "draw_answers",
    "draw_bars",
    "draw_comparison",
    "draw_heat_maps",
    "draw_image_sheet",
    "draw_impact_tokens",
    "draw_masks",
    "draw_overlay",
    "draw_pixel_words",
    "draw_reconstruction",
    "draw_strips",
    "draw_video_sheet",
    "draw_word_table",
    "spread",
    "tint_masks",
]
