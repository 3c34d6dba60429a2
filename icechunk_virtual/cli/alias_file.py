"""Short names of repositories, in the file that the original's program keeps them in: its content to URLs, and back.

Entries of kinds, or with fields, that we do not know stay as they are. Reads no environment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from icechunk_virtual.containers.container import S3Options
from icechunk_virtual.model.checked import field_types
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format import yaml_nodes
from icechunk_virtual.repo.format.config_yaml import encode_config
from icechunk_virtual.repo.format.yaml_nodes import Entries, MalformedYaml, Node, Scalar, Tagged, Token
from icechunk_virtual.storage_urls import parse_storage_url

_REPOS = "repos"
_KINDS = {
    "s3": ("S3", "s3_credential_type"),
    "tigris": ("Tigris", "s3_credential_type"),
    "gs": ("GCS", "gcs_credential_type"),
    "gcs": ("GCS", "gcs_credential_type"),
    "az": ("Azure", "az_credential_type"),
    "azure": ("Azure", "az_credential_type"),
    "abfs": ("Azure", "az_credential_type"),
}
"""URL schemes, the tags of their entries, and the field that says which credentials are meant."""

_SCHEMES = {kind: (scheme, field) for scheme, (kind, field) in reversed(_KINDS.items())}
_DEFAULTS = {name: getattr(S3Options(), name) for name in field_types(S3Options)}

ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What an alias may look like; nothing with a slash or a scheme."""


def alias_path(environment: Mapping[str, str], platform: str = sys.platform) -> Path:
    """Where the file is: in the user's folder for configurations."""
    home = Path.home()
    if platform == "win32":
        folder = Path(environment.get("APPDATA") or home / "AppData" / "Roaming")
    elif platform == "darwin":
        folder = home / "Library" / "Application Support"
    else:
        given = Path(environment.get("XDG_CONFIG_HOME", ""))
        folder = given if given.is_absolute() else home / ".config"
    return folder / "icechunk" / "cli-config.yaml"


class AliasFile:
    """The file's content.

    Parameters
    ----------
    path
        Need not exist.

    Raises
    ------
    ValueError
        It cannot be understood.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries = _read(path)

    def names(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self._entries)

    def location(self, name: str) -> str | None:
        """Path or URL of the repository, ``None`` if the name is not in the file.

        Raises
        ------
        ValueError
            The entry is of a kind that has no URL.
        """
        node = self._entries.get(name)
        if node is None:
            return None
        try:
            return _LOCATIONS[node.tag or ""](node)
        except (KeyError, AttributeError, TypeError):
            raise ValueError(f"{self.path}: the entry {name} cannot be understood") from None

    def set(self, name: str, location: str) -> None:
        """Add an entry, or replace the one of that name; see `save`.

        Parameters
        ----------
        name
            As `ALIAS` has it.
        location
            Absolute path or URL.

        Raises
        ------
        ValueError
            It is no URL of a repository, or one that the file has no words for.
        """
        node = yaml_nodes.parse(yaml_nodes.emit({"entry": _entry(location)}))
        if isinstance(node, Entries):
            self._entries[name] = node.entries["entry"]

    def remove(self, name: str) -> None:
        """Remove an entry; see `save`."""
        del self._entries[name]

    def save(self) -> None:
        """Replace the file."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        entries = {name: yaml_nodes.as_value(node) for name, node in self._entries.items()}
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        temporary.write_text(yaml_nodes.emit({Token(_REPOS): entries}), encoding="utf-8")
        temporary.replace(self.path)


def _read(path: Path) -> dict[str, Node]:
    try:
        root = yaml_nodes.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (UnicodeDecodeError, MalformedYaml) as error:
        raise ValueError(f"{path} cannot be understood: {error}. Repair or delete it.") from None
    repos = root.entries.get(_REPOS) if isinstance(root, Entries) else None
    if root is not None and not isinstance(repos, Entries):
        raise ValueError(f"{path} cannot be understood: there are no {_REPOS} in it. Repair or delete it.")
    return dict(repos.entries) if isinstance(repos, Entries) else {}


# -- from entries ----------------------------------------------------------------------------------------------


def _local(node: Any) -> str:
    path: str = node.entries["path"].text
    return path


def _in_bucket(node: Any) -> str:
    where, how, who = (_texts(node, field) for field in ("location", "object_store_config", "credentials"))
    scheme, credential = _SCHEMES[node.tag]
    options = {name: text for name, text in how.items() if name in _DEFAULTS and text != "false"}
    if who.get(credential) == "anonymous":
        options["anonymous"] = "true"
    return _url(scheme, where["bucket"], where.get("prefix", ""), options)


def _in_azure(node: Any) -> str:
    where = _texts(node, "location")
    return _url("az", where["container"], where.get("prefix", ""), {"account": where["account"]})


_LOCATIONS: dict[str, Callable[[Any], str]] = {
    "LocalFileSystem": _local,
    **dict.fromkeys(("S3", "Tigris", "GCS"), _in_bucket),
    "Azure": _in_azure,
}


def _texts(node: Any, field: str) -> dict[str, str]:
    """Scalars of a mapping that are not null."""
    entries: Mapping[str, Node] = node.entries[field].entries if field in node.entries else {}
    scalars = {name: item for name, item in entries.items() if isinstance(item, Scalar)}
    return {name: s.text for name, s in scalars.items() if not (s.plain and s.text in {"null", "~", ""})}


def _url(scheme: str, bucket: str, prefix: str, options: Mapping[str, str]) -> str:
    query = f"?{urlencode(options)}" if options else ""
    return f"{scheme}://{bucket}/{quote(prefix)}{query}"


# -- to entries ------------------------------------------------------------------------------------------------


def _entry(location: str) -> Tagged:
    config = {Token("config"): _unset_config()}
    if "://" not in location:
        return Tagged("LocalFileSystem", {Token("path"): location, **config})
    url = parse_storage_url(location)
    if url.scheme not in _KINDS:
        raise ValueError(f"{location}: {url.scheme}:// repositories cannot have an alias")
    kind, credential = _KINDS[url.scheme]
    options = dict(url.options)
    where = {"container" if kind == "Azure" else "bucket": url.bucket, "prefix": url.prefix}
    if kind == "Azure":
        where = {"account": options.pop("account"), **where}
    who = "anonymous" if options.get("anonymous") else "from_env"
    how = {}
    if kind in {"S3", "Tigris"}:
        how = {Token(name): options.pop(name, default) for name, default in _DEFAULTS.items()}
    options.pop("anonymous", None)
    if options:
        raise ValueError(f"{location}: an alias cannot hold {', '.join(options)}")
    content = {
        Token("location"): {Token(name): text for name, text in where.items()},
        Token("object_store_config"): how,
        Token("credentials"): {Token(credential): Token(who)},
    }
    return Tagged(kind, content | config)


def _unset_config() -> Any:
    node = yaml_nodes.parse(encode_config(RepositoryConfig()).decode())
    return None if node is None else yaml_nodes.as_value(node)
