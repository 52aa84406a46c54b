"""A headless Chromium: looks at pages and takes pictures of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# In seconds, as long as a busy machine may take.
PATIENCE = 120


class NoBrowserError(RuntimeError):
    """Chromium, chromedriver or selenium is not installed."""


@contextmanager
def open_browser(width: int = 1280, height: int = 1000) -> Iterator[Any]:
    """The selenium driver of a browser with a window of this size; raises `NoBrowserError`."""
    try:
        from selenium import webdriver
    except ImportError as error:
        raise NoBrowserError("selenium is not installed") from error
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        raise NoBrowserError("Chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    # The sandbox is not to be had as root, and little shared memory in containers.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--window-size={width},{height}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.set_script_timeout(PATIENCE)
        yield browser
    finally:
        browser.quit()


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """What a condition gives as soon as it is true; an element that has been replaced meanwhile is looked for anew.

    Raises:
        TimeoutError: it stays false; `what` says what was waited for.
    """
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if found := condition():
                return found
        except StaleElementReferenceException:
            continue
        time.sleep(0.1)
    raise TimeoutError(f"waited in vain for {what}")


class DemoPage:
    """What a user finds on the demo page, by its texts.

    Args:
        browser: the driver, which has opened the page.
    """

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def all(self, selector: str) -> list[Any]:
        """The elements of a CSS selector that can be seen."""
        return [each for each in self.browser.find_elements("css selector", selector) if each.is_displayed()]

    def button(self, text: str) -> Any:
        """The button with this text in its first line, as soon as it is there."""

        def found() -> list[Any]:
            return [each for each in self.all("button") if each.text.strip().partition("\n")[0] == text]

        return wait_for(found, f"the button {text}")[0]

    def ask(self, text: str) -> None:
        """Types expressions and segments."""
        field = self.all("textarea")[0]
        field.clear()
        field.send_keys(text)
        self.button("Segment").click()

    def lines(self) -> list[str]:
        """What is said of the masks."""
        return [each.text for each in self.all(".refseg-masks label")]
