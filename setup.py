"""Package layout and dependencies; `modeling/`, `datasets_scripts/` and the recipes lie beside the package here."""

from pathlib import Path

from setuptools import setup

# The lowest versions are those that `make test-lowest` installs.
DEPENDENCIES = [
    "torch>=2.11",
    "torchvision>=0.26",
    "transformers>=5.20.2,<6",
    "datasets>=5,<6",
    "huggingface_hub>=2,<3",
    "safetensors>=0.8",
    "accelerate>=1.12",
    "evaluate>=0.4.3",
    "filelock>=3.16",
    "timm>=1.0.27",
    "peft>=0.20",
    "pycocotools>=2.0.8",
    "typer>=0.20",
    "pyyaml>=6.0.1",
]
VIDEO_FILES = "av>=17.1"
VIDEO = [VIDEO_FILES, "h5py>=3.12", "scipy>=1.14"]
EXTRAS = {
    "video": VIDEO,
    "demo": ["gradio>=6.29.1,<7", VIDEO_FILES],
    "export": [
        *("onnx>=1.23", "onnxscript>=0.7"),
        "onnxruntime>=1.32; python_version >= '3.11'",
        # The last one for Python 3.10.
        "onnxruntime>=1.23.2; python_version < '3.11'",
    ],
    "docs": ["latex2mathml>=3.78", "mkdocs-material>=9.6", "mkdocstrings-python>=2"],
    "dev": [
        *(
            "hypothesis>=6.130",
            "markdown-it-py>=3",
            "mypy>=1.18",
            "pytest>=8",
            "pytest-xdist>=3.8",
            "ruff>=0.9",
            "selenium>=4.25",
            "setuptools>=77",
            "tensorboard>=2.18",
        ),
        *VIDEO,
    ],
}

setup(
    name="hf_refseg",
    version="0.2.0.dev0",
    description="Referring segmentation as Hugging Face models: an image or a video and a sentence in, the mask out",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[
        "hf_refseg",
        "hf_refseg.commands",
        "hf_refseg.convert",
        "hf_refseg.data",
        "hf_refseg.demo",
        "hf_refseg.datasets_scripts",
        "hf_refseg.evaluation",
        "hf_refseg.evaluation.refseg_iou",
        "hf_refseg.export",
        "hf_refseg.hub",
        "hf_refseg.labeling",
        "hf_refseg.modeling",
        "hf_refseg.papers",
        "hf_refseg.recipes",
        "hf_refseg.systems",
        "hf_refseg.training",
        "hf_refseg.visualization",
    ],
    # Outside the package, so that `hf-refseg --help` answers without importing torch.
    py_modules=["hf_refseg_cli"],
    package_dir={
        "hf_refseg.datasets_scripts": "datasets_scripts",
        "hf_refseg.modeling": "modeling",
        "hf_refseg.recipes": "examples/recipes",
    },
    package_data={
        "hf_refseg": ["refshapes_demo/*", "py.typed"],
        "hf_refseg.evaluation": ["*.yaml"],
        "hf_refseg.papers": ["*.yaml", "measured/*.json"],
        "hf_refseg.recipes": ["*.yaml"],
    },
    install_requires=DEPENDENCIES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["hf-refseg = hf_refseg_cli:app"]},
)
