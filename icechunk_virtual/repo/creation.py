"""Making, finding, opening and configuring a repository: where configuration, authorisation and objects meet.

`connect` is how the floor above hands in a storage: settings to object store.
"""

from __future__ import annotations

import asyncio
import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.credentials import check_grants
from icechunk_virtual.containers.fetch import Fetcher
from icechunk_virtual.errors import (
    ConfigConflict,
    ObjectNotFound,
    PreconditionFailed,
    ReadOnlyError,
    RefExists,
    RefNotFound,
    RepositoryExists,
    RepositoryNotFound,
    UnsupportedFormat,
)
from icechunk_virtual.model.ids import INITIAL_SNAPSHOT_ID, encode_id
from icechunk_virtual.model.world import REAL_WORLD, World
from icechunk_virtual.repo import refs
from icechunk_virtual.repo.assets import SNAPSHOTS, Assets
from icechunk_virtual.repo.cloud.addresses import named_addresses
from icechunk_virtual.repo.config import RepositoryConfig, check_containers, mark_stored, usable_containers
from icechunk_virtual.repo.format.config_yaml import decode_config, encode_config
from icechunk_virtual.repo.format.envelope import MAGIC
from icechunk_virtual.repo.format.snapshot import Snapshot, encode_snapshot
from icechunk_virtual.repo.object_store import ObjectStore, Version
from icechunk_virtual.repo.remote_chunks import make_fetcher
from icechunk_virtual.repo.settings import StorageSettings
from icechunk_virtual.repo.workspace import Workspace

logger = logging.getLogger(__name__)

CONFIG_KEY = "config.yaml"
MAIN_BRANCH = "main"
_FORMAT_2_KEY = "repo"
_CREATION_LOOKS = 40  # whoever lost a race of creations looks so often whether the winner is ready,
_CREATION_PAUSE = 0.05  # and waits so many seconds in between
Connect = Callable[[StorageSettings | None], ObjectStore]
Granted = Mapping[str, Any]


@dataclass(slots=True)
class Opened:
    """An open repository.

    Attributes
    ----------
    connect
        The way to its storage.
    config
        Effective configuration.
    config_version
        State of the saved configuration when it was read; ``None`` if there was none.
    authorization, fetcher
        Which foreign objects may be read, and the way to them.
    assets
        Its objects, through caches.
    granted
        Authorisations as they were given: prefixes to credentials.
    world
        Clock and randomness.
    """

    connect: Connect
    config: RepositoryConfig
    config_version: Version | None
    authorization: Authorization
    assets: Assets
    granted: Granted
    world: World = REAL_WORLD
    fetcher: Fetcher = field(init=False)

    def __post_init__(self) -> None:
        self.fetcher = make_fetcher(self.authorization, self.config, self.assets.limiter)

    @property
    def objects(self) -> ObjectStore:
        """The objects of the repository, without caches."""
        return self.assets.objects

    def check_writable(self, what: str) -> None:
        """Raise `ReadOnlyError`, naming what was tried, unless the storage can be written to."""
        if not self.objects.writable:
            raise ReadOnlyError(f"the storage used by this Icechunk repository is read-only: {what}")

    def workspace(
        self, snapshot: Snapshot, *, branch: str | None = None, default_metadata: dict[str, Any] | None = None
    ) -> Workspace:
        """State of a new session on a snapshot; writable if a branch is given."""
        return Workspace(
            self.assets,
            self.authorization,
            self.fetcher,
            self.config,
            snapshot,
            branch,
            dict(default_metadata or {}),
            self.world,
        )


async def exists(connect: Connect) -> bool:
    """Whether there is a repository: the branch ``main`` can be read."""
    try:
        await refs.read_branch(connect(None), MAIN_BRANCH)
    except RefNotFound:
        return False
    return True


async def fetch_config(connect: Connect) -> RepositoryConfig | None:
    """The saved configuration, ``None`` if there is none."""
    return (await _read_config(connect(None)))[0]


async def create(
    connect: Connect, config: RepositoryConfig | None, granted: Granted | None, world: World = REAL_WORLD
) -> Opened:
    """Create a repository in an empty place: the first snapshot, the branch ``main``, and the configuration."""
    config = copy.deepcopy(config) if config is not None else RepositoryConfig()
    check_containers(config)
    opened = _assemble(connect, config, None, granted or {}, world)
    objects = opened.assets.objects
    opened.check_writable("Cannot create repository")
    async for page in objects.list(""):
        if page:
            await _refuse_format_2(objects)
            raise RepositoryExists(
                "repositories can only be created in clean prefixes, and there is something already, such as "
                f"`{page[0].key}`. Open it with Repository.open(), or choose another place.",
                key=page[0].key,
            )
    first = encode_snapshot(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=world.now_us(),
        message="Repository initialized",
        metadata={"__root": True},
        nodes=(),
        manifest_files=(),
        level=config.effective_compression_level,
    )
    await opened.assets.store_snapshot(INITIAL_SNAPSHOT_ID, first)
    if config != RepositoryConfig():
        await _write_config(opened)
    await refs.create_branch(objects, MAIN_BRANCH, INITIAL_SNAPSHOT_ID)
    logger.info("repository created at %r", objects)
    return opened


