"""Notes: synthetic tasks whose exact answer distribution is known."""

from tasks.notes.tasks import tasks as _
