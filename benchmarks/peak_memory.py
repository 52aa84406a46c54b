"""The peak of memory of a process of its own: a benchmark starts itself anew, and the new process prints its peak."""

import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def peak_of_process(script: str, options: Mapping[str, Any]) -> float:
    """GiB that a process of the script had at most, which prints it last by `print_peak`; a None is no option."""
    given = (option for option in options.items() if option[1] is not None)
    command = [sys.executable, script, *(str(part) for option in given for part in option)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.splitlines()[-1])


def print_peak() -> None:
    """Prints the peak of this process in GiB."""
    status = Path("/proc/self/status")
    # On Linux getrusage counts what the process held before it became this program: all that its parent held.
    own = re.search(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.is_file() else None
    kilobytes = int(own[1]) if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(kilobytes / 2**20)
