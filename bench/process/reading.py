"""Files that others may have put there: opening a pipe would make a reader wait for ever."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

# What says "the file is not what it should be". Any other error says that it could not be read, now or by this user.
WRONG = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


def regular(file: Path) -> Path:
    """``file``, to be opened, unless it is a pipe, a socket or a device. Folders and errors are left to opening it.

    Raises:
        OSError: it is one of them.
    """
    try:
        mode = file.stat().st_mode
    except OSError:
        return file
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(file))
    return file
