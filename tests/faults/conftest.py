"""Fixtures that the tests of faults share."""

from small_disk import disk  # noqa: F401
