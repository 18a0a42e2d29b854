"""What can go wrong, by exit code: the command line prints one line and leaves with `exit_code`."""

from __future__ import annotations


class TessellaError(Exception):
    """Something the user should read as one line, without a traceback."""

    exit_code = 1


class BadInput(TessellaError):
    """A file, a key or a value that cannot be used: the text says which, and how to mend it."""

    exit_code = 2


class Diverged(TessellaError):
    """A loss or a gradient is not finite; nothing was updated."""

    exit_code = 3


class Collapsed(TessellaError):
    """To the network all pictures have come to look alike; going on would teach it nothing."""

    exit_code = 4


class DiskFull(TessellaError):
    """No room for what must be written; what was there before is intact."""

    exit_code = 74  # EX_IOERR


class Stopped(TessellaError):
    """The run was asked to stop and has saved itself."""

    exit_code = 143  # 128 + SIGTERM; 130 for Ctrl-C


def readable(text: str) -> str:
    """Names of files as they may stand in a terminal or on a page: control characters and bytes that are no UTF-8 are
    escaped, so that a name can neither forge a line nor move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
