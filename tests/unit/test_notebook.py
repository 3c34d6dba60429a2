"""What notebooks show: everything escaped, no secrets, no request to the storage."""

from __future__ import annotations

import pickle
from html.parser import HTMLParser

import pytest
import zarr

import icechunk_virtual as icv
from icechunk_virtual.model.html import Html, card, fold, html, lines
from icechunk_virtual.repo.memory_store import MemoryStore

EVIL = "<script>alert(1)</script>&\"'"
TAGS = {"div", "strong", "table", "tr", "th", "td", "br", "details", "summary"}


class Reader(HTMLParser):
    """Collects text, and refuses what is not ours or not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        assert {name for name, _ in attrs} <= {"style"}
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + "\n"


def test_pieces() -> None:
    assert html(EVIL) == "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#x27;"
    assert html(html("<")) == "&lt;"
    assert lines(["<"] * 2) == "&lt;<br>&lt;"
    assert lines(["x"] * 102).endswith("x<br>... 2 more")
    found = Reader(card(EVIL, [(EVIL, EVIL), ("none", ""), ("more", fold(EVIL, EVIL))])).text
    assert found.count("alert") == 5
    assert "none" not in found
    assert isinstance(card("a", []), Html)


@pytest.fixture
def repo() -> icv.Repository:
    config = icv.RepositoryConfig.default()
    store = icv.gcs_store({"google_service_account_key": "hush"})
    config.set_virtual_chunk_container(icv.VirtualChunkContainer("gs://b/x/", store))
    config.set_virtual_chunk_container(icv.VirtualChunkContainer("file:///y/", icv.local_filesystem_store("/y")))
    return icv.Repository.create(icv.in_memory_storage(), config, {"file:///y/": None})


def test_repository(repo: icv.Repository) -> None:
    text = Reader(repo._repr_html_()).text
    assert "in memory" in text
    assert "gs://b/x/ (not authorised)" in text
    assert "file:///y/ (authorised)" in text
    assert "hush" not in text


def test_session_and_diff(repo: icv.Repository) -> None:
    session = repo.writable_session("main")
    clean = Reader(session._repr_html_()).text
    assert "Repository initialized" in clean
    assert "uncommitted" not in clean
    zarr.create_array(session.store, name="<b>", shape=(30,), chunks=(1,), dtype="i4")[:] = 1
    page = session._repr_html_()
    text = Reader(page).text
    assert "uncommitted" in text
    assert "/<b>: [0], [1]" in text
    assert "and 20 more" in text
    assert session.status()._repr_html_() in page
    session.commit(EVIL)
    text = Reader(session._repr_html_()).text
    assert EVIL in text.replace("\n", "")
    assert "read-only" in text


def test_forks_on_the_way(repo: icv.Repository) -> None:
    fork = repo.writable_session("main").fork()
    zarr.create_group(fork.store)
    assert "ForkSession" in Reader(pickle.loads(pickle.dumps(fork))._repr_html_()).text


def test_no_requests(repo: icv.Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    session = pickle.loads(pickle.dumps(repo.readonly_session("main")))

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a repr must not wait for a storage")

    for name in ("get", "get_versioned", "head", "list"):
        monkeypatch.setattr(MemoryStore, name, asked)
    Reader(session._repr_html_())
    Reader(repo._repr_html_())
