"""The latency benchmark counts any method's FLOPs, and says which number format is the fastest on which processor."""

from pathlib import Path

import latency
import processor
from tiny_methods import TinyLavt, TinyRisam

from hf_refseg.model_costs import count_pass

CPUINFO = """processor\t: 0
model name\t: Some(R) Processor 9
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16_of_another_name

processor\t: 1
model name\t: Some(R) Processor 9
"""


def test_the_processor_is_named_with_the_instructions_that_matter(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO, encoding="utf-8")
    described = processor.describe_processor(tmp_path / "cpuinfo")
    assert described == "Some(R) Processor 9, avx2, avx512f, avx512_bf16"
    assert processor.describe_processor(tmp_path / "absent")


def test_the_fastest_is_named_with_its_processor() -> None:
    common = {"threads": 2, "processor": "Some Processor, avx2", "rounds": 9}
    rows = [
        {"dtype": "float32", "attention": "sdpa", "latency_seconds": 1.5, "latency_over_float32": 1.0, **common},
        {"dtype": "float32", "attention": "eager", "latency_seconds": 1.2, "latency_over_float32": 0.8, **common},
        {"dtype": "bfloat16", "attention": "sdpa", "latency_seconds": 2.4, "latency_over_float32": 1.6, **common},
    ]
    assert latency.find_fastest(rows) == {
        "fastest": {
            "dtype": "float32",
            "attention": "eager",
            "latency_seconds": 1.2,
            "latency_over_float32": 0.8,
            "threads": 2,
            "processor": "Some Processor, avx2",
        }
    }
    assert {(str(dtype), attention) for dtype, attention in latency.VARIANTS} == {
        (f"torch.{dtype}", attention) for dtype in ("float32", "bfloat16") for attention in ("eager", "sdpa")
    }


def test_the_floors_are_those_of_what_a_method_computes() -> None:
    for tiny in (TinyLavt(), TinyRisam()):
        model = tiny.build()
        flops = latency.count_both_flops(model, tiny.inputs(batch=1))
        assert sum(flops["own"].values()) == count_pass(model.to("meta"), tiny.size, tokens=6).by_part()["total"]
        assert flops["own"]["convolution"] > 0 and flops["own"]["matmul"] > 0
        # Images of 64 x 72 pixels have windows that reach over the edge; Swin alone is published with those.
        projects_padding = sum(flops["published"].values()) > sum(flops["own"].values())
        assert projects_padding == isinstance(tiny, TinyLavt)
