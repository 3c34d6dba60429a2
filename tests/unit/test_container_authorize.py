"""Which container is responsible, who was granted what, and what the errors tell."""

from __future__ import annotations

import functools
import pickle
import re

import pytest

import icechunk_virtual
from icechunk_virtual.containers import snippets
from icechunk_virtual.containers.authorize import Authorization
from icechunk_virtual.containers.container import (
    AnyObjectStoreConfig,
    VirtualChunkContainer,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk_virtual.errors import InvalidLocation, NoContainer, NotAuthorized
from icechunk_virtual.model.locations import Locations

FILES = local_filesystem_store("/")


def containers(*prefixes: str, store: AnyObjectStoreConfig = FILES) -> dict[str, VirtualChunkContainer]:
    return {prefix: VirtualChunkContainer(prefix, store) for prefix in prefixes}


def test_the_longest_prefix_is_responsible() -> None:
    authorization = Authorization(containers("file:///d/", "file:///d/e/f/", "file:///d/e/"), {})
    for location, prefix in [
        ("file:///d/x", "file:///d/"),
        ("file:///d/ex", "file:///d/"),
        ("file:///d/e/x", "file:///d/e/"),
        ("file:///d/e/f/x", "file:///d/e/f/"),
    ]:
        assert authorization.container_for(location).url_prefix == prefix


def test_no_fallback_to_a_shorter_authorised_prefix() -> None:
    authorization = Authorization(containers("file:///d/", "file:///d/e/"), {"file:///d/": None})
    assert authorization.readable("file:///d/x").container.url_prefix == "file:///d/"
    with pytest.raises(NotAuthorized) as caught:
        authorization.readable("file:///d/e/x")
    assert caught.value.prefix == "file:///d/e/"


def test_grants_are_matched_by_meaning_and_get_their_slash() -> None:
    authorization = Authorization(containers("file:///a%20b/"), {"file:/a b": None})
    assert authorization.granted_prefixes == {"file:/a b/"}
    assert authorization.readable("file:///a%20b/x").container.url_prefix == "file:///a%20b/"


def test_a_grant_without_container_opens_nothing() -> None:
    authorization = Authorization({}, {"file:///d/": None})
    with pytest.raises(NoContainer):
        authorization.readable("file:///d/x")


def test_a_broken_container_matches_nothing() -> None:
    authorization = Authorization(containers("nonsense", "file:///", "", "file:///d"), {"": None, "file:///": None})
    with pytest.raises(NoContainer):
        authorization.readable("file:///d/x")


def test_text_of_not_authorized_repairs() -> None:
    authorization = Authorization(containers("file:///d/"), {"file:///other/": None})
    with pytest.raises(NotAuthorized) as caught:
        authorization.readable("file:///d/x")
    text = str(caught.value)
    assert re.search(r"file:///d/x.*authorize", text)
    assert "a virtual chunk in this repository" in text
    assert "resolves to the url prefix file:///d/" in text
    assert "'file:///other/'" in text
    code = 'repo = icechunk_virtual.Repository.open(storage, authorize_virtual_chunk_access={"file:///d/": None})'
    assert text.splitlines()[-1].strip() == code


def test_text_of_no_container_repairs() -> None:
    with pytest.raises(NoContainer) as caught:
        Authorization({}, {}).readable("s3://b/p/x.nc")
    text = str(caught.value)
    assert re.search(r"s3://b/p/x\.nc.*edit the repository configuration", text)
    assert "invalid chunk location, no matching virtual chunk container: `s3://b/p/x.nc`" in text
    assert 'VirtualChunkContainer("s3://b/p/", icechunk_virtual.s3_store(region="us-east-1"))' in text


@pytest.mark.parametrize("scheme", sorted(snippets.NEW_STORES))
def test_functions_in_texts_exist(scheme: str) -> None:
    name = snippets.NEW_STORES[scheme].partition("(")[0]
    assert callable(functools.reduce(getattr, name.split("."), icechunk_virtual))


def test_text_for_a_scheme_without_containers() -> None:
    with pytest.raises(NoContainer, match="There are no containers for `ftp` URLs"):
        Authorization({}, {}).readable("ftp://h/x")


def test_code_in_errors_is_quoted() -> None:
    evil = 'file:///d"});__import__("os")/'
    authorization = Authorization(containers(evil), {})
    with pytest.raises(NotAuthorized) as caught:
        authorization.readable(evil + "x")
    argument = str(caught.value).splitlines()[-1].strip().partition("authorize_virtual_chunk_access=")[2]
    assert eval(argument.removesuffix(")")) == {evil: None}


def test_azure_needs_credentials() -> None:
    authorization = Authorization(containers("az://c/", store=azure_store(account="a")), {})
    with pytest.raises(NotAuthorized, match="azure_from_env_credentials"):
        authorization.readable("az://c/x")


@pytest.mark.parametrize(
    ("prefix", "store"),
    [
        ("s3://b/", s3_store(endpoint_url="http://evil/")),
        ("gs://b/", gcs_store({"google_base_url": "http://evil/", "proxy_url": "http://me:HIDDEN@h"})),
        ("az://b/", azure_store(account="a", config={"azure_endpoint": "http://evil/"})),
    ],
)
def test_where_the_repository_has_requests_sent_is_said(prefix: str, store: AnyObjectStoreConfig) -> None:
    """Who grants credentials should know who gets them."""
    given = containers(prefix, store=store)
    given[prefix].stored = True
    with pytest.raises(NotAuthorized, match="with what you grant, sent to 'http://evil/'") as caught:
        Authorization(given, {}).readable(prefix + "x")
    assert "HIDDEN" not in str(caught.value)
    with pytest.raises(NotAuthorized) as caught:
        Authorization(containers("s3://b/", store=s3_store(region="eu")), {}).readable("s3://b/x")
    assert "sent to" not in str(caught.value)


def test_writing_needs_a_container_but_no_authorisation() -> None:
    authorization = Authorization(
        containers("file:///d/")
        | containers("s3://b/p/", store=s3_store())
        | containers("gs://g/", store=gcs_store())
        | containers("http://h:8080/", store=http_store()),
        {},
    )
    urls = {
        "file:///d/x": True,
        "file:///d/%78": True,
        "file:/d/x": True,
        "file:///dx": False,
        "s3://b/p/x": True,
        "s3://b/q/x": False,
        "s3://B/p/x": False,
        "gs://g/x": True,
        "gcs://g/x": False,
        "http://H:8080/x?y": True,
        "http://h/x": False,
        "ftp://h/x": False,
    }
    assert authorization.check_write(Locations.of(urls)).tolist() == list(urls.values())


def test_the_first_bad_location_is_named() -> None:
    authorization = Authorization(containers("file:///d/"), {})
    urls = ["file:///d/a", "file:///e/b", "file:///d/../c", "nonsense", "file:///d/d"]
    with pytest.raises(InvalidLocation) as caught:
        authorization.check_write(Locations.of(urls))
    assert caught.value.location == "file:///d/../c"
    assert authorization.check_write(Locations.of([])).tolist() == []


def test_pickles_and_tells_no_secret() -> None:
    authorization = Authorization(containers("file:///d/"), {"file:///d": "hunter2"})
    assert "hunter2" not in repr(authorization)
    copy = pickle.loads(pickle.dumps(authorization))
    assert copy.granted_prefixes == {"file:///d/"}
    assert copy.readable("file:///d/x").credentials == "hunter2"
