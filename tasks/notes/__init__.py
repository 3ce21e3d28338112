"""Notes: synthetic tasks whose exact answer distribution is known."""

from tasks.notes import tasks  # noqa: F401  (registers them)
