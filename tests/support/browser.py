"""What tests ask of pages in a headless browser: pixels of pictures, contrasts of texts, windows like a phone's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from headless_browser import NoBrowserError, open_browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Selenium's driver of one browser for all tests of a file; skips them where there is none."""
    with ExitStack() as stack:
        try:
            driver = stack.enter_context(open_browser())
        except NoBrowserError as error:
            pytest.skip(str(error))
        yield driver


@contextmanager
def window_of(browser: Any, width: int, height: int = 844) -> Iterator[None]:
    """A context in which the window is as wide as that of a phone, say, which windows of the desktop cannot be."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def pixels_of(browser: Any, image: Any) -> np.ndarray:
    """An `img` element as an array (height, width, 3), of height and width 0 as long as it is loaded."""
    flat, width, height = browser.execute_script(PIXELS, image)
    return np.array(flat, dtype=np.uint8).reshape(height, width, 4)[..., :3]


PIXELS = """
const image = arguments[0], canvas = document.createElement("canvas");
if (!image.complete || !image.naturalWidth) return [[], 0, 0];
canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
const context = canvas.getContext("2d");
context.drawImage(image, 0, 0);
return [Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data), canvas.width, canvas.height];
"""

# The texts that can be seen, each with the contrast of its color to that below it, as WCAG counts it.
CONTRASTS = """
function parse(color) {
  const canvas = document.createElement("canvas"); canvas.width = canvas.height = 1;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.clearRect(0, 0, 1, 1); context.fillStyle = color; context.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
}
function over(front, back) {
  return [0, 1, 2].map(i => front[3] * front[i] + (1 - front[3]) * back[i]).concat([1]);
}
function below(element) {
  const layers = [];
  for (let each = element; each; each = each.parentElement) layers.push(parse(getComputedStyle(each).backgroundColor));
  return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
}
function luminance(color) {
  const linear = c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = color.slice(0, 3).map(c => linear(c / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
const found = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const element = node.parentElement, text = node.textContent.trim(), box = element.getBoundingClientRect();
  const style = getComputedStyle(element);
  if (["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  if (!text || !box.width || !box.height || style.visibility == "hidden") continue;
  const back = below(element), front = over(parse(style.color), back);
  const [high, low] = [luminance(front), luminance(back)].sort((a, b) => b - a);
  found.push([text, (high + 0.05) / (low + 0.05)]);
}
return found;
"""


def contrasts(browser: Any) -> dict[str, float]:
    """The texts on the page that can be seen, with the least contrast of each to what is below it, from 1 to 21."""
    found: dict[str, float] = {}
    for text, contrast in browser.execute_script(CONTRASTS):
        found[text] = min(contrast, found.get(text, contrast))
    return found
