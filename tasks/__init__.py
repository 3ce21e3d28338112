"""The tasks. A new one is a file in this folder and a line here."""

from tasks import arc, boolq, notes, openbookqa, winogrande

__all__ = ["arc", "boolq", "notes", "openbookqa", "winogrande"]
