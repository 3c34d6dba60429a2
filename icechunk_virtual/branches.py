"""Branches and tags: the methods of `Repository` that create, list, look up, move and delete them.

One-line verbs over `repo.refs`; that a snapshot exists is checked here.
"""

from __future__ import annotations

from icechunk_virtual._sync import sync_twin
from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.operations import naming_operations
from icechunk_virtual.repo import history, refs
from icechunk_virtual.repo.creation import Opened


@naming_operations
class BranchesAndTags:
    """Methods of `Repository`."""

    _opened: Opened

    # -- branches ----------------------------------------------------------------------------------------------

    async def create_branch_async(self, branch: str, snapshot_id: str) -> None:
        """Create a branch at a snapshot.

        Raises
        ------
        SnapshotNotFound, InvalidRefName, ReadOnlyError
        RefExists
            There is a branch of this name.
        """
        self._opened.check_writable("Cannot create branch")
        id = await history.existing(self._opened.assets, snapshot_id)
        await refs.create_branch(self._opened.objects, branch, id)

    create_branch = sync_twin(create_branch_async)

    async def list_branches_async(self) -> set[str]:
        """Names of all branches."""
        return await refs.list_branches(self._opened.objects)

    list_branches = sync_twin(list_branches_async)

    async def lookup_branch_async(self, branch: str) -> str:
        """Id of the snapshot at the tip of a branch.

        Raises
        ------
        RefNotFound
        """
        tip, _version = await refs.read_branch(self._opened.objects, branch)
        return encode_id(tip)

    lookup_branch = sync_twin(lookup_branch_async)

    async def reset_branch_async(self, branch: str, snapshot_id: str, *, from_snapshot_id: str | None = None) -> None:
        """Move a branch to any snapshot.

        Parameters
        ----------
        branch, snapshot_id
            Which, and where to.
        from_snapshot_id
            Only if the tip of the branch is this one.

        Raises
        ------
        RefNotFound, SnapshotNotFound
        RefExists
            The branch is not where it was said to be, or moved meanwhile.
        """
        self._opened.check_writable("Cannot reset branch")
        id = await history.existing(self._opened.assets, snapshot_id)
        expected = None if from_snapshot_id is None else history.parse_snapshot_id(from_snapshot_id)
        await refs.reset_branch(self._opened.objects, branch, id, expected=expected)

    reset_branch = sync_twin(reset_branch_async)

    async def delete_branch_async(self, branch: str) -> None:
        """Delete a branch. Snapshots stay.

        Raises
        ------
        RefNotFound, ReadOnlyError
        IcechunkError
            It is ``main``.
        """
        self._opened.check_writable("Cannot delete branch")
        await refs.delete_branch(self._opened.objects, branch)

    delete_branch = sync_twin(delete_branch_async)

    # -- tags --------------------------------------------------------------------------------------------------

    async def create_tag_async(self, tag: str, snapshot_id: str) -> None:
        """Create a tag at a snapshot. Tags are immutable, and a deleted name is never free again.

        Raises
        ------
        SnapshotNotFound, InvalidRefName, ReadOnlyError
        RefExists
            There is a tag of this name, or there was one.
        """
        self._opened.check_writable("Cannot create tag")
        id = await history.existing(self._opened.assets, snapshot_id)
        await refs.create_tag(self._opened.objects, tag, id)

    create_tag = sync_twin(create_tag_async)

    async def list_tags_async(self) -> set[str]:
        """Names of all tags that were not deleted."""
        return await refs.list_tags(self._opened.objects)

    list_tags = sync_twin(list_tags_async)

    async def lookup_tag_async(self, tag: str) -> str:
        """Id of the snapshot of a tag.

        Raises
        ------
        RefNotFound
        """
        return encode_id(await refs.read_tag(self._opened.objects, tag))

    lookup_tag = sync_twin(lookup_tag_async)

    async def delete_tag_async(self, tag: str) -> None:
        """Delete a tag. Its name cannot be used again.

        Raises
        ------
        RefNotFound, ReadOnlyError
        """
        self._opened.check_writable("Cannot delete tag")
        await refs.delete_tag(self._opened.objects, tag)

    delete_tag = sync_twin(delete_tag_async)
