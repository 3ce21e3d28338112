"""Log records on the screen. The suite's code logs; the command line decides where that goes.

A log record never interrupts the work: if it cannot be shown, it is dropped.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

LOGGERS = ("bench", "methods", "tasks", "analysis")


class Console(logging.Handler):
    """Passes each record as one text to ``show``: warnings and errors with their level, information as it is."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self.show = show

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        # a terminal or a parent process that is gone, and whatever else may be wrong with a display
        with contextlib.suppress(Exception):
            self.show(f"{record.levelname.lower()}: {text}" if record.levelno >= logging.WARNING else text)


@contextlib.contextmanager
def shown(show: Callable[[str], None]) -> Iterator[None]:
    """Pass the suite's log records to ``show`` for the length of a with block, and nowhere else."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    console = Console(show)
    for logger in loggers:
        logger.setLevel(logging.INFO)
        logger.handlers = [console]
        logger.propagate = False  # libraries may have given the root logger a handler
    try:
        yield
    finally:
        for logger, (level, handlers, propagate) in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.handlers, logger.propagate = handlers, propagate
