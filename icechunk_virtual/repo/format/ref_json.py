"""The content of a branch or tag: ``{"snapshot":"<id>"}`` (section 1.1). Where it is stored is not our business."""

from __future__ import annotations

import json

from icechunk_virtual.errors import CorruptFile
from icechunk_virtual.model.ids import SnapshotId, decode_id, encode_id


def encode_ref(snapshot: SnapshotId) -> bytes:
    """Compact JSON, 35 bytes."""
    return f'{{"snapshot":"{encode_id(snapshot)}"}}'.encode()


def decode_ref(data: bytes, *, file: str) -> SnapshotId:
    """Snapshot id in a ref; further members, blanks and lower case are tolerated.

    Raises
    ------
    CorruptFile
        No JSON object, or no valid id in it.
    """
    try:
        content = json.loads(data)
        text = content["snapshot"]
        return SnapshotId(decode_id(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptFile(f"no snapshot id in it ({error!r})", file=file, kind="ref") from None
