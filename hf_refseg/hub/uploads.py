"""Uploads that go on where the Hub was busy or the connection was cut."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable
from typing import Literal, TypeVar

from huggingface_hub.errors import HfHubHTTPError, HTTPError

logger = logging.getLogger(__name__)

WAITS = (1, 2, 4, 8)
# Of these huggingface_hub itself repeats every request but the last one, the commit.
PASSING = (408, 429, 500, 502, 503, 504)

Result = TypeVar("Result")


def upload(
    send: Callable[[], Result], folder: str | os.PathLike[str], repo_id: str, kind: Literal["model", "dataset"]
) -> Result:
    """Calls `send`, again where it fails for a reason that passes: after 1, 2, 4 and 8 seconds.

    Files that have arrived are not sent again.

    Args:
        send: uploads all of `folder`.
        folder: what is uploaded; it stays as it is.
        repo_id: where to, "user/name".
        kind: of the repository.

    Raises:
        ConnectionError: the last attempt failed as well; says that nothing is lost and how to go on.
        HfHubHTTPError: the Hub refused the upload.
    """
    waits = iter(WAITS)
    while True:
        try:
            return send()
        except HTTPError as error:
            if not may_pass(error):
                raise
            wait = next(waits, None)
            if wait is None:
                command = f"hf upload {shlex.quote(repo_id)} {shlex.quote(os.fspath(folder))} --repo-type {kind}"
                raise ConnectionError(
                    f"{folder} could not be uploaded to {repo_id} in {len(WAITS) + 1} attempts ({error}). Nothing is "
                    f"lost: the folder is whole. Later: {command}"
                ) from error
            logger.warning("The upload to %s was interrupted (%s); it goes on in %d s.", repo_id, error, wait)
        time.sleep(wait)


def may_pass(error: HTTPError) -> bool:
    """Whether the Hub was out of reach or busy, and did not refuse what it was sent."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in PASSING
