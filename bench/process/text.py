"""Text of others that a terminal may show: records, claims, schedulers' messages, file names."""

from __future__ import annotations

import unicodedata

# Cc and Cf: control characters (escape sequences begin with one), marks that reorder text, invisible ones.
# Cs: halves of surrogate pairs, which no encoding can write.
_UNPRINTABLE = ("Cc", "Cf", "Cs")


def counted(number: int, one: str, many: str = "") -> str:
    """``1 fit`` or ``2 fits``; ``many`` is the plural of a noun that takes no s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def printable(text: str) -> str:
    r"""``text`` with control and invisible characters shown as escapes (``\x1b``), but for line ends and tabs."""
    if text.isascii() and text.replace("\n", "").isprintable():  # at times megabytes
        return text
    return "".join(
        character
        if character in "\n\t" or unicodedata.category(character) not in _UNPRINTABLE
        else character.encode("unicode_escape").decode()
        for character in text
    )
