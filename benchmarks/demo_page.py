"""A picture of the demo page for its documentation: the first example, segmented by the models named.

    python benchmarks/demo_page.py refshapes-demo [MODEL ...]

needs the extra `demo`, selenium, Chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from tempfile import TemporaryDirectory

from headless_browser import DemoPage, open_browser, wait_for
from PIL import Image

from hf_refseg.demo.examples import write_scenes
from hf_refseg.demo.page import build_page, launch
from hf_refseg.files import write_picture
from hf_refseg.systems import load_system

OUTPUT = Path(__file__).parents[1] / "docs" / "pictures" / "demo_page.png"
WINDOW = (1280, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, open_browser(*WINDOW) as browser:
        built = build_page([load_system(name) for name in arguments.models], write_scenes(Path(folder)))
        _, url, _ = launch(built, prevent_thread_lock=True, quiet=True)
        browser.get(f"{url}?__theme=light")
        page = DemoPage(browser)
        page.button("Segment")
        page.all("button.gallery-item")[0].click()
        wait_for(lambda: page.all("textarea")[0].get_attribute("value"), "the example")
        page.button("Segment").click()
        wait_for(page.lines, "the masks")
        wait_for(lambda: not page.all(".progress-text, .eta-bar"), "the end of the progress")
        picture = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        built.close()
    # A palette makes it small; k-means brings rare colors, as those of masks are, near to what they were.
    write_picture(arguments.output, picture.quantize(256, kmeans=2))
    print(arguments.output)


if __name__ == "__main__":
    main()
