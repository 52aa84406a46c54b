"""The page of `examples/web/`, served from this machine and opened in a Chromium without a window."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from places import EXAMPLES

WEB = EXAMPLES / "web"


def missing_for_the_page() -> str | None:
    """What has to be installed before the page can be opened here; None where nothing is missing."""
    if shutil.which("chromedriver") is None:
        return "apt-get install chromium chromium-driver"
    return None if (WEB / "node_modules").is_dir() else "npm install in examples/web"


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextmanager
def served_page(exported: Path, folder: Path) -> Iterator[str]:
    """The address of the page, served from a new folder with an export beside it."""
    folder.mkdir()
    for path in WEB.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "exported").symlink_to(exported)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index.html?model=exported"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def chromium() -> Iterator[Any]:
    """Selenium's driver of a Chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
