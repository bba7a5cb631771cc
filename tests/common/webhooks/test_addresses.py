"""Webhooks go to public addresses, and elsewhere only where the operator says so."""

import socket
from typing import Any

import pytest

from common.errors import AddressRefused
from common.webhooks.addresses import AddressRules

PUBLIC = "93.184.215.14"
NONE = AddressRules()


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, 1, 6, "", (address, port)) for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1",
        "240.0.0.1", "255.255.255.255", "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "fe80::1",
        "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::", "2001::1", "2001:db8::1",
        "::ffff:0:127.0.0.1", "::ffff:0:a00:1", "5f00::1",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_refused(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolving_to(monkeypatch, address)
    with pytest.raises(AddressRefused, match="not public"):
        NONE.target("https://example.com/hook")


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "64:ff9b::5db8:d70e"])
def test_a_public_address_is_allowed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    resolving_to(monkeypatch, address)
    target = NONE.target("https://Example.com./a?b=c")
    assert (target.host, target.port, target.path) == ("example.com", 443, "/a?b=c")
    assert [str(found) for found in target.addresses] == [address]


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, PUBLIC, "10.0.0.1")
    with pytest.raises(AddressRefused):
        NONE.target("https://example.com/")


@pytest.mark.parametrize(
    "url",
    [
        "", "example.com", "ftp://example.com/", "file:///etc/passwd", "https://", "https:///x", "http://example.com/",
        "https://user@example.com/", "https://user:pass@example.com/", "https://good.com\\@evil.com/",
        "https://example.com/#part", "https://example.com/ x", "https://example.com/\r\nX: y", "https://exämple.com/",
        "https://example.com:0/", "https://example.com:99999/", "https://example.com:25/", "https://[::1/",
        "https://example.com/" + "a" * 2048, f"https://{64 * 'a'}.com/", "https://a..com/",
    ],
)  # fmt: skip
def test_a_url_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    resolving_to(monkeypatch, PUBLIC)
    with pytest.raises(AddressRefused):
        NONE.target(url)


@pytest.mark.parametrize(
    "url", ["https://2130706433/", "https://0x7f.1/", "https://017700000001/", "https://[::ffff:7f00:1]/", "https://0/"]
)
def test_other_spellings_of_loopback_are_refused(url: str) -> None:
    with pytest.raises(AddressRefused):
        NONE.target(url)


def test_a_host_that_cannot_be_resolved_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(AddressRefused, match="cannot be resolved"):
        NONE.target("https://does-not-exist.invalid/")


@pytest.mark.parametrize("allowed", ["127.0.0.0/8", "localhost"])
def test_the_operator_allows_a_host_or_a_network(allowed: str) -> None:
    target = AddressRules.of([allowed, "::1", "10.1.0.0/16"]).target("http://localhost:81/hook")
    assert "127.0.0.1" in [str(address) for address in target.addresses]
    assert target.host_header == "localhost:81"


def test_a_name_with_a_star_stands_for_all_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving_to(monkeypatch, "10.0.0.1")
    rules = AddressRules.of(["*.corp.example"])
    assert rules.target("http://a.b.corp.example/").host == "a.b.corp.example"
    for url in ("http://corp.example/", "http://xcorp.example/", "https://corp.example.evil.com/"):
        with pytest.raises(AddressRefused):
            rules.target(url)


def test_an_allowed_network_allows_no_other_address(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = AddressRules.of(["10.1.0.0/16", "fd00::/8"])
    resolving_to(monkeypatch, "10.1.2.3", "fd00::1")
    assert len(rules.target("http://inside/").addresses) == 2
    resolving_to(monkeypatch, "10.2.2.3")
    with pytest.raises(AddressRefused):
        rules.target("http://inside/")
