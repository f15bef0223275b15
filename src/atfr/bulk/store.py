"""Where files are, on this machine or in an object store, and what to do when that refuses."""

import errno
import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from atfr.errors import InputError

TRIES, FIRST_WAIT_S, LONGEST_WAIT_S = 6, 0.5, 30.0
"""Of what an object store refuses."""
S3 = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 0}}
"""Of its client: seconds that it waits for an answer; it is asked again here."""
Result = TypeVar("Result")


def store(url: str) -> tuple[Any, str]:
    """Return the file system of a path or URL, with limits on how long it waits, and the name in it.

    Raises:
        InputError: fsspec does not know such URLs, or the client of the object store is not installed.
    """
    options = {"config_kwargs": S3} if url.startswith(("s3://", "s3a://")) else {}
    try:
        return fsspec.url_to_fs(url, **options)
    except (ValueError, ImportError) as error:
        raise InputError(f"'{url}' cannot be opened: {error}") from error


def retried(attempt: Callable[[], Result], tries: int = TRIES) -> Result:
    """Do what an object store or a network drive may refuse for a while; what it says for good is raised at once.

    Raises:
        OSError: it refuses to the end.
    """
    for wait in range(tries):
        try:
            return attempt()
        except (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError):
            raise
        except Exception as error:  # clients of object stores raise what they like: botocore's are no OSErrors
            if wait + 1 == tries or (isinstance(error, OSError) and error.errno == errno.ENOSPC):
                if isinstance(error, OSError):
                    raise
                raise OSError(f"{type(error).__name__}: {error}") from error
            time.sleep(random.uniform(0.5, 1) * min(FIRST_WAIT_S * 2**wait, LONGEST_WAIT_S))
    raise AssertionError("unreachable")
