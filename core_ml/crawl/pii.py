"""Stage 8, personal data: e-mail addresses and public network addresses give way to ones reserved for examples.

A version number of four parts looks like a network address and is replaced as one, as in FineWeb.
"""

import ipaddress
import re

EMAIL = "email@example.com"
IP = "192.0.2.1"  # RFC 5737: reserved for documentation, and so never somebody's
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])")
_IP = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_RESERVED = re.compile(r"@(?:[A-Za-z0-9-]+\.)*example(?:\.com|\.org|\.net)?$", re.IGNORECASE)


def replace(text: str, emails: bool, ips: bool) -> tuple[str, dict[str, float]]:
    """The text without them, and how many of each were replaced."""
    n_emails = n_ips = 0

    def email(match: re.Match[str]) -> str:
        nonlocal n_emails
        if _RESERVED.search(match[0]):
            return match[0]
        n_emails += 1
        return EMAIL

    def ip(match: re.Match[str]) -> str:
        nonlocal n_ips
        try:
            public = ipaddress.IPv4Address(match[0]).is_global
        except ValueError:
            return match[0]
        n_ips += public
        return IP if public else match[0]

    if emails and "@" in text:
        text = _EMAIL.sub(email, text)
    if ips:
        text = _IP.sub(ip, text)
    return text, {"emails": float(n_emails), "ips": float(n_ips)}
