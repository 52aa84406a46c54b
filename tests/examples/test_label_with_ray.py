"""The example that labels images with Ray Data writes the folder of `hf-refseg label`, on a local Ray."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from places import CHECKOUT, EXAMPLES
from tiny_lavt import tiny_lavt, tiny_processor
from typer.testing import CliRunner

from hf_refseg_cli import app

# It lasts half a minute, most of which Ray takes to start.
SECONDS = 300


@pytest.mark.slow_process
@pytest.mark.skipif(find_spec("ray") is None, reason='needs Ray: pip install "ray[data]"')
def test_actors_write_what_one_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    processor = tiny_processor()
    processor.image_processor.mask_threshold = 0.455
    tiny_lavt().save_pretrained("tiny")
    processor.save_pretrained("tiny")
    Path("photos").mkdir()
    for number in range(6):
        Image.effect_noise((40 + number, 30), 200).convert("RGB").save(f"photos/{number}.png")
    Path("photos/broken.png").write_bytes(b"no picture")
    texts = ["the left dog", "the red circle"]
    command = [sys.executable, str(EXAMPLES / "label_with_ray.py"), "tiny", "photos", "by_ray", "--texts", *texts]
    # Ray keeps a token in the home folder.
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--actors", "2", "--gpus", "0"], env=env, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 1, done.stderr
    assert "Error: " in done.stderr and "broken.png is damaged" in done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "by_ray")
    texts = ("--texts", texts[0], "--texts", texts[1])
    CliRunner().invoke(app, ["label", "tiny", "photos", *texts, "--workers", "0", "--output", "by_one"])
    files = {path.name: path.read_bytes() for path in Path("by_one/data").iterdir()}
    assert {path.name: path.read_bytes() for path in Path("by_ray/data").iterdir()} == files
    assert set(files) == {"train-00000-of-00001.parquet", "val-00000-of-00001.parquet"}
