"""``config``: fields and containers are set, unset, saved and shown, without secrets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import icechunk_virtual as icv
from icechunk_virtual.cli import main
from icechunk_virtual.cli.config_text import as_json, as_yaml, parse_config
from tests.support.archives import snapshot_of


class Shell:
    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capture = folder, capture
        icv.Repository.create(icv.local_filesystem_storage("r"))

    def __call__(self, *arguments: str) -> str:
        code = main(("config", arguments[0], "r", *arguments[1:]))
        out, err = self.capture.readouterr()
        assert (code, err) == (0, "")
        return out

    def fails(self, *arguments: str, match: str, code: int = 1) -> None:
        before = snapshot_of(self.folder)
        assert main(("config", arguments[0], "r", *arguments[1:])) == code
        assert match in self.capture.readouterr().err
        assert snapshot_of(self.folder) == before

    @property
    def config(self) -> icv.RepositoryConfig:
        return icv.Repository.fetch_config(icv.local_filesystem_storage("r")) or icv.RepositoryConfig()


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ICECHUNK_VIRTUAL_TRACEBACK", raising=False)
    return Shell(tmp_path, capsys)


def test_nothing_is_set(shell: Shell) -> None:
    assert shell("show") == "# nothing is set: the defaults hold\n"
    assert json.loads(shell("show", "--json"))["config"] == {}


def test_set_and_unset(shell: Shell) -> None:
    out = shell("set", "compression.level=5", "storage.retries.max_tries = 3", "caching.num_bytes_chunks=1")
    assert out.startswith("# saved:\ncompression:\n  level: 5\n")
    config = shell.config
    assert config.compression == icv.CompressionConfig(level=5)
    assert config.storage.retries.max_tries == 3
    shell("set", "compression.algorithm=zstd")
    assert shell.config.compression.level == 5
    report = json.loads(shell("unset", "compression.level", "manifest.preload.max_total_refs", "--json"))
    assert report["saved"] is True
    expected = {"compression": {"algorithm": "zstd"}, "caching": {"num_bytes_chunks": 1}}
    assert report["config"] == expected | {"storage": {"retries": {"max_tries": 3}}}
    assert shell.config.compression.level is None


def test_set_conditions(shell: Shell) -> None:
    shell(
        "set", "manifest.splitting.split_sizes=[[!path_matches {regex: '^/t'}, [{condition: !Axis 0, num_chunks: 9}]]]"
    )
    split, axis = icv.ManifestSplitCondition, icv.ManifestSplitDimCondition
    assert shell.config.manifest.splitting.to_dict() == {split.path_matches("^/t"): {axis.Axis(0): 9}}
    shell("set", "manifest.preload.preload_if='false'", "manifest.preload.max_total_refs=7")
    shell("set", "manifest.preload.max_total_refs=8")  # and nothing else
    assert shell.config.manifest.preload.preload_if == icv.ManifestPreloadCondition.false()
    assert shell.config.manifest.preload.max_total_refs == 8
    assert shell.config.manifest.splitting is not None


def test_what_is_shown_can_be_set(shell: Shell) -> None:
    shell("set", "inline_chunk_threshold_bytes=9", "storage.storage_class='yes: no'")
    shell("add-container", "s3://bucket/x", "--region", "eu", "--endpoint-url", "https://host")
    saved = shell.config
    Path("c.yaml").write_text(shell("show"))
    shell("unset", "inline_chunk_threshold_bytes", "storage.storage_class")
    shell("remove-container", "s3://bucket/x/")
    assert as_json(shell.config) == {}
    shell("set", "--file", "c.yaml")
    assert shell.config == saved


@pytest.mark.parametrize(
    ("arguments", "match", "code"),
    [
        (["set"], "either KEY=VALUE or --file FILE", 2),
        (["set", "a=1", "--file", "f"], "either KEY=VALUE or --file FILE", 2),
        (["set", "compression.level"], "not of the form KEY=VALUE", 2),
        (["set", "compression=1"], "compression has parts, set those: compression.algorithm, compression.level", 2),
        (["set", "nope=1"], "there is no field nope; there are: inline_chunk", 2),
        (["set", "compression.levle=1"], "there is no field compression.levle; did you mean compression.level?", 2),
        (["set", "_containers=1"], "there is no field _containers", 2),
        (["set", "virtual_chunk_containers={}"], "config add-container", 2),
        (["set", "compression.level=null"], "config unset REPO compression.level", 2),
        (["set", "compression.level="], "sets nothing", 2),
        (["set", "compression.level=1\ncaching: 2"], "must be on one line", 2),
        (["set", "compression.level=900"], "compression.level=900: compression: level: 900 is out of range", 1),
        (["set", "compression.level=["], "compression.level=[:", 1),
        (["set", "--file", "nope.yaml"], "nope.yaml", 1),
        (["unset", "nope"], "there is no field nope", 2),
        (["add-container", "relative://"], "there are no relative:// containers", 2),
        (["add-container", "/"], "a url prefix of files must include a path", 1),
        (["add-container", "s3://bucket/x", "--account", "a"], "--account has no meaning for s3://", 2),
        (["add-container", "data", "--region", "a"], "--region has no meaning for file://", 2),
        (["add-container", "https://h/x", "--allow-http"], "--allow-http has no meaning for https://", 2),
        (["add-container", "az://c/x"], "need --account", 2),
        (["remove-container", "s3://other/"], "there is no container s3://other/ in r; containers: none", 1),
    ],
)
def test_refusals(shell: Shell, arguments: list[str], match: str, code: int) -> None:
    shell.fails(*arguments, match=match, code=code)


def test_containers(shell: Shell) -> None:
    shell("add-container", "data")
    shell("add-container", "s3://b/x", "--region", "eu", "--anonymous")
    shell("add-container", "gs://b/x/")
    shell("add-container", "https://h/")
    shell("add-container", "http://h/", "--allow-http")
    shell("add-container", "az://c/x/", "--account", "acc")
    shell("add-container", "tigris://b/x/")
    shell("add-container", "s3://b/x", "--region", "us", "--requester-pays")
    containers = shell.config.virtual_chunk_containers or {}
    here = Path("data").absolute()
    stores = {prefix: container.store for prefix, container in containers.items()}
    s3 = icv.S3Options(region="us", requester_pays=True, network_stream_timeout_seconds=60)
    assert stores == {
        here.as_uri() + "/": icv.local_filesystem_store(str(here)),
        "s3://b/x/": icv.ObjectStoreConfig.S3(s3),
        "gs://b/x/": icv.gcs_store(),
        "https://h/": icv.http_store(),
        "http://h/": icv.http_store({"allow_http": "true"}),
        "az://c/x/": icv.ObjectStoreConfig.Azure({"account": "acc"}),
        "tigris://b/x/": icv.ObjectStoreConfig.Tigris(icv.S3Options(network_stream_timeout_seconds=60)),
    }
    shell("remove-container", "data")
    shell("remove-container", "s3://b/x")
    assert len(shell.config.virtual_chunk_containers or {}) == 5


def test_secrets_are_not_shown(shell: Shell) -> None:
    config = icv.RepositoryConfig()
    store = icv.gcs_store({"google_service_account_key": "hush", "region": "eu", "proxy_url": "http://me:hush@h"})
    config.set_virtual_chunk_container(icv.VirtualChunkContainer("gs://b/x/", store))
    repo = icv.Repository.open(icv.local_filesystem_storage("r"), config)
    repo.save_config()
    shell("set", "compression.level=2")
    for out in (shell("show"), shell("show", "--json"), repo._repr_html_()):
        assert "hush" not in out
    assert "eu" in shell("show")
    assert "hush" not in repr(store)
    assert shell.config.virtual_chunk_containers["gs://b/x/"].store == store
    Path("c.yaml").write_text(shell("show"))
    shell.fails("set", "--file", "c.yaml", match="stands for a secret that was not shown")


def test_somebody_else_saved(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    save = icv.Repository.save_config

    def late(repo: icv.Repository) -> None:
        monkeypatch.setattr(icv.Repository, "save_config", save)
        main(["config", "set", "r", "compression.level=9"])
        save(repo)

    monkeypatch.setattr(icv.Repository, "save_config", late)
    assert main(["config", "set", "r", "compression.level=1"]) == 1
    assert "config was updated by other session" in shell.capture.readouterr().err
    assert shell.config.compression.level == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("max_concurrent_requests: 5", {"max_concurrent_requests": 5}),
        ("storage: {storage_class: '5'}", {"storage": {"storage_class": "5"}}),
        ("storage: {unsafe_use_metadata: false}", {"storage": {"unsafe_use_metadata": False}}),
        (
            "manifest: {preload: {preload_if: !num_refs {from: !Included 1, to: Unbounded}}}",
            {"manifest": {"preload": {"preload_if": {"!num_refs": {"from": {"!Included": 1}, "to": "Unbounded"}}}}},
        ),
    ],
)
def test_texts(text: str, expected: dict[str, Any]) -> None:
    config = parse_config(text.encode(), "text")
    assert as_json(config) == expected
    assert parse_config(as_yaml(config).encode(), "again") == config
