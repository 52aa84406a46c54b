"""Names the processor that a benchmark ran on: which number format is the fastest depends on it."""

import platform
import re
from pathlib import Path

# Of the instructions that a processor may have, those that matrix products in float32 and bfloat16 depend on.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def describe_processor(information: Path = Path("/proc/cpuinfo")) -> str:
    """Its name and what it has of `INSTRUCTIONS`, as Linux tells; elsewhere the name that Python knows."""
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    name = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", text, re.MULTILINE)
    known = flags[1].split() if flags else []
    found = [instruction for instruction in INSTRUCTIONS if instruction in known]
    return ", ".join([name[1] if name else platform.processor() or platform.machine(), *found])
