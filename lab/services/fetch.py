"""Fetching a file from an address that somebody typed, without becoming a way into the network around the lab.

Every address of the host must be a public one, the connection goes to the very address that was looked at
(a second look-up could answer differently), redirects are not followed, and bytes are counted as they come.
"""

import ipaddress
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from lab.errors import FieldError, Invalid

TIMEOUT = httpx.Timeout(30, connect=10)
DEADLINE = 600  # seconds for the whole file; a server that drips would hold a thread for ever
FIELD = "url"


def download(url: str, target: Path, max_bytes: int) -> None:
    """Write what an address answers to a file. Raises Invalid with what is wrong with the address or the answer."""
    host, port, address = look_up(url)
    parts = urlsplit(url)
    literal = f"[{address}]" if ":" in address else address
    pinned = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
    headers = {
        "Host": host if parts.port is None else f"{host}:{port}",
        # What is unpacked on the way could be endless; a file that is packed itself is measured later.
        "Accept-Encoding": "identity",
        "User-Agent": "move37",
    }
    end = time.monotonic() + DEADLINE
    try:
        # No proxy from the environment: it would look the name up itself.
        with httpx.Client(trust_env=False, timeout=TIMEOUT, follow_redirects=False) as client:
            with client.stream("GET", pinned, headers=headers, extensions={"sni_hostname": host}) as answer:
                _write(answer, target, max_bytes, end)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise _wrong(f"{host} cannot be read: {str(error) or type(error).__name__}") from error


def _write(answer: httpx.Response, target: Path, max_bytes: int, end: float) -> None:
    if answer.is_redirect:
        raise _wrong("the address redirects elsewhere: give the address that it leads to")
    if answer.status_code != 200:
        raise _wrong(f"the server answers {answer.status_code} {answer.reason_phrase}")
    n = 0
    with target.open("wb") as file:
        for chunk in answer.iter_raw(1 << 16):
            n += len(chunk)
            if n > max_bytes:
                raise _wrong(f"the file is larger than {max_bytes:,} bytes")
            if time.monotonic() > end:
                raise _wrong(f"the file did not arrive within {DEADLINE} seconds")
            file.write(chunk)


def look_up(url: str) -> tuple[str, int, str]:
    """Host, port, and the one public address to connect to. Raises Invalid."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise _wrong("give an address that begins with https:// or http://") from None
    host = parts.hostname
    if not host or parts.username or parts.password:
        raise _wrong("give an address with a host and without a name or password")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _wrong(f"there is no host {host!r}, or this machine has no network") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not all(is_public(address) for address in addresses):
        raise _wrong(f"{host} is not a public address: files of this network are imported by path or upload")
    return host, port, addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet, also when it is written as IPv6 around an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
    return ip.is_global and not ip.is_multicast


def _wrong(message: str) -> Invalid:
    return Invalid([FieldError(FIELD, message)])