async def open_(
    connect: Connect, config: RepositoryConfig | None, granted: Granted | None, world: World = REAL_WORLD
) -> Opened:
    """Open a repository; `config` overrides single fields of the saved one."""
    early = _by_given_settings(connect, config)
    objects = early(None)
    found, (saved, version), _ = await asyncio.gather(exists(early), _read_config(objects), _refuse_format_2(objects))
    if not found:
        raise RepositoryNotFound(
            f"the repository doesn't exist: nothing to open at {objects!r}. Create it with Repository.create()."
        )
    merged = saved or RepositoryConfig()
    if config is not None:
        check_containers(config)
        merged = merged.merge(config)
    logger.debug("opening the repository at %r", objects)
    return _assemble(connect, merged, version, granted or {}, world)


async def open_or_create(connect: Connect, config: RepositoryConfig | None, granted: Granted | None) -> Opened:
    """Open the repository if there is one, otherwise create it. Of several at once, one creates and all open."""
    if not await exists(_by_given_settings(connect, config)):
        try:
            return await create(connect, config, granted)
        except (RepositoryExists, RefExists):
            if not await _appears(connect):
                raise
    return await open_(connect, config, granted)


def _by_given_settings(connect: Connect, config: RepositoryConfig | None) -> Connect:
    """The way to the storage while the saved settings are not known: by those that the caller gives."""
    given = None if config is None else config.storage
    return lambda settings: connect(given if settings is None else settings)


async def _appears(connect: Connect) -> bool:
    """Whether somebody else is creating the repository right now; returns when it is there."""
    for _ in range(_CREATION_LOOKS):
        if await exists(connect):
            return True
        try:
            await connect(None).head(SNAPSHOTS + encode_id(INITIAL_SNAPSHOT_ID))
        except ObjectNotFound:
            return False
        await asyncio.sleep(_CREATION_PAUSE)
    return False


async def _refuse_format_2(objects: ObjectStore) -> None:
    try:
        size = (await objects.head(_FORMAT_2_KEY)).size
    except ObjectNotFound:
        return
    if await objects.get(_FORMAT_2_KEY, start=0, stop=min(size, len(MAGIC))) != MAGIC:
        return
    raise UnsupportedFormat(
        f"the repository at {objects!r} is of format version 2 (it has a `{_FORMAT_2_KEY}` object), which is not "
        "supported. This version reads and writes format version 1, as written by icechunk 0.2 to 1.x; use icechunk "
        "2.x to read it.",
        file=_FORMAT_2_KEY,
    )


def reopen(opened: Opened, config: RepositoryConfig | None, granted: Granted | None) -> Opened:
    """The same repository with more configuration or other authorisations (``None`` keeps the present ones)."""
    if config is not None:
        check_containers(config)
    merged = opened.config if config is None else opened.config.merge(config)
    return _configured(opened, merged, granted)


def reconfigure(opened: Opened, config: RepositoryConfig, granted: Granted | None) -> Opened:
    """The same repository under another configuration, taken as it is, or other authorisations (``None``: as now)."""
    check_containers(config)
    return _configured(opened, config, granted)


def _configured(opened: Opened, config: RepositoryConfig, granted: Granted | None) -> Opened:
    granted = opened.granted if granted is None else granted
    return _assemble(opened.connect, copy.deepcopy(config), opened.config_version, granted, opened.world)


async def save_config(opened: Opened) -> None:
    """Save the effective configuration, unless somebody else did since it was read."""
    opened.check_writable("Cannot save configuration")
    await _write_config(opened)


def _assemble(
    connect: Connect, config: RepositoryConfig, version: Version | None, granted: Granted, world: World
) -> Opened:
    containers = usable_containers(config)
    check_grants(containers, granted)
    objects = connect(config.storage)
    authorization = Authorization(containers, granted, named_addresses(objects))
    assets = Assets(objects, config, world)
    return Opened(connect, config, version, authorization, assets, dict(granted), world)


async def _read_config(objects: ObjectStore) -> tuple[RepositoryConfig | None, Version | None]:
    try:
        data, version = await objects.get_versioned(CONFIG_KEY)
    except ObjectNotFound:
        return None, None
    config = decode_config(data, file=CONFIG_KEY)
    mark_stored(config)
    return config, version


async def _write_config(opened: Opened) -> None:
    objects, data = opened.objects, encode_config(opened.config)
    try:
        if opened.config_version is None:
            opened.config_version = await objects.put_new(CONFIG_KEY, data)
        else:
            opened.config_version = await objects.put_if_match(CONFIG_KEY, data, opened.config_version)
    except PreconditionFailed:
        raise ConfigConflict(
            "config was updated by other session; open the repository again and repeat the change"
        ) from None
