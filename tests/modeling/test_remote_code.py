"""A saved folder loads in a fresh process, by the package and, where it is not installed, by the code it carries."""

import json

import pytest
import torch
from fresh_process import run_python
from PIL import Image
from safetensors.torch import save_file
from tiny_lavt import tiny_lavt, tiny_processor
from tiny_methods import TinyBtmae, TinyLavt, TinyM3Att, TinyMagNet, TinyRisam, TinyUnifiedLavt, TinyVideoLavt
from transformers import pipeline

TEXTS = ["the left dog", "red circle"]

COMPARE = """
import json, sys
import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, pipeline

photo = Image.open("photo.png")
expected = load_file("expected.safetensors")

def difference(processor, model):
    inputs = processor([photo, photo], ["the left dog", "red circle"], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    assert not model.training
    results = processor.post_process_referring_segmentation(outputs, [(40, 50)] * 2, expected["threshold"].item())
    masks = torch.stack([result["mask"] for result in results])
    assert torch.equal(masks, expected["masks"])
    return (outputs.logits - expected["logits"]).abs().max().item()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds `model` (model and processor), `with_pipeline`, `photo.png` and what the model makes of it."""
    folder = tmp_path_factory.mktemp("remote_code")
    torch.manual_seed(1)
    photo = Image.fromarray(torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8).numpy())
    photo.save(folder / "photo.png")
    model, processor = tiny_lavt(), tiny_processor()
    with torch.no_grad():
        outputs = model(**processor([photo, photo], TEXTS, return_tensors="pt"))
    threshold = outputs.logits.sigmoid().median()
    results = processor.post_process_referring_segmentation(outputs, [(40, 50)] * 2, threshold.item())
    masks = torch.stack([result["mask"] for result in results])
    assert 0.1 < masks.float().mean() < 0.9
    expected = {"logits": outputs.logits, "masks": masks, "threshold": threshold}
    save_file(expected, folder / "expected.safetensors")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    segment = pipeline("referring-image-segmentation", model=model, processor=processor)
    segment.save_pretrained(folder / "with_pipeline")
    return folder


@pytest.mark.slow_process
def test_code_beside_the_weights_is_enough(folder):
    code = """
    config = AutoConfig.from_pretrained("model", trust_remote_code=True)
    model = AutoModel.from_pretrained("model", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained("model", trust_remote_code=True)
    image_processor = AutoImageProcessor.from_pretrained("model", trust_remote_code=True)
    model.save_pretrained("again")
    processor.save_pretrained("again")
    again = AutoModel.from_pretrained("again", trust_remote_code=True)
    processor_again = AutoProcessor.from_pretrained("again", trust_remote_code=True)
    segment = pipeline(model="with_pipeline", trust_remote_code=True)
    (result,) = segment(photo, text="the left dog", threshold=expected["threshold"].item())
    segment.save_pretrained("pipeline_again")
    (same,) = pipeline(model="pipeline_again", trust_remote_code=True)(photo, text="the left dog")
    (another,) = pipeline("referring-video-segmentation", model="again", trust_remote_code=True)([photo], text="dog")
    print(json.dumps({
        "difference": difference(processor, model),
        "difference_again": difference(processor_again, again),
        "modules": sorted({type(part).__module__.split(".")[0] for part in (config, model, processor, again)}),
        "image_processor": type(image_processor).__name__,
        "labels": [answer["label"] for answer in (result, same, another)],
        "mask_agrees": result["mask"].size == photo.size
        and (np.asarray(result["mask"]) > 0).tolist() == expected["masks"][0].tolist(),
        "package_imported": any(name.split(".")[0] == "hf_refseg" for name in sys.modules),
    }))
    """
    printed = run_python(COMPARE, code, cwd=folder, package=None)
    assert json.loads(printed.splitlines()[-1]) == {
        "difference": pytest.approx(0, abs=1e-6),
        "difference_again": pytest.approx(0, abs=1e-6),
        "modules": ["transformers_modules"],
        "image_processor": "RefSegImageProcessor",
        "labels": ["the left dog", "the left dog", "dog"],
        "mask_agrees": True,
        "package_imported": False,
    }


METHODS = (TinyBtmae, TinyLavt, TinyM3Att, TinyMagNet, TinyRisam, TinyUnifiedLavt, TinyVideoLavt)


@pytest.mark.slow_process
@torch.no_grad()
def test_each_method_answers_the_same_by_the_code_beside_its_weights(tmp_path):
    for tiny in (method() for method in METHODS):
        model, inputs = tiny.build(presence_head=True), tiny.inputs()
        folder = tmp_path / model.config.model_type
        model.save_pretrained(folder)
        save_file({**inputs, "logits": model(**inputs).logits}, folder / "tensors.safetensors")
    code = """
    import json
    from pathlib import Path
    from safetensors.torch import load_file
    from transformers import AutoModel

    results = {}
    for folder in sorted(path.parent for path in Path().glob("*/tensors.safetensors")):
        model = AutoModel.from_pretrained(folder, trust_remote_code=True)
        inputs = load_file(folder / "tensors.safetensors")
        logits = inputs.pop("logits")
        difference = (model(**inputs).logits - logits).abs().max().item()
        results[folder.name] = [difference, type(model).__module__.split(".")[0]]
    print(json.dumps(results))
    """
    # What a file of the code needs, it has to import by itself.
    results = json.loads(run_python(code, cwd=tmp_path, package=None, imports=()).splitlines()[-1])
    expected = [pytest.approx(0, abs=1e-4), "transformers_modules"]
    assert results == {method.model_class.config_class.model_type: expected for method in METHODS}


@pytest.mark.slow_process
def test_the_installed_package_needs_no_trust(folder):
    code = """
    import hf_refseg

    model = AutoModel.from_pretrained("model")
    processor = AutoProcessor.from_pretrained("model")
    named = hf_refseg.AutoModelForReferringSegmentation.from_pretrained("model")
    segment = pipeline("referring-image-segmentation", model="model")
    (result,) = segment(photo, text="red circle")
    saved = pipeline("referring-image-segmentation", model="with_pipeline")
    print(json.dumps({
        "difference": difference(processor, model),
        "same_class": type(named) is type(model) is hf_refseg.LavtForReferringSegmentation,
        "processor": type(processor) is hf_refseg.RefSegProcessor,
        "pipeline": type(segment) is type(saved) is hf_refseg.ReferringImageSegmentationPipeline,
        "label": result["label"],
    }))
    """
    printed = run_python(COMPARE, code, cwd=folder)
    assert json.loads(printed.splitlines()[-1]) == {
        "difference": pytest.approx(0, abs=1e-6),
        "same_class": True,
        "processor": True,
        "pipeline": True,
        "label": "red circle",
    }
