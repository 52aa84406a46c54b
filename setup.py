"""Package layout and dependencies; `modeling/` and `datasets_scripts/` lie beside the package, install inside it."""

from pathlib import Path

from setuptools import setup

DEPENDENCIES = [
    "torch>=2.6",
    "torchvision",
    "transformers>=5.20,<6",
    "datasets>=5,<6",
    "huggingface_hub>=2",
    "safetensors",
    "accelerate",
    "evaluate",
    "timm",
    "peft",
    "pycocotools",
    "typer",
    "pyyaml",
]
VIDEO = ["av", "h5py", "scipy"]
EXTRAS = {
    "video": VIDEO,
    "demo": ["gradio"],
    "export": ["onnx", "onnxscript", "onnxruntime"],
    "dev": ["pytest", "ruff", "tensorboard", *VIDEO],
}

setup(
    name="hf_refseg",
    version="0.1.0",
    description="Referring segmentation as Hugging Face models: an image or a video and a sentence in, the mask out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "hf_refseg",
        "hf_refseg.convert",
        "hf_refseg.data",
        "hf_refseg.datasets_scripts",
        "hf_refseg.evaluation",
        "hf_refseg.evaluation.refseg_iou",
        "hf_refseg.hub",
        "hf_refseg.modeling",
        "hf_refseg.training",
    ],
    # Outside the package, so that `hf-refseg --help` answers without importing torch.
    py_modules=["hf_refseg_cli"],
    package_dir={"hf_refseg.modeling": "modeling", "hf_refseg.datasets_scripts": "datasets_scripts"},
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hf-refseg = hf_refseg_cli:app"]},
)
