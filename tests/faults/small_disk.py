"""A disk that can be filled, for tests of what happens then."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

DISK_SIZE = 16 * 2**20


class SmallDisk:
    """A folder on a disk of its own, or one whose files may only become so large.

    Args:
        folder: the folder.
        is_mounted: whether it is a disk of its own.
    """

    def __init__(self, folder: Path, is_mounted: bool) -> None:
        self.folder, self.is_mounted = folder, is_mounted

    @contextmanager
    def room(self, size: int) -> Iterator[None]:
        """A context in which so many bytes are left on the disk; or, for all disks, in each file."""
        if not self.is_mounted:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            return
        filling = self.folder / "filling"
        filling.write_bytes(bytes(shutil.disk_usage(self.folder).free - size))
        try:
            yield
        finally:
            filling.unlink()


@pytest.fixture(params=["mounted", "limited"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    """A small disk in memory, where root may mount one; and a limit on the size of files, which says the same."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited":
        yield SmallDisk(folder, is_mounted=False)
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    if not may_mount(mount):
        pytest.skip("no disk may be mounted here")
    try:
        yield SmallDisk(folder, is_mounted=True)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def may_mount(command: list[str]) -> bool:
    """Whether it worked."""
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
