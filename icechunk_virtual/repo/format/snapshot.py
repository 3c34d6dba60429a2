"""Snapshots (section 4.3): one version of a hierarchy in a file. What others import from here; see the two modules."""

from __future__ import annotations

from icechunk_virtual.repo.format.snapshot_encode import (
    MAX_TABLES,
    MAX_TABLES_OLD,
    changed_files,
    count_tables,
    encode_adopted_snapshot,
    encode_changed_snapshot,
    encode_snapshot,
)
from icechunk_virtual.repo.format.snapshot_view import ManifestFile, Snapshot, decode_snapshot

__all__ = [
    "MAX_TABLES",
    "MAX_TABLES_OLD",
    "ManifestFile",
    "Snapshot",
    "changed_files",
    "count_tables",
    "decode_snapshot",
    "encode_adopted_snapshot",
    "encode_changed_snapshot",
    "encode_snapshot",
]
