"""The peak of memory of a process of its own: a benchmark starts itself anew, and the new process prints its peak."""

import resource
import subprocess
import sys
from collections.abc import Mapping
from typing import Any


def peak_of_process(script: str, options: Mapping[str, Any]) -> float:
    """GiB that a process of the script had at most, which prints it last by `print_peak`; a None is no option."""
    given = (option for option in options.items() if option[1] is not None)
    command = [sys.executable, script, *(str(part) for option in given for part in option)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.splitlines()[-1])


def print_peak() -> None:
    """Prints the peak of this process in GiB."""
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
