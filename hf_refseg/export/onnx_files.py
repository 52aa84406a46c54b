"""Graphs as ONNX files: written, folded, and made of whole numbers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch.export import ExportedProgram

from .graphs import Graph

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# In bytes; one file of ONNX holds 2 GiB at most, with what lies around the weights.
MOST_IN_ONE_FILE = 3 * 2**29
# What dynamic quantization changes: the products with weights, in which nearly all of the time goes.
QUANTIZED_OPERATORS = ("MatMul", "Gemm")


def require_packages() -> None:
    """Raises ImportError, with what to do, where a package that writes ONNX is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {', '.join(missing)}: install the extra, pip install 'hf_refseg[export]', or pass "
            "--format torch."
        )


def write_onnx(graph: Graph, program: ExportedProgram, path: Path) -> int:
    """Writes a traced graph; returns the version of its operators (opset).

    What depends on no input is computed here once, by onnxruntime: PyTorch's own optimization takes minutes for it.
    Weights of more than `MOST_IN_ONE_FILE` bytes go into a file beside it, `<name>.onnx.data`.
    """
    plain = path.with_name(f"unfolded_{path.name}")
    with _quiet():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            verbose=False,
            input_names=graph.input_names,
            output_names=graph.output_names,
        )
        exported.save(plain)
    fold_constants(plain, path)
    for file in plain.parent.glob(f"{plain.name}*"):
        file.unlink()
    return exported.model.opset_imports[""]


def fold_constants(plain: Path, path: Path) -> None:
    """Writes `plain` to `path` with all computed that depends on no input; the operators are ONNX's own."""
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    if sum(file.stat().st_size for file in plain.parent.glob(f"{plain.name}*")) > MOST_IN_ONE_FILE:
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{path.name}.data"
        )
    InferenceSession(plain, options, providers=["CPUExecutionProvider"])


def quantize_weights(path: Path, output: Path) -> None:
    """Writes a graph with the weights of its matrix products as integers of 8 bits, a scale for each channel.

    What they are multiplied with becomes integers while the graph runs.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(
            path,
            output,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=path.with_name(f"{path.name}.data").exists(),
            # Products of two features keep their precision: they are few, and errors add up there.
            extra_options={"MatMulConstBOnly": True},
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, nothing is said of what these libraries deprecate or advise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "root")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
