"""Systems are loaded from a Hub by their names, and code of a repository is run only for who trusts it."""

import json
from pathlib import Path

import pytest
from fresh_process import run_python
from hub_server import TOKEN
from huggingface_hub import HfApi
from tiny_detectors import tiny_grounding_dino, tiny_sam
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_systems import noise, save, tiny_clipseg

from hf_refseg.systems import load_system

ANSWER = """
import json
from PIL import Image
from hf_refseg import load_system

def answer(name, **options):
    (found,) = load_system(name, device="cpu", **options).segment(Image.open("photo.png"), ["the left dog"])
    return [float(found.foreground(0.5).mean()), found.score_at(0.5)]
"""
READ = """
names = ("tester/clipseg", "tester/dino+tester/sam", "tester/lavt")
print(json.dumps([answer(name) for name in names]))
try:
    answer("tester/theirs")
except ValueError as error:
    print(error)
print(json.dumps(answer("tester/theirs", trust_remote_code=True)))
"""


@pytest.mark.slow_process
def test_systems_of_a_hub_answer_as_their_folders_do(hub, tmp_path: Path) -> None:
    builders = {"clipseg": tiny_clipseg, "dino": tiny_grounding_dino, "sam": tiny_sam}
    models = {name: build() for name, build in builders.items()}
    models |= {name: (tiny_lavt(), tiny_processor()) for name in ("lavt", "theirs")}
    folders = {name: save(tmp_path / name, *model) for name, model in models.items()}
    config = json.loads((tmp_path / "theirs" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "theirs" / "config.json").write_text(json.dumps({**config, "model_type": "their_method"}))
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    for name, folder in folders.items():
        api.create_repo(f"tester/{name}")
        api.upload_folder(folder_path=folder, repo_id=f"tester/{name}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    image = noise(50, 40)
    image.save(elsewhere / "photo.png")
    *_, read, refused, trusted = run_python(ANSWER, READ, cwd=elsewhere, env=hub.environment("reader")).splitlines()
    expected = []
    for name in (folders["clipseg"], f"{folders['dino']}+{folders['sam']}", folders["lavt"]):
        (answer,) = load_system(name, device="cpu").segment(image, ["the left dog"])
        expected.append(pytest.approx([answer.foreground(0.5).mean(), answer.score_at(0.5)], abs=1e-4))
    assert json.loads(read) == expected and json.loads(trusted) == expected[-1]
    assert "tester/theirs is a model of type their_method, which brings code of its own" in refused
