"""The tasks. A new one is a file in this folder and a line here."""

from tasks import arc, boolq, mmlu, notes, openbookqa, winogrande

__all__ = ["arc", "boolq", "mmlu", "notes", "openbookqa", "winogrande"]
