"""The page of `examples/web/`, served from this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from places import EXAMPLES

WEB = EXAMPLES / "web"


def missing_for_the_page() -> str | None:
    """What has to be installed before the page can be served here; None where nothing is missing."""
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
