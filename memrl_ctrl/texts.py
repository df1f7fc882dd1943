"""Texts from elsewhere (a machine, a file), before they are shown."""

from __future__ import annotations


def clean(text: str) -> str:
    """Return a text without what would act on a terminal."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
