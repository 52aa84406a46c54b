"""The peak of memory is that of the process that is measured, whatever the process that started it holds."""

from pathlib import Path

import peak_memory


def test_what_the_starting_process_holds_is_not_counted(tmp_path: Path) -> None:
    script = tmp_path / "small.py"
    folder = str(Path(peak_memory.__file__).parent)
    script.write_text(
        f"import sys\nsys.path.insert(0, {folder!r})\nfrom peak_memory import print_peak\n"
        "held = bytearray(b'1') * 2**27\nprint_peak()\n"
    )
    held = bytearray(b"1") * 2**29
    assert 2**-3 < peak_memory.peak_of_process(str(script), {}) < 2**-2
    assert len(held) == 2**29
