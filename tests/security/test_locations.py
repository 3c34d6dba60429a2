"""Texts of locations and prefixes: what means the same is the same, and what readers disagree on is refused."""

from __future__ import annotations

import pytest

import icechunk_virtual as icv
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import VirtualChunkContainer, http_store, local_filesystem_store, s3_store
from icechunk_virtual.containers.url import LONGEST, check_location, check_prefix
from icechunk_virtual.errors import InvalidLocation, NoContainer, NotAuthorized
from icechunk_virtual.model.locations import Locations
from tests.support.hierarchies import GROUP, array_document, get, put

GOOD = "http://good.org/data/"


def reader(*prefixes: str) -> Authorization:
    """With containers for some prefixes, which are granted."""
    return Authorization({p: VirtualChunkContainer(p, http_store()) for p in prefixes}, dict.fromkeys(prefixes))


@pytest.mark.parametrize(
    "location",
    [
        "http://good.org.evil.org/data/x",
        "http://good.org:8080/data/x",
        "https://good.org/data/x",
        "http://evil.org/http://good.org/data/x",
        "http://good.org/data",
        "http://good.org/data?/x",
        "http://good.org/data#/x",
        "http://good.org/database/x",
    ],
)
def test_T01_hosts_do_not_match_by_their_beginning(location: str) -> None:
    prefix = "http://good.org/data/"
    authorization = Authorization({prefix: VirtualChunkContainer(prefix, http_store())}, {prefix: None})
    with pytest.raises(NoContainer):
        authorization.readable(location)


@pytest.mark.parametrize(
    "location",
    [
        "http://good.org@evil.org/data/x",
        "http://good.org\\@evil.org/data/x",
        "http://evil.org\\good.org/data/x",
        "http://good.org/data/..%2f..%2fadmin",
        "http://good.org/data/%2e%2e/admin",
        "http://good.org/data/..%5cadmin",
        "http://good.org/data/..;/admin",
        "http://good.org/data/..;x=1/admin",
        "http://good.org/data/%2e%2e;/admin",
        "http://good.org/data/.;/admin",
        "http://good.org/data/a\\..\\admin",
        "http://good.org/data/\r\nHost: evil",
        "http://\u0261ood.org/data/x",
        "http://good.org%00.evil.org/data/x",
        "http://good.org /data/x",
    ],
)
def test_T04_what_readers_disagree_on_is_refused(location: str) -> None:
    prefix = "http://good.org/data/"
    authorization = Authorization({prefix: VirtualChunkContainer(prefix, http_store())}, {prefix: None})
    with pytest.raises(InvalidLocation):
        authorization.readable(location)


def test_T02_same_host_in_another_case_is_the_same_host() -> None:
    prefix = "http://good.org/data/"
    authorization = Authorization({prefix: VirtualChunkContainer(prefix, http_store())}, {prefix: None})
    assert authorization.readable("HTTP://GOOD.org:80/data/x").container.url_prefix == prefix
    with pytest.raises(NoContainer):
        authorization.readable("http://good.org/DATA/x")


def test_T09_schemes_are_not_equated() -> None:
    prefix = "s3://bucket/"
    authorization = Authorization({prefix: VirtualChunkContainer(prefix, s3_store())}, {prefix: None})
    for location in ("tigris://bucket/x", "file:///bucket/x", "gs://bucket/x", "s3://Bucket/x", "s3://bucket:1/x"):
        with pytest.raises(NoContainer):
            authorization.readable(location)


CLIMBING = (
    "../x", "a/../../x", "./../x", "..", "a/..", "%2e%2e/x", "%2E%2E/x", ".%2e/x", "%2e./x", "%2e/%2e%2e/x",
    "..%2fx", "..%2Fx", "a%2f..%2f..%2fx", "..%5cx", "..%5Cx", "..%5c..%2fx", "a%5c..%5c..%5cx", "%2e%2e%5cx",
)  # fmt: skip
SCHEMES = ("file:///data/", "s3://bucket/data/", "gs://bucket/data/", "az://bucket/data/", "https://good.org/data/")


@pytest.mark.parametrize("prefix", SCHEMES)
@pytest.mark.parametrize("rest", CLIMBING)
def test_T03_no_scheme_climbs(prefix: str, rest: str) -> None:
    """Neither one at a time, as when reading, nor in columns, as when writing; nor as a prefix."""
    authorization = reader(prefix)
    with pytest.raises(InvalidLocation):
        authorization.readable(prefix + rest)
    with pytest.raises(InvalidLocation):
        authorization.check_write(Locations.of([prefix + "fine", prefix + rest]))
    with pytest.raises(InvalidLocation):
        check_prefix(f"{prefix}{rest}/")


@pytest.mark.parametrize("prefix", SCHEMES)
@pytest.mark.parametrize(
    "rest",
    ["\r\nHost: evil", "a\nb", "a\tb", "a\x00b", "%00", "a\x7fb", "a\x85b", "\u2028", "\u2029", "\ud800", "a\x1b[2J"],
)
def test_T04_control_characters_are_refused(prefix: str, rest: str) -> None:
    authorization = reader(prefix)
    with pytest.raises(InvalidLocation) as caught:
        authorization.readable(prefix + rest)
    assert str(caught.value).isprintable(), "nor can they do harm in the message"
    if rest != "\ud800":
        with pytest.raises(InvalidLocation):
            authorization.check_write(Locations.of([prefix + "fine", prefix + rest]))


