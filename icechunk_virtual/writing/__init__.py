"""From a scanned tree to the nodes and references of a session: new groups, appended arrays, regions.

Everything is checked before the first change, so that a dataset that does not fit leaves the session as it was.
"""

from icechunk_virtual.writing.places import Region
from icechunk_virtual.writing.write import Mode, write

__all__ = ["Mode", "Region", "write"]
