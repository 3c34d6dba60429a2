"""``config``: the configuration that is saved with a repository, and its containers."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from icechunk_virtual.cli.config_text import as_json, as_yaml, parse_config, read_config
from icechunk_virtual.cli.container_options import add_container_options, container_as_said
from icechunk_virtual.cli.messages import UsageError
from icechunk_virtual.cli.output import Part, Report, command
from icechunk_virtual.cli.parsing import add_command, add_group
from icechunk_virtual.cli.versions import open_repo
from icechunk_virtual.containers.url import file_url
from icechunk_virtual.model.checked import Checked, field_types
from icechunk_virtual.opening import local_folder
from icechunk_virtual.repo.config import RepositoryConfig
from icechunk_virtual.repo.format.yaml_nodes import Token, emit
from icechunk_virtual.repository import Repository

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def add_parsers(commands: Any) -> None:
    """Add the commands to the program's parser."""
    group = add_group(commands, "config", help="show and change the configuration that is saved with a repository")
    parser = add_command(group, "show", help="print what is set, as YAML; secrets are not shown")
    parser.set_defaults(run=command(show, show_config))
    parser = add_command(
        group,
        "set",
        help="set and save fields",
        epilog=f"fields: {', '.join(keys(RepositoryConfig))}",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="such as compression.level=5; the value is YAML on one line"
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="YAML file with everything to be set")
    parser.set_defaults(run=command(set_fields, show_config))
    parser = add_command(group, "unset", help="go back to the defaults of fields, and save")
    parser.add_argument("keys", nargs="+", metavar="KEY", help="such as compression.level")
    parser.set_defaults(run=command(unset_fields, show_config))
    _add_container_parsers(group)


def _add_container_parsers(group: Any) -> None:
    parser = add_command(
        group, "add-container", help="allow references to what is below a prefix, or say anew how it is reached"
    )
    parser.add_argument("prefix", metavar="PREFIX", help="URL such as s3://bucket/folder/, or a local folder")
    add_container_options(parser)
    parser.set_defaults(run=command(add_container, show_config))
    parser = add_command(group, "remove-container", help="allow no references to what is below a prefix any more")
    parser.add_argument("prefix", metavar="PREFIX", help="as `config show` has it, or a local folder")
    parser.set_defaults(run=command(remove_container, show_config))


# -- fields ----------------------------------------------------------------------------------------------------


def keys(cls: type[Checked], prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields that can be set."""
    for name, field in field_types(cls).items():
        if isinstance(field.type, type) and issubclass(field.type, Checked):
            yield from keys(field.type, f"{prefix}{name}.")
        elif not name.startswith("_"):
            yield prefix + name


def _check_key(key: str) -> list[str]:
    """The parts of a dotted name."""
    known = list(keys(RepositoryConfig))
    if key in known:
        return key.split(".")
    parts = [name for name in known if name.startswith(f"{key}.")]
    if parts:
        raise UsageError(f"{key} has parts, set those: {', '.join(parts)}")
    if key == "virtual_chunk_containers":
        raise UsageError("containers are set by `config add-container` and `config remove-container`")
    meant = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {meant[0]}?" if meant else f"there are: {', '.join(known)}"
    raise UsageError(f"there is no field {key}; {hint}")


def show(options: argparse.Namespace) -> Report:
    """What is set."""
    return _report(open_repo(options), options)


def set_fields(options: argparse.Namespace) -> Report:
    """Set fields from KEY=VALUE or a file."""
    if bool(options.settings) == (options.file is not None):
        raise UsageError("give either KEY=VALUE or --file FILE")
    if options.file is not None:
        changes = read_config(options.file)
        return _save(open_repo(options).reopen(changes), options)
    values = [_value_of(setting) for setting in options.settings]
    repo = open_repo(options)
    config = repo.config
    for path, value in values:
        _put(config, path, value)
    return _save_instead(repo, config, options)


def _value_of(setting: str) -> tuple[list[str], Any]:
    """The parts of the key, and the value, of KEY=VALUE."""
    key, equals, text = (part.strip() for part in setting.partition("="))
    if not equals:
        raise UsageError(f"{setting} is not of the form KEY=VALUE")
    path = _check_key(key)
    if text in {"", "null", "~"}:
        raise UsageError(f"{setting} sets nothing; to go back to the default: config unset REPO {key}")
    if len(text.splitlines()) > 1:
        raise UsageError(f"the value of {key} must be on one line")
    nested: Any = Token(text)
    for name in reversed(path):
        nested = {Token(name): nested}
    value: Any = parse_config(emit(nested).encode(), setting)
    for name in path:
        value = getattr(value, name)
    return path, value


def _put(config: RepositoryConfig, path: list[str], value: Any) -> None:
    """Set one field and nothing else; merging configurations would take some records whole."""
    at: Any = config
    for name in path[:-1]:
        if getattr(at, name) is None:
            setattr(at, name, field_types(type(at))[name].type())
        at = getattr(at, name)
    setattr(at, path[-1], value)


def unset_fields(options: argparse.Namespace) -> Report:
    """Back to defaults."""
    paths = [_check_key(key) for key in options.keys]
    repo = open_repo(options)
    config = repo.config
    for *records, last in paths:
        at: Any = config
        for name in records:
            at = at and getattr(at, name)
        if at is not None:
            setattr(at, last, None)
    return _save_instead(repo, config, options)


# -- containers ------------------------------------------------------------------------------------------------


def add_container(options: argparse.Namespace) -> Report:
    """Add a container, or replace the one of that prefix."""
    config = RepositoryConfig()
    config.set_virtual_chunk_container(container_as_said(options, _prefix(options.prefix)))
    return _save(open_repo(options).reopen(config), options)


def _prefix(text: str) -> str:
    """A URL prefix; local folders become one."""
    folder = local_folder(text) if _SCHEME.match(text) is None else None
    url = text if folder is None else file_url(folder)
    return url if url.endswith("/") else url + "/"


def remove_container(options: argparse.Namespace) -> Report:
    """Remove a container."""
    repo = open_repo(options)
    config = repo.config
    containers = config.virtual_chunk_containers or {}
    prefix = next((p for p in (options.prefix, _prefix(options.prefix)) if p in containers), None)
    if prefix is None:
        there = ", ".join(sorted(containers)) or "none"
        raise ValueError(f"there is no container {options.prefix} in {options.repo}; containers: {there}")
    del containers[prefix]
    own = {name: getattr(config, name) for name in field_types(RepositoryConfig) if not name.startswith("_")}
    return _save_instead(repo, RepositoryConfig(**own, virtual_chunk_containers=containers), options)


# -- saving ----------------------------------------------------------------------------------------------------


def _save(repo: Repository, options: argparse.Namespace) -> Report:
    repo.save_config()
    return _report(repo, options) | {"saved": True}


def _save_instead(repo: Repository, config: RepositoryConfig, options: argparse.Namespace) -> Report:
    """Save a configuration as it is: merging never takes anything away."""
    return _save(repo.with_config(config), options)


def _report(repo: Repository, options: argparse.Namespace) -> Report:
    return {"repository": options.repo, "config": as_json(repo.config), "yaml": as_yaml(repo.config)}


def show_config(report: Report) -> Iterable[Part]:
    """For people."""
    if report.get("saved"):
        yield "# saved:"
    yield from report["yaml"].splitlines() or ["# nothing is set: the defaults hold"]
