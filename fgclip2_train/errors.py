"""Why a run cannot go on, said in one line: a traceback would add nothing."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class Stopped(RuntimeError):
    pass


class NonFinite(Stopped):
    """A loss or gradient was not finite on some rank; no update was made with it or after it."""


class OtherRankFailed(Stopped):
    """This rank had nothing wrong with it but the company."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around what writes a file: an OSError then names it, which the system does where a file is opened but not where it is written."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(error.filename or path)) from error
