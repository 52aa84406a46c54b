"""The demo page in a real browser: what users click, type and see."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from browser import contrasts, pixels_of, window_of
from color_systems import BLUE_SQUARE, RED_SQUARE, ColorMaskSystem, ColorSystem, square_mask, two_squares
from headless_browser import DemoPage, wait_for
from PIL import Image
from tiny_lavt import tiny_lavt, tiny_processor

from hf_refseg.demo.examples import examples_in
from hf_refseg.evaluation.systems import ModelSystem
from hf_refseg.visualization.videos import VideoWriter

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = pytest.mark.slow_process

RED, BLUE = (230, 10, 10), (10, 10, 150)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An example, `example.png`, and what tests upload."""
    folder = tmp_path_factory.mktemp("files")
    two_squares().save(folder / "squares.png")
    (folder / "broken.png").write_bytes((folder / "squares.png").read_bytes()[:150])
    Image.new("L", (2000, 1000)).save(folder / "large.png")
    (folder / "examples").mkdir()
    two_squares().save(folder / "examples" / "example.png")
    (folder / "examples" / "example.txt").write_text("the red one\nthe blue one\n")
    return folder


@pytest.fixture(scope="module")
def served(browser: Any, files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The address of a page with three systems, and those that count how often they are asked.

    Once the page is closed, nothing of what was uploaded and drawn is left but the examples.
    """
    from hf_refseg.demo.page import build_page, launch

    temporary = tmp_path_factory.mktemp("temporary")
    colors, masks = ColorSystem(), ColorMaskSystem()
    lavt = ModelSystem(tiny_lavt(), tiny_processor(), name="a/lavt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(temporary))
        page = build_page([colors, masks, lavt], examples_in(files / "examples"))
        _, url, _ = launch(page, prevent_thread_lock=True, quiet=True)
        yield SimpleNamespace(url=url, colors=colors, masks=masks)
        # A server ends when nobody looks at it.
        browser.get("about:blank")
        page.close()

    def is_cleared() -> bool:
        return {path.name for path in temporary.rglob("*") if path.is_file()} == {"example.png"}

    wait_for(is_cleared, "the end of what was uploaded and drawn")


class Page(DemoPage):
    """What a user does with files and sees in pictures."""

    def upload(self, path: Path, number: int = 0) -> None:
        fields = wait_for(lambda: self.browser.find_elements("css selector", "input[type=file]"), "a field for files")
        fields[number].send_keys(str(path))
        wait_for(lambda: self.all("[aria-label='Clear'], [aria-label='Remove Image'], video"), "the upload")

    def drawn(self) -> list[np.ndarray]:
        """What two models are shown to have found."""

        def loaded() -> list[np.ndarray]:
            # The first one is what the user has uploaded.
            pictures = [pixels_of(self.browser, each) for each in self.all(".image-frame img")[1:]]
            return pictures if len(pictures) == 2 and all(each.size for each in pictures) else []

        return wait_for(loaded, "two pictures")

    def message(self) -> str:
        return wait_for(lambda: " ".join(each.text for each in self.all(".toast-body")), "a message")


@pytest.fixture
def page(browser: Any, served: SimpleNamespace) -> Page:
    browser.get(served.url)
    page = Page(browser)
    page.button("Segment")
    return page


def is_tinted(picture: np.ndarray, plain: tuple[int, int, int]) -> np.ndarray:
    """Pixels of which a color is far from a plain one, whatever JPEG has made of it."""
    return np.abs(picture.astype(int) - plain).max(axis=-1) > 60


def test_a_picture_and_sentences_give_masks_of_the_right_pixels_and_a_threshold_asks_nobody(
    page: Page, served: SimpleNamespace, files: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    before = served.colors.calls
    page.upload(files / "squares.png")
    page.ask("the red one\nthe blue one")
    wait_for(lambda: len(page.lines()) == 4, "the masks of two systems")
    assert page.lines()[0] == "1. the red one: score 0.90, 15.0 % of pixels"
    first, second = page.drawn()
    plain = np.asarray(two_squares())
    for picture in (first, second):
        changed = np.abs(picture.astype(int) - plain).max(axis=-1) > 60
        wanted = square_mask(RED_SQUARE) | square_mask(BLUE_SQUARE)
        # The edges of JPEG's blocks and of the outline.
        assert (changed != wanted).mean() < 0.01
    # A system of masks has no use for a threshold, and says why.
    sliders = page.all("input[type=range]")
    assert [each.is_enabled() for each in sliders] == [True, False]
    assert "no threshold matters" in page.browser.page_source
    # By the keyboard, from 0.5 to 0.6: the blue square has 150 of 255.
    for _ in range(10):
        sliders[0].send_keys(Keys.ARROW_RIGHT)
    wait_for(lambda: page.lines()[1] == "2. the blue one: no pixel", "the other threshold")
    wait_for(lambda: not is_tinted(page.drawn()[0][70:71, 150:151], BLUE).any(), "a picture without the blue mask")
    assert is_tinted(page.drawn()[0][50:51, 50:51], RED).all()
    page.all(".refseg-masks input")[0].click()
    wait_for(lambda: not is_tinted(page.drawn()[0][50:51, 50:51], RED).any(), "a picture without the red mask")
    assert is_tinted(page.drawn()[1][50:51, 50:51], RED).all()
    assert served.colors.calls == before + 1


# Puts the picture of a `data:` address into the clipboard.
COPY = """
const [address, done] = arguments;
fetch(address).then(answer => answer.blob())
  .then(blob => navigator.clipboard.write([new ClipboardItem({"image/png": blob})]))
  .then(() => done(""), error => done(String(error)));
"""


def test_a_picture_is_pasted(page: Page, served: SimpleNamespace, files: Path) -> None:
    kinds = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"], "origin": served.url.rstrip("/")}
    page.browser.execute_cdp_cmd("Browser.grantPermissions", kinds)
    picture = b64encode((files / "squares.png").read_bytes()).decode()
    assert page.browser.execute_async_script(COPY, f"data:image/png;base64,{picture}") == ""
    wait_for(lambda: page.all("[aria-label='Paste from clipboard']"), "the button to paste")[0].click()
    wait_for(lambda: page.all("[aria-label='Clear'], [aria-label='Remove Image']"), "the pasted picture")
    page.ask("the red one")
    wait_for(lambda: page.lines()[:1] == ["1. the red one: score 0.90, 15.0 % of pixels"], "the mask")


def test_files_are_made_and_hold_the_masks(page: Page, files: Path) -> None:
    page.upload(files / "squares.png")
    page.ask("the red one")
    wait_for(lambda: len(page.lines()) == 2, "the masks")
    page.button("Make files of the masks").click()
    links = wait_for(lambda: page.all("a[href*='squares']"), "the files")
    addresses = {each.get_attribute("href").rpartition("/")[2]: each.get_attribute("href") for each in links}
    assert addresses.keys() == {"squares_masks.zip", "squares.json", "squares_overlay.png"}
    (entry,) = json.loads(urlopen(addresses["squares.json"]).read())
    assert entry["predictions"][0]["text"] == "the red one" and entry["predictions"][0]["bbox"] == [20, 20, 60, 60]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("squares.png", "  ", "type what to segment"),
        ("broken.png", "the red one", "broken.png is damaged or no image"),
        ("large.png", "the red one", "large.png is too large to open"),
        (None, "the red one", "There is no picture"),
    ],
)
def test_what_is_wrong_is_a_message(
    page: Page, files: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, text: str, message: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    if name:
        page.upload(files / name)
    page.ask(text)
    told = page.message()
    assert message in told and "Traceback" not in told and str(files) not in told and "/tmp" not in told
    assert not page.lines()


def test_the_keyboard_is_enough(page: Page, served: SimpleNamespace) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(page.browser).send_keys(*keys).perform()

    def tab_to(is_there: Callable[[Any], bool]) -> None:
        for _ in range(40):
            press(Keys.TAB)
            if is_there(page.browser.switch_to.active_element):
                return
        raise AssertionError("Tab does not lead there")

    tab_to(lambda element: "Drop" in element.text or "Upload" in (element.get_attribute("aria-label") or ""))
    tab_to(lambda element: element.tag_name == "textarea")
    press("the blue one")
    tab_to(lambda element: element.text.strip() == "Segment")
    press(Keys.ENTER)
    assert "There is no picture" in page.message()
    press(Keys.ESCAPE)
    tab_to(lambda element: "gallery-item" in (element.get_attribute("class") or ""))
    press(Keys.ENTER)
    wait_for(lambda: page.all("textarea")[0].get_attribute("value").startswith("the red one"), "the example")
    before = served.colors.calls
    page.all("textarea")[0].send_keys(Keys.SHIFT, Keys.ENTER)
    wait_for(lambda: len(page.lines()) == 4, "the masks")
    assert served.colors.calls == before + 1


def test_nothing_is_wider_than_a_phone(page: Page, files: Path) -> None:
    with window_of(page.browser, 390):
        page.upload(files / "squares.png")
        page.ask(f"the <b>red</b> one\nthe blue one {'that goes on and on ' * 10}")
        wait_for(lambda: len(page.lines()) == 4, "the masks")
        assert page.lines()[0].startswith("1. the <b>red</b> one: score")
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 390
        wide = [each.tag_name for each in page.all("button, label, textarea, img") if each.rect["width"] > 390]
        assert wide == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_can_be_read_in_light_and_dark(page: Page, served: SimpleNamespace, files: Path, theme: str) -> None:
    page.browser.get(f"{served.url}?__theme={theme}")
    page.button("Segment")
    page.upload(files / "squares.png")
    page.ask("the red one\nno green")
    wait_for(lambda: len(page.lines()) == 4, "the masks")
    background = page.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    found = contrasts(page.browser)
    assert {"Expressions", "1. the red one: score 0.90, 15.0 % of pixels"} <= found.keys()
    assert {text: contrast for text, contrast in found.items() if contrast < 4.5} == {}, background


def test_a_model_tells_where_its_words_look(page: Page, files: Path) -> None:
    for label in page.all("label"):
        if label.text.strip() in ("colors", "color masks", "lavt"):
            label.click()
    page.upload(files / "squares.png")
    page.ask("the red dog")
    wait_for(lambda: len(page.lines()) == 1, "the mask of the third system")
    page.button("Where each word looks").click()
    page.button("Show").click()
    wait_for(lambda: len(page.all(".gallery-item img, .grid-wrap img, .thumbnail-item img")) >= 2, "the maps")


def test_a_video_is_segmented_and_a_threshold_asks_nobody(page: Page, served: SimpleNamespace, files: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed")
    with VideoWriter(files / "clip.mp4", 10) as video:
        for _ in range(3):
            video.add(two_squares())
    page.all("[role=tab]")[1].click()
    wait_for(lambda: page.all("textarea"), "the other tab")
    before = served.colors.calls
    page.upload(files / "clip.mp4", number=-1)
    page.ask("the red one\nthe blue one")
    wait_for(lambda: len(page.lines()) == 4, "the masks of two systems")
    assert page.lines()[1].startswith("2. the blue one: on 3 of 3 frames, mean score 0.5")
    assert len(page.all("video")) == 3
    number = page.all("input[type=number]")[0]
    number.clear()
    number.send_keys("0.8")
    wait_for(lambda: page.lines()[1] == "2. the blue one: on 0 of 3 frames", "the other threshold")
    assert served.colors.calls == before + 3
