"""Paths of nodes: absolute, with `/` between names, the root is `/`. Whether a node is there is not known here."""

from __future__ import annotations


def child_path(parent: str, name: str) -> str:
    """Path of a child."""
    return f"/{name}" if parent == "/" else f"{parent}/{name}"


def parent_path(path: str) -> str:
    """Path of the parent; the root's is the root."""
    return path.rsplit("/", 1)[0] or "/"


def is_below(path: str, ancestor: str) -> bool:
    """Whether `path` is strictly below `ancestor`, component by component."""
    return path != "/" if ancestor == "/" else path.startswith(ancestor + "/")
