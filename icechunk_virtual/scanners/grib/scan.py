"""The scan of a GRIB file: messages, their fields, what these are about, and the arrays that they make.

Only headers are read. Loaded when such a file is scanned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from icechunk_virtual.containers.source import Source
from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.scanners.dataset import Scanned, count
from icechunk_virtual.scanners.grib.ahead import Ahead
from icechunk_virtual.scanners.grib.arrays import Building, References, build
from icechunk_virtual.scanners.grib.chains import look_ahead
from icechunk_virtual.scanners.grib.fields import Fields, find_fields
from icechunk_virtual.scanners.grib.headers import Table, describe
from icechunk_virtual.scanners.grib.keys import distinguishing
from icechunk_virtual.scanners.grib.messages import Messages, find_messages
from icechunk_virtual.scanners.grib.variables import arrange, find_variables
from icechunk_virtual.scanners.spec import ScanOptions

_SHOWN = 3


def scan(source: Source, options: ScanOptions) -> Scanned:
    """Scan a GRIB file.

    Raises
    ------
    MalformedSource
        A message is cut off, or its header makes no sense; the error names its place. With `skip_unsupported` such
        messages are left out with a warning.
    """
    ahead = Ahead(source)
    look_ahead(ahead)
    messages = find_messages(source, ahead, options)
    fields, damaged = find_fields(ahead, messages)
    skipped = {int(messages.offset[row]): reason for row, reason in damaged.items()}
    skipped |= dict(messages.damaged)
    table, refused = describe(ahead, fields, messages.edition[fields.message])
    skipped |= {int(messages.offset[fields.message[row]]): reason for row, reason in refused.items()}
    rows = np.setdiff1d(np.arange(len(fields)), np.fromiter(refused, np.int64, len(refused)))
    if skipped and not (options.skip_unsupported and len(rows)):
        raise _damage(skipped, source)
    variables, duplicates = find_variables(table, rows, lambda row: distinguishing(table.header(row)))
    building = Building(source, options, table, _references(messages, fields), source.locations)
    root = build(arrange(variables, _grid_names(table).__getitem__), "/", building)
    account = _account(messages, fields, len(rows) - len(duplicates), duplicates, skipped)
    warnings = [*account, *building.warnings, *options.unknown_drops(building.paths)]
    editions = " and ".join(str(edition) for edition in sorted(set(messages.edition.tolist())))
    kind = f"GRIB edition {editions}, {count(len(messages), 'message')}"
    return Scanned(root, source.url, kind, tuple(building.stored), tuple(warnings))


def _damage(skipped: Mapping[int, str], source: Source) -> MalformedSource:
    position, reason = min(skipped.items())
    others = f", and {len(skipped) - 1} more are not sound" if len(skipped) > 1 else ""
    return MalformedSource(
        f"{source.url} is not a sound GRIB file: the message at byte {position} {reason}{others}. Get it again; "
        "skip_unsupported=True takes the messages that are sound.",
        source=source.url,
        position=position,
    )


def _references(messages: Messages, fields: Fields) -> References:
    """The bytes of each field: a message, or the beginning of one up to the end of the field."""
    offset, whole = messages.offset[fields.message], messages.length[fields.message]
    last = fields.end + 4 == offset + whole
    length = np.where(last, whole, fields.end - offset)
    return References(offset, length, int(messages.length.max()))


def _grid_names(table: Table) -> list[str]:
    """A name for each grid, with its size."""
    names: list[str] = []
    for grid in table.grids:
        name = f"{grid.kind}_{'x'.join(map(str, grid.shape))}"
        names.append(name if name not in names else f"{name}_{len(names) + 1}")
    return names


def _account(
    messages: Messages, fields: Fields, referenced: int, duplicates: NDArray[np.int64], skipped: Mapping[int, str]
) -> list[str]:
    """What became of every message, unless all are referenced; and of the bytes between them."""
    lines = []
    if len(duplicates) or skipped:
        reasons = Counter(skipped.values())
        parts = [f"{n} skipped because each {reason}" for reason, n in reasons.items()]
        if len(duplicates):
            places = messages.offset[fields.message[duplicates]].tolist()
            parts.append(f"{len(duplicates)} skipped because an earlier one has the same header ({_places(places)})")
        total = referenced + len(duplicates) + sum(reasons.values())
        lines.append(f"{count(total, 'field')} in the file = {referenced} referenced + {' + '.join(parts)}")
    if messages.gaps:
        size = sum(length for _, length in messages.gaps)
        places = _places([offset for offset, _ in messages.gaps])
        lines.append(f"{count(size, 'byte')} between messages belong to none ({places})")
    return lines


def _places(offsets: Sequence[int]) -> str:
    shown = ", ".join(map(str, offsets[:_SHOWN]))
    return f"at byte {shown}{' ...' if len(offsets) > _SHOWN else ''}"
