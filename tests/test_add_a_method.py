"""The worked example of docs/add_a_method.md does what the page says, in a checkout that it is copied into."""

import re
import shutil
from pathlib import Path

import pytest
from fresh_process import run_python
from places import CHECKOUT

PAGE = CHECKOUT / "docs" / "add_a_method.md"
# A line that begins with the path of a file, whatever stands in lines below it, and the code behind them.
BLOCK = re.compile(r"^(?:In )?`(\S+\.(?:py|yaml))`(?:.+\n)+\n```\w+\n([\s\S]*?)^```$", re.MULTILINE)

SEGMENT = """
import torch
from transformers import AutoModel, AutoProcessor

texts = ["the red circle", "the left star"]

@torch.no_grad()
def logits_of(model):
    processor = AutoProcessor.from_pretrained("run", trust_remote_code=True)
    image = torch.arange(3 * 64 * 64, dtype=torch.uint8).view(3, 64, 64)
    return model.eval()(**processor([image, image], texts, return_tensors="pt")).logits
"""
TRAIN = """
from pathlib import Path
import hf_refseg
from hf_refseg import AutoModelForReferringSegmentation, add_adapter, load_with_adapter
from hf_refseg.training.recipes import run_recipe

assert Path(hf_refseg.__file__).parent.parent == Path.cwd()
report = run_recipe([
    "dotmask_refshapes", "--output_dir", "run", "--max_steps", "3", "--image_size", "64", "--disable_tqdm", "True",
    "--dataset_options", '{"train_size": 4, "val_size": 2, "test_size": 2, "image_size": 64, "cache_dir": "cache"}',
    "--per_device_train_batch_size", "4", "--eval_strategy", "no", "--save_strategy", "no", "--logging_steps", "1",
])
assert report["splits"]["val"]["images"] == 2
assert "DotMask, the worked example" in Path("run/README.md").read_text()

trained = AutoModelForReferringSegmentation.from_pretrained("run")
model = add_adapter(trained, lora_rank=2)
optimizer = torch.optim.SGD([part for part in model.parameters() if part.requires_grad], 0.1)
inputs = {"pixel_values": torch.ones(1, 3, 64, 64), "input_ids": torch.tensor([[2, 7, 3]])}
labels = torch.ones(1, 64, 64, dtype=torch.long)
for _ in range(2):
    model.train()(**inputs, mask_labels=labels).loss.backward()
    assert [name for name, part in model.named_parameters() if part.requires_grad and part.grad is None] == []
    optimizer.step()
adapted = [name for name, _ in model.named_parameters() if "lora_B" in name]
print(*(sum(encoder in name for name in adapted) for encoder in ("backbone.", "text_encoder.")))
expected = logits_of(model)
model.save_pretrained("adapter")
torch.testing.assert_close(logits_of(load_with_adapter("adapter")), expected)
model.merge_and_unload().save_pretrained("run")
torch.save(expected, "expected.pt")
"""
LOAD = """
model = AutoModel.from_pretrained("run", trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
torch.testing.assert_close(logits_of(model), torch.load("expected.pt"), atol=1e-4, rtol=1e-4)
"""


def blocks() -> dict[str, str]:
    """What each file of the page holds, by its path."""
    return dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the library in which the page was followed: four files are new, one has a line more."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("hf_refseg", "modeling", "datasets_scripts", "examples", "tests/support"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in blocks().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        held = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(held + text, encoding="utf-8")
    return folder


def test_the_page_shows_four_files_and_one_line() -> None:
    new = {path: len(text.splitlines()) for path, text in blocks().items() if not (CHECKOUT / path).exists()}
    assert list(new) == [
        "modeling/configuration_dotmask.py",
        "modeling/modeling_dotmask.py",
        "examples/recipes/dotmask_refshapes.yaml",
        "tests/modeling/test_dotmask.py",
    ]
    changed = {path: len(text.splitlines()) for path, text in blocks().items() if path not in new}
    assert changed == {"hf_refseg/methods.py": 1}


@pytest.mark.slow_process
def test_the_method_of_the_page_trains_adapts_and_loads_anywhere(checkout: Path) -> None:
    projections = run_python(SEGMENT, TRAIN, cwd=checkout, package=checkout).splitlines()[-1]
    assert projections == "12 6"  # joint ones in 12 layers of the image encoder, 3 in each of 2 layers of the other
    run_python(SEGMENT, LOAD, cwd=checkout, package=None)


@pytest.mark.slow_process
def test_the_tests_of_the_page_pass(checkout: Path) -> None:
    code = """
    import sys
    import pytest

    sys.path.insert(0, "tests/support")
    chosen = "shapes or gradient or recorded or float64 or eager or disk or save_and_load"
    # As a number: Python 3.10 prints the name of a member.
    print(int(pytest.main(["-q", "-p", "no:cacheprovider", "tests/modeling/test_dotmask.py", "-k", chosen])))
    """
    *_, summary, status = run_python(code, cwd=checkout, package=checkout).splitlines()
    assert status == "0" and int(summary.split()[0]) > 10
