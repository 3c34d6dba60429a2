"""How repositories and sessions show themselves in notebooks: what is known without asking the storage, no secrets."""

from __future__ import annotations

from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.model.html import Html, card, fold, lines
from icechunk_virtual.model.ids import encode_id
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.snapshot import Snapshot
from icechunk_virtual.repo.info import utc_from_us
from icechunk_virtual.repo.status import describe_changes
from icechunk_virtual.repo.workspace import Workspace


def repository_card(title: str, config: RepositoryConfig, authorization: Authorization) -> Html:
    """A repository: its containers, and which of them may be read."""
    granted = authorization.granted_prefixes
    prefixes = sorted(config.virtual_chunk_containers or {})
    texts = [f"{prefix} ({'authorised' if prefix in granted else 'not authorised'})" for prefix in prefixes]
    return card(title, [("configuration", repr(config)), ("virtual chunks in", lines(texts))])


def session_card(title: str, ws: Workspace) -> Html:
    """A session: where it stands, and what it has changed."""
    rows = [("branch", "none: read-only" if ws.branch is None else ws.branch), ("snapshot", encode_id(ws.base_id))]
    if isinstance(ws.base, Snapshot):
        rows += [
            ("written", f"{utc_from_us(ws.base.flushed_at_us):%Y-%m-%d %H:%M:%S} UTC"),
            ("message", ws.base.message),
            ("nodes", f"{ws.base.num_nodes:,}"),
        ]
    if ws.changes and isinstance(ws.base, Snapshot):
        rows.append(("uncommitted", fold("changes", describe_changes(ws)._repr_html_())))
    elif ws.changes:
        rows.append(("uncommitted", "changes"))
    return card(title, rows)
