"""What is pushed to a Hub, by hand or by the Trainer, gives the same logits in a fresh process elsewhere."""

import json

import pytest
from fresh_process import run_python
from huggingface_hub import HfApi
from tiny_lavt import tiny_lavt, tiny_processor

INPUTS = """
import json, sys
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from PIL import Image
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline

images = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), np.uint8)
texts = ["the left dog", "red circle"]
masks = [images[0, ..., 0] > 128, images[1, ..., 1] > 128]

def logits(model, processor):
    with torch.no_grad():
        return model.eval()(**processor(list(images), texts, return_tensors="pt")).logits
"""

PUSH = """
import hf_refseg

model = AutoModel.from_pretrained("model")
processor = AutoProcessor.from_pretrained("model")
model.push_to_hub("tester/pushed")
processor.push_to_hub("tester/pushed")
pushed = logits(model, processor)

batch = processor(images=list(images), text=texts, segmentation_maps=masks, return_tensors="pt")
items = [{name: values[index] for name, values in batch.items()} for index in range(2)]
arguments = TrainingArguments(
    "run", max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, use_cpu=True, remove_unused_columns=False,
    push_to_hub=True, hub_model_id="tester/trained", save_steps=1, report_to="none", disable_tqdm=True,
)
trainer = Trainer(model, arguments, train_dataset=items, processing_class=processor)
trainer.train()
trainer.push_to_hub()
trained = logits(model, processor)
assert (trained - pushed).abs().max() > 1e-3
save_file({"pushed": pushed, "trained": trained}, "expected.safetensors")
"""

READ = """
expected = load_file("../expected.safetensors")
read = {}
for name in ("pushed", "trained"):
    model = AutoModel.from_pretrained(f"tester/{name}", trust_remote_code=REMOTE)
    processor = AutoProcessor.from_pretrained(f"tester/{name}", trust_remote_code=REMOTE)
    difference = (logits(model, processor) - expected[name]).abs().max().item()
    read[name] = [difference, type(model).__module__.split(".")[0]]
    for task in ("referring-image-segmentation", "referring-video-segmentation"):
        segment = pipeline(task, model=f"tester/{name}", trust_remote_code=REMOTE)
        frame = Image.fromarray(images[0])
        (result,) = segment(frame if "image" in task else [frame], text=texts[0])
        read[name].append([type(segment).__module__.split(".")[0], result["label"]])
print(json.dumps(read))
"""

SAVE_AGAIN = """
model.save_pretrained("again")
processor.save_pretrained("again")
model = AutoModel.from_pretrained("again", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("again", trust_remote_code=True)
print((logits(model, processor) - expected["trained"]).abs().max().item())
"""


@pytest.mark.slow_process
def test_models_pushed_by_hand_and_by_the_trainer_are_read_elsewhere(hub, tmp_path):
    tiny_lavt().save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    run_python(INPUTS, PUSH, cwd=tmp_path, env=hub.environment("writer"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    api = HfApi(endpoint=hub.endpoint)
    for name in ("pushed", "trained"):
        files = api.list_repo_files(f"tester/{name}")
        assert {"config.json", "model.safetensors", "processor_config.json", "modeling_lavt.py"} <= set(files)
        assert not [path for path in files if path.startswith(("/", "run/"))]

    with_package = run_python(
        INPUTS, "import hf_refseg\nREMOTE = None", READ, cwd=elsewhere, env=hub.environment("reader")
    )
    same = pytest.approx(0, abs=1e-6)
    known = [same, "hf_refseg", *[["hf_refseg", "the left dog"]] * 2]
    assert json.loads(with_package.splitlines()[-1]) == {"pushed": known, "trained": known}

    *_, read, again = run_python(
        INPUTS,
        "REMOTE = True",
        READ,
        SAVE_AGAIN,
        cwd=elsewhere,
        env=hub.environment("stranger"),
        package=None,
    ).splitlines()
    remote = [same, "transformers_modules", *[["transformers_modules", "the left dog"]] * 2]
    assert json.loads(read) == {"pushed": remote, "trained": remote}
    assert float(again) == same
