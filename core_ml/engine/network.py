"""Speaking to an address that somebody typed, without becoming a way into the network around the lab.

Every address of the host must be a public one, unless an administrator has said that it is the lab's own network;
and the connection goes to the very address that was looked at, since a second look-up could answer differently.
"""

import ipaddress
import socket
from urllib.parse import urlsplit

from core_ml.errors import UserError


def look_up(url: str, local: bool = False) -> tuple[str, int, str]:
    """Host, port, and the one address to connect to.

    Args:
        local: whether addresses of this machine and its network will do as well.
    Raises: UserError.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (KeyError, ValueError):
        raise UserError("give an address that begins with https:// or http://", field="url") from None
    host = parts.hostname
    if not host or parts.username or parts.password:
        raise UserError("give an address with a host and without a name or password", field="url")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError(f"there is no host {host!r}, or this machine has no network", field="url") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not local and not all(is_public(address) for address in addresses):
        raise UserError(f"{host} is not a public address", field="url")
    if local and any(ipaddress.ip_address(address.partition("%")[0]).is_multicast for address in addresses):
        raise UserError(f"{host} is no address of one machine", field="url")
    return host, port, addresses[0]


def pinned(url: str, local: bool = False) -> tuple[str, str, str]:
    """The address with its host looked up, the Host header and the name for TLS. Raises UserError."""
    host, port, address = look_up(url, local)
    parts = urlsplit(url)
    literal = f"[{address}]" if ":" in address else address
    named = f"[{host}]" if ":" in host else host
    header = named if parts.port is None else f"{named}:{port}"
    return parts._replace(netloc=f"{literal}:{port}", fragment="").geturl(), header, host


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
