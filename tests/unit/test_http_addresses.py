"""Texts of URLs and addresses: what is sent, where redirects may lead, which addresses are not public."""

from __future__ import annotations

import pytest

from icechunk_virtual.containers.http.addresses import (
    BadRedirect,
    Origin,
    is_special,
    literal_address,
    origin_of,
    plain_host,
    redirected,
    sent_url,
)
from icechunk_virtual.containers.url import check_location


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("http://h/a", "http://h/a"),
        ("HTTPS://Example.ORG:8443/A", "https://example.org:8443/A"),
        ("http://h:80/a?sig=x%2Fy&v=%25#part", "http://h/a?sig=x%2Fy&v=%25"),
        ("http://h/%7eme/a%20b%C3%A9", "http://h/%7eme/a%20b%C3%A9"),
        ('http://h/a b\u00e9?q=\u00e9 "', "http://h/a%20b%C3%A9?q=%C3%A9%20%22"),
        ("http://h//a//b/", "http://h//a//b/"),
        ("http://h/100%", "http://h/100%25"),
        ("http://h/[x]{y}|^`", "http://h/%5Bx%5D%7By%7D%7C%5E%60"),
        ("http://h/a+b&c~!'()*,=:@$", "http://h/a+b&c~!'()*,=:@$"),
        ("http://h/f?a=[1]{2}|", "http://h/f?a=[1]{2}|"),
        ("http://h/f?a=1?b=2", "http://h/f?a=1?b=2"),
        ("http://[2001:DB8::1]:8080/f", "http://[2001:db8::1]:8080/f"),
    ],
)
def test_urls_are_sent_as_they_are_written(text: str, sent: str) -> None:
    assert sent_url(check_location(text)) == sent


def test_origins() -> None:
    assert origin_of("https://H./x") == origin_of("https://h:443/y") == Origin("https", "h", 443)
    assert len({origin_of(f"{start}/") for start in ("http://h", "https://h", "http://h:81", "http://h2")}) == 4
    assert str(origin_of("http://[::1]:81/x")) == "http://[::1]:81"
    assert origin_of("http://[0:0:0::1]/") == origin_of("http://[::1]/")
    assert plain_host("[FE80::1]") == "fe80::1"


@pytest.mark.parametrize(
    ("target", "url"),
    [
        ("/x", "http://h:81/x"),
        ("x", "http://h:81/a/x"),
        ("../x", "http://h:81/x"),
        ("?q=1", "http://h:81/a/b?q=1"),
        ("//o/x", "http://o/x"),
        ("https://o:444/x//y?sig=%2F#part", "https://o:444/x//y?sig=%2F"),
        ("http://o", "http://o/"),
        ("http://o?x=1", "http://o/?x=1"),
        ("/a b\u00e9?\u00e9", "http://h:81/a%20b%C3%A9?%C3%A9"),
        ("http://[2001:db8::1]:80/x", "http://[2001:db8::1]:80/x"),
    ],
)
def test_where_redirects_lead(target: str, url: str) -> None:
    assert redirected("http://h:81/a/b?c", target) == url


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (None, "without saying where to"),
        ("", "without saying where to"),
        ("ftp://o/x", "not http"),
        ("file:///etc/passwd", "not http"),
        ("javascript:alert(1)", "not http"),
        ("http://o/x", "from https to plain http"),
        ("https://user:secret@o/x", "user info"),
        ("https://user@o/x", "user info"),
        ("https://o\\@evil/x", "user info"),
        ("https://o\\x", "host that is none"),
        ("https://a b/", "host that is none"),
        ("https:///x", "without a host"),
        ("https:x", "without a host"),
        ("https:/x", "without a host"),
        ("///x", "without a host"),
        ("https://\u00e9/", "host that is none"),
        ("https://h%41/", "host that is none"),
        ("https://h:0/", "host that is none"),
        ("https://h:99999/", "no URL"),
        ("https://[::1/", "no URL"),
    ],
)
def test_redirects_that_are_not_followed(target: str | None, reason: str) -> None:
    with pytest.raises(BadRedirect, match=reason) as caught:
        redirected("https://h/a", target)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0x7f.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("1.2.3.4.5", None),
        ("example.org", None),
        ("0x7f.example", None),
        ("", None),
    ],
)
def test_addresses_in_disguise(host: str, address: str | None) -> None:
    assert literal_address(host) == address


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.53",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",
        "2002:7f00:1::",
        "2002:808:808::",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "ff02::1",
        "localhost",
        "",
    ],
)
def test_special_addresses(address: str) -> None:
    assert is_special(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2001:4860:4860::8888", "64:ff9b::808:808", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert not is_special(address)
