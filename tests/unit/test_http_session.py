"""Connections to web servers: proxies, certificates, and how they end with their users, event loops and processes."""

from __future__ import annotations

import gc
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator

import pytest

import icechunk_virtual as icv
from icechunk_virtual.errors import VirtualReadError
from tests.support.certificates import tls_of_own_authority
from tests.support.proxy import Proxy
from tests.support.source import ROOT
from tests.support.tunnel import Tunnel
from tests.support.web_reads import CONTENT, Reader
from tests.support.web_server import WebServer

WANTED = CONTENT[10:30]


@pytest.fixture
def server() -> Iterator[WebServer]:
    with WebServer({"/f": CONTENT}) as running:
        yield running


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy() as running:
        yield running


# -- proxies -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment(
    name: str, server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy.url_at("localhost"))
    assert Reader(server.url + "/")("f?sig=x%2Fy") == WANTED
    assert [str(request) for request in proxy.requests] == [f"GET {server.url}/f?sig=x%2Fy"]
    assert [request.target for request in server.requests] == ["/f?sig=x%2Fy"]


@pytest.mark.parametrize("excluded", ["127.0.0.1", "*", "example.org, 127.0.0.1"])
def test_hosts_without_a_proxy(excluded: str, server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", excluded)
    assert Reader(server.url + "/")() == WANTED
    assert not proxy.requests


def test_proxies_for_https_only(server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy.url)
    assert Reader(server.url + "/")() == WANTED
    assert not proxy.requests


def test_the_password_of_a_proxy_goes_to_the_proxy_only(
    server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
    assert Reader(server.url + "/", icv.http_credentials(bearer_token="token"))() == WANTED
    assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
    assert server.requests[0].headers["Authorization"] == "Bearer token"


def test_proxies_of_a_container(server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert Reader(server.url + "/", proxy_url=proxy.url)() == WANTED
    assert len(proxy.requests) == 1
    assert Reader(server.url + "/", proxy_url=proxy.url, proxy_excludes="127.0.0.1")() == WANTED
    assert len(proxy.requests) == 1


def test_proxies_that_fail(server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(VirtualReadError, match="the proxy of the environment speaks socks5"):
        Reader(server.url + "/")()
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    with pytest.raises(VirtualReadError, match="no connection to the proxy") as caught:
        Reader(server.url + "/", tries=1)()
    assert "secret" not in str(caught.value)
    assert not server.requests


def test_private_addresses_behind_a_proxy(server: WebServer, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are the proxy's business; addresses and names of this network are not sent there."""
    monkeypatch.setenv("http_proxy", proxy.url)
    for host in ("127.0.0.2", "2130706434", "localhost"):
        server.redirect("/f", f"http://{host}:{server.port}/f")
        with pytest.raises(VirtualReadError, match="no address of the public internet"):
            Reader(server.url + "/")()
    assert {request.target for request in proxy.requests} == {server.url + "/f"}


# -- TLS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """What a server needs, and the certificate of its authority as a text."""
    context, authority = tls_of_own_authority(tmp_path_factory.mktemp("certificates"))
    return context, authority.read_text()


@pytest.fixture
def secure(certificates: tuple[ssl.SSLContext, str]) -> Iterator[WebServer]:
    with WebServer({"/f": CONTENT}, tls=certificates[0]) as running:
        yield running


@pytest.fixture
def authority(certificates: tuple[ssl.SSLContext, str]) -> str:
    return certificates[1]


def test_certificates(secure: WebServer, authority: str) -> None:
    prefix = secure.url + "/"
    assert prefix.startswith("https://")
    with pytest.raises(VirtualReadError, match="the certificate of the server is not trusted here") as caught:
        Reader(prefix)()
    assert caught.value.tries == 1
    assert Reader(prefix, root_certificate=authority)() == WANTED
    assert Reader(prefix, allow_http="false", root_certificate=authority)() == WANTED
    with pytest.raises(VirtualReadError, match="not trusted here"):
        Reader(secure.url_at("localhost") + "/", root_certificate=authority)()
    assert Reader(prefix, allow_invalid_certificates="true")() == WANTED


def test_https_through_a_proxy(
    server: WebServer, certificates: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in the middle sees host and port, and nothing of the request."""
    context, authority = certificates
    with Tunnel(server.url, context) as tunnel:
        monkeypatch.setenv("https_proxy", tunnel.url)
        credentials = icv.http_credentials(bearer_token="token")
        assert Reader("https://127.0.0.1:4430/", credentials, root_certificate=authority)() == WANTED
        assert tunnel.asked == ["CONNECT 127.0.0.1:4430 HTTP/1.1"]
    assert server.requests[0].headers["Authorization"] == "Bearer token"


def test_no_tls(server: WebServer) -> None:
    with pytest.raises(VirtualReadError, match="the server does not speak TLS"):
        Reader(server.url.replace("http:", "https:") + "/")()


def test_redirects_to_plain_http(secure: WebServer, server: WebServer, authority: str) -> None:
    secure.redirect("/f", server.url + "/f")
    with pytest.raises(VirtualReadError, match="redirects from https to plain http"):
        Reader(secure.url + "/", root_certificate=authority)()
    assert not server.requests


def test_redirects_to_tls(secure: WebServer, server: WebServer, authority: str) -> None:
    server.redirect("/f", secure.url + "/f")
    read = Reader(server.url + "/", icv.http_credentials(bearer_token="token"), root_certificate=authority)
    assert read() == WANTED
    assert "Authorization" not in secure.requests[0].headers


# -- ends --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_connections_end_with_their_client(server: WebServer) -> None:
    read = Reader(server.url + "/")
    assert read() == WANTED
    (site,) = read.client._sites.values()
    client = site.exchange._connections._clients[False]  # type: ignore[attr-defined]
    assert not client.closed
    del read, site
    gc.collect()
    assert Reader(server.url + "/")() == WANTED  # the event loop has had its turn
    assert client.closed


def run(code: str, *arguments: str) -> tuple[str, str]:
    """What a program says, on both channels, with all warnings."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "always", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


READ = """
import os, sys, logging
logging.basicConfig(level=logging.WARNING)
from tests.support.web_reads import Reader, CONTENT
read = Reader(sys.argv[1])
assert read() == CONTENT[10:30]
"""


def test_programs_end_without_a_word(server: WebServer) -> None:
    assert run(READ + "print('done')", server.url + "/") == ("done\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)"])
def test_forked_children_have_connections_of_their_own(ending: str, server: WebServer) -> None:
    code = (
        READ
        + f"""
child = os.fork()
if not child:
    assert read() == CONTENT[10:30]
    {ending}
assert os.waitpid(child, 0)[1] == 0
assert read() == CONTENT[10:30]
print("parent")
"""
    )
    assert run(code, server.url + "/") == ("parent\n", "")
    peers = [request.peer for request in server.requests]
    assert len(peers) == 3
    assert peers[0] == peers[2] != peers[1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks on this system")
def test_forked_children_that_read_nothing(server: WebServer) -> None:
    code = (
        READ
        + """
child = os.fork()
if not child:
    del read
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
assert read() == CONTENT[10:30]
"""
    )
    assert run(code, server.url + "/") == ("", "")
    assert len({request.peer for request in server.requests}) == 1


def test_nothing_of_it_is_loaded_before_it_is_needed() -> None:
    code = "import sys, icechunk_virtual.containers.http.client\nassert 'aiohttp' not in sys.modules"
    assert run(code) == ("", "")