def test_T04_passwords_in_locations_are_refused_and_not_shown() -> None:
    for location in ("http://me:CANARY@good.org/data/x", "s3://me:CANARY@bucket/x", "http://CANARY@good.org/x\n"):
        with pytest.raises(InvalidLocation) as caught:
            reader(GOOD).readable(location)
        assert "CANARY" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    [
        "http://good\uff0eorg/data/x",
        "http://\uff47ood.org/data/x",
        "http://g\u043e\u043ed.org/data/x",
        "http://good.org\u2215evil.org/data/x",
        "http://good.org\u200b/data/x",
        "http://good.org\u00ad/data/x",
        "http://[fe80::1%25eth0]/data/x",
        "http://[good.org]/data/x",
        "http://good.org:0x50/data/x",
        "http://good.org:80:80/data/x",
        "http://good.org:99999/data/x",
        "http://good.org:\u0668\u0660/data/x",
        "http://good.org;evil.org/data/x",
        "http://good.org,evil.org/data/x",
        "http://good.org*/data/x",
        "http:/good.org/data/x",
        "http:good.org/data/x",
        "http:///good.org/data/x",
        "//good.org/data/x",
        " http://good.org/data/x",
    ],
)
def test_T05_look_alikes_of_hosts_are_refused(location: str) -> None:
    with pytest.raises(InvalidLocation):
        reader(GOOD).readable(location)
    with pytest.raises(InvalidLocation):
        reader(GOOD).check_write(Locations.of([GOOD + "x", location]))


@pytest.mark.parametrize(
    "location",
    [
        "http://good.org./data/x",
        "http://xn--good-0nb.org/data/x",
        "http://2130706433/data/x",
        "http://0x7f.1/data/x",
        "http://0177.0.0.1/data/x",
        "http://127.1/data/x",
        "http://[::ffff:127.0.0.1]/data/x",
        "http://[0:0:0:0:0:0:0:1]/data/x",
        "http://localhost/data/x",
    ],
)
def test_T05_other_names_of_a_host_match_only_themselves(location: str) -> None:
    with pytest.raises(NoContainer):
        reader("http://127.0.0.1/data/", "http://[::1]/data/", GOOD).readable(location)


@pytest.mark.parametrize(
    "rest", ["\uff0e\uff0e/x", "\u2024\u2024/x", "..\u2215x", "..\uff0fx", "%252e%252e/x", "..%252fx"]
)
def test_T05_look_alikes_of_dots_and_slashes_are_parts_of_names(rest: str) -> None:
    found = check_location(f"{GOOD}{rest}")
    assert found.canonical.startswith(GOOD)
    assert not {".", ".."} & set(found.path.split("/"))
    assert found.escaped.isascii()
    assert "/../" not in found.escaped
    assert "%2e%2e/" not in found.escaped.lower(), "escaped as often as it was"


def test_T06_the_longest_prefix_decides() -> None:
    outer, inner = GOOD, f"{GOOD}secret/"
    containers = {p: VirtualChunkContainer(p, http_store()) for p in (outer, inner)}
    authorization = Authorization(containers, {outer: None})
    assert authorization.readable(f"{outer}x").container.url_prefix == outer
    for spelling in ("secret/x", "%73ecret/x", "secret/a/b"):
        with pytest.raises(NotAuthorized):
            authorization.readable(outer + spelling)


@pytest.mark.parametrize("key", ["http://", "http:", "", "/", "*", "http://*/", "s3://", "s3://*/", "file:///", "%"])
def test_T07_no_key_means_everything(key: str) -> None:
    for location, store in (("http://good.org/data/x", http_store()), ("s3://b/x", s3_store()), ("file:///x/y", None)):
        store = store or local_filesystem_store("/")
        prefix = location.rpartition("/")[0] + "/"
        for prefixes in ((key, prefix), (key,)):
            containers = {p: VirtualChunkContainer(p, store) for p in prefixes}
            with pytest.raises((NoContainer, NotAuthorized)):
                Authorization(containers, {key: None}).readable(location)


def test_T08_there_is_a_longest_location() -> None:
    fits = GOOD + "x" * (LONGEST - len(GOOD))
    for authorization in (reader(GOOD), reader(GOOD)):
        assert authorization.readable(fits)
        assert authorization.check_write(Locations.of([fits])).all()
    for long in (fits + "x", GOOD + "x/" * LONGEST, "http://" + "h" * LONGEST + "/x", "x" * 10**6):
        with pytest.raises(InvalidLocation) as caught:
            reader(GOOD).readable(long)
        assert len(str(caught.value)) < 1000, "the message does not repeat it"
        with pytest.raises(InvalidLocation):
            reader(GOOD).check_write(Locations.of([GOOD + "x", long]))


def test_T08_many_locations_are_remembered_within_bounds() -> None:
    authorization = reader(GOOD)
    for i in range(10_000):
        authorization.readable(f"{GOOD}{i}")
    assert len(authorization._remembered) <= 4096


def test_T09_no_grant_without_container_and_no_container_without_grant() -> None:
    with pytest.raises(NoContainer):
        Authorization({}, {GOOD: None}).readable(GOOD + "x")
    with pytest.raises(NotAuthorized):
        Authorization({GOOD: VirtualChunkContainer(GOOD, http_store())}, {}).readable(GOOD + "x")


def test_T09_references_that_were_never_checked_are_judged_when_they_are_read() -> None:
    """A repository of another was not written through our checks."""
    repo = icv.Repository.create(icv.in_memory_storage(), None, {GOOD: None})
    store = repo.writable_session("main").store
    put(store, "zarr.json", GROUP)
    put(store, "v/zarr.json", array_document((80,), (10,)))
    store.set_virtual_ref("v/c/0", f"{GOOD}x", offset=0, length=10, validate_container=False)
    with pytest.raises(NoContainer):
        get(store, "v/c/0")
