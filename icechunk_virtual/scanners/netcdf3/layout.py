"""Where the data of a NetCDF-3 file lie: fixed variables one after the other, then records that interleave.

Arithmetic on a `Header`, judged by the length of the file. Sizes come from the shapes: the `vsize` of the header
cannot say more than 4 GiB, and writers disagree about its value beyond.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from icechunk_virtual.errors import MalformedSource
from icechunk_virtual.scanners.netcdf3.header import Header, Variable, slab_elements


@dataclass(frozen=True, slots=True)
class Placed:
    """A variable and its bytes.

    Attributes
    ----------
    dimensions, shape
        Names and lengths; the record dimension is first, as long as there are records.
    is_record : bool
        Whether the variable has the record dimension.
    begin : int
        Byte of the first element.
    slab : int
        Bytes of the whole variable, or of one record of it, without padding.
    """

    variable: Variable
    dimensions: tuple[str, ...]
    shape: tuple[int, ...]
    is_record: bool
    begin: int
    slab: int


@dataclass(frozen=True, slots=True)
class Layout:
    """All variables, the number of records, and the bytes from one record to the next."""

    variables: tuple[Placed, ...]
    numrecs: int
    record_size: int


def lay_out(header: Header, file_size: int, url: str) -> Layout:
    """Find the bytes of every variable.

    Raises
    ------
    MalformedSource
        Data inside the header, over each other, or beyond the end of the file; names the variable.
    """
    records = [v for v in header.variables if _is_record(v, header)]
    record_size = _record_size(records, header)
    numrecs = header.numrecs
    if numrecs is None:  # streamed: as many records as are complete
        numrecs = min((_complete_records(v, header, record_size, file_size) for v in records), default=0)
    placed = tuple(_place(v, header, numrecs) for v in header.variables)
    layout = Layout(placed, numrecs, record_size)
    _check_inside(layout, header, file_size, url)
    _check_apart([p for p in placed if not p.is_record], url)
    if numrecs:  # without records their offsets mean nothing, and scipy writes anything
        _check_apart([p for p in placed if p.is_record], url)
        _check_records(layout, url)
    return layout


def _is_record(variable: Variable, header: Header) -> bool:
    return bool(variable.dimensions) and header.dimensions[variable.dimensions[0]].size is None


def _slab(variable: Variable, header: Header) -> int:
    return slab_elements(variable, header.dimensions) * variable.type.dtype.itemsize


def _record_size(records: Sequence[Variable], header: Header) -> int:
    """Every slab is padded to 4 bytes, except when there is only one record variable (format specification, note 9)."""
    slabs = [_slab(v, header) for v in records]
    return slabs[0] if len(slabs) == 1 else sum(s + -s % 4 for s in slabs)


def _complete_records(variable: Variable, header: Header, record_size: int, file_size: int) -> int:
    """How many records of a variable the file has room for."""
    return max(0, (file_size - variable.begin - _slab(variable, header)) // record_size + 1)


def _place(variable: Variable, header: Header, numrecs: int) -> Placed:
    dimensions = [header.dimensions[d] for d in variable.dimensions]
    return Placed(
        variable,
        tuple(d.name for d in dimensions),
        tuple(numrecs if d.size is None else d.size for d in dimensions),
        _is_record(variable, header),
        variable.begin,
        _slab(variable, header),
    )


def _check_inside(layout: Layout, header: Header, file_size: int, url: str) -> None:
    for p in layout.variables:
        if p.is_record and not layout.numrecs:
            continue
        if p.begin < header.size:
            raise _damaged(url, p, f"starts at byte {p.begin}, inside the header of {header.size} bytes")
        end = p.begin + p.slab + (layout.record_size * (layout.numrecs - 1) if p.is_record else 0)
        if end > file_size:
            have = ""
            if p.is_record:
                complete = _complete_records(p.variable, header, layout.record_size, file_size)
                have = f"; {complete} of its {layout.numrecs} records are complete"
            raise _damaged(url, p, f"ends at byte {end}, the file has only {file_size} bytes{have}")


def _check_apart(variables: Sequence[Placed], url: str) -> None:
    """Fixed variables, or first records, do not overlap."""
    ordered = sorted(variables, key=lambda p: p.begin)
    for before, after in itertools.pairwise(ordered):
        if before.begin + before.slab > after.begin:
            raise _damaged(url, after, f"starts at byte {after.begin}, inside variable `{before.variable.name}`")


def _check_records(layout: Layout, url: str) -> None:
    """The slabs of a record fit into a record, and no fixed variable lies among the records."""
    records = sorted((p for p in layout.variables if p.is_record), key=lambda p: p.begin)
    if not records:
        return
    first, last = records[0].begin, records[-1]
    if layout.numrecs > 1 and last.begin + last.slab > first + layout.record_size:
        raise _damaged(url, last, f"reaches beyond its record of {layout.record_size} bytes")
    end = last.begin + last.slab + layout.record_size * (layout.numrecs - 1)
    for p in layout.variables:
        if not p.is_record and p.begin < end and p.begin + p.slab > first:
            raise _damaged(url, p, f"starts at byte {p.begin}, among the records (bytes {first} to {end})")


def _damaged(url: str, placed: Placed, reason: str) -> MalformedSource:
    name = placed.variable.name
    return MalformedSource(
        f"{url} is damaged or cut off: variable `{name}` {reason}. Fetch or write the file again.",
        source=url,
        variable=name,
    )
