"""A Space of the demo page; the variable MODELS names what it asks, separated by spaces."""

import os
from pathlib import Path
from tempfile import mkdtemp

from hf_refseg.demo.examples import examples_in, write_scenes
from hf_refseg.demo.page import build_page, launch
from hf_refseg.systems import load_system

MODELS = os.environ.get("MODELS", "CIDAS/clipseg-rd64-refined").split()
# Pictures that lie in the Space, each beside a .txt file of its name with expressions; without any, generated scenes.
EXAMPLES = Path(__file__).parent / "examples"

examples = examples_in(EXAMPLES) if EXAMPLES.is_dir() else write_scenes(Path(mkdtemp()))
page = build_page([load_system(model) for model in MODELS], examples)

if __name__ == "__main__":
    launch(page)
