"""Pages out of WARC files, and rendered pages into them.

FastWARC reads; what it does not tell is checked here. It ends silently on a truncated gzip member, gives a
record's block short when the file ends inside it, and raises OSError for damage anywhere: whatever came before
is kept, and the damage is told in one sentence.
"""

import base64
import gzip
import hashlib
import io
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fastwarc import ArchiveIterator, WarcRecord, WarcRecordType

from core_ml.crawl.page import Failure, Page, Reading, page_id
from core_ml.errors import UserError

HTML = ("text/html", "application/xhtml+xml")
MAX_RECORD = 1 << 28
"""Records above 256 MiB are no pages, and are passed over without being held in memory."""


def read(path: Path, name: str, reading: Reading) -> Iterator[Page | Failure]:
    """The pages of a WARC or WET file in their order. Raises UserError when it is none."""
    n_records, n_pages, last_offset, damage = 0, 0, 0, ""
    records = ArchiveIterator(str(path), parse_http=False, fsspec_args=False, max_content_length=MAX_RECORD)
    n_mismatched = 0
    while True:
        try:
            record = next(records, None)
            if record is None:
                break
            length, last_offset = record.content_length, record.stream_pos
            block = record.reader.read()
        except OSError as error:
            if n_records == 0:
                raise UserError(not_warc(path, name, str(error)), field="path") from None
            damage = f"{name} cannot be read beyond record {n_records:,} ({error}): the {n_pages:,} pages before are kept"
            break
        n_records += 1
        url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
        id = page_id(name, n_records)
        if len(block) < length:
            damage = (
                f"{name} ends inside record {n_records:,}, of which {len(block):,} of {length:,} bytes are there: "
                f"the {n_pages:,} pages before it are kept"
            )
            if is_page_record(record):
                yield Failure(id, url, "truncated", f"record {n_records:,} of {name}")
            break
        n_mismatched += not digest_matches(record, block)
        page = page_of(record, block, id, url, f"record {n_records:,} of {name}", reading)
        if page is not None:
            n_pages += isinstance(page, Page)
            yield page
    if n_records == 0 and not damage:
        raise UserError(f"{name} is empty: it holds no WARC record", field="path")
    if not damage and gzip_is_cut(path, last_offset):
        damage = f"{name} is cut off after record {n_records:,}: the {n_pages:,} pages before are kept"
    if damage:
        reading.notes.append(damage)
    if n_mismatched:
        reading.notes.append(
            f"{n_mismatched:,} records of {name} do not match their own digest; they are kept"
        )


def is_page_record(record: Any) -> bool:
    return record.record_type in (WarcRecordType.response, WarcRecordType.resource, WarcRecordType.conversion)


def page_of(
    record: Any, block: bytes, id: str, url: str, where: str, reading: Reading
) -> Page | Failure | None:
    """The page that a record holds; None, counted in `reading`, for one that holds none."""
    kind = str(record.record_type).rpartition(".")[2]
    if not is_page_record(record):
        reading.skipped[f"{kind} records"] += 1
        return None
    date = record.record_date.isoformat() if record.record_date else None
    if record.record_type == WarcRecordType.conversion:
        return Page(id, url, text=block.decode("utf-8", "replace"), date=date)
    content_type, charset, payload = record.headers.get("Content-Type") or "", None, block
    if record.record_type == WarcRecordType.response and content_type.startswith("application/http"):
        answer = http_answer(block)
        if answer is None:
            return Failure(id, url, "bad_http", where)
        status, content_type, charset, payload = answer
        if status != 200:
            reading.skipped[f"answers with status {status}"] += 1
            return None
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in HTML or (not media_type and payload.lstrip()[:1] == b"<"):
        return Page(id, url, html=payload, charset=charset, date=date)
    if media_type == "text/plain":
        return Page(id, url, text=payload.decode(charset or "utf-8", "replace"), date=date)
    reading.skipped[f"files of type {media_type or 'unknown'}"] += 1
    return None


def http_answer(block: bytes) -> tuple[int, str, str | None, bytes] | None:
    """(status, content type, charset, body) of an HTTP response; None when its head cannot be read.

    Many crawlers store a body decoded and leave the header that says it is chunked or compressed; such a body
    is taken as it stands.
    """
    for decode in ("all", "content", "transfer", "none"):
        # A record of its own: FastWARC's iterator cannot go on after one that failed to parse.
        record = WarcRecord()
        record.init_headers(record_type=WarcRecordType.response)
        record.is_http = True
        record.set_bytes_content(block)
        try:
            record.parse_http(auto_decode=decode)
            body = record.reader.read()
            status = record.http_headers.status_code
        except (OSError, ValueError, AttributeError):
            continue
        return status or 0, record.http_content_type or "", record.http_charset, body
    return None


def digest_matches(record: Any, block: bytes) -> bool:
    """False when the record states the SHA-1 of its block, in base32 as the standard's examples do, and it differs."""
    algorithm, _, stated = (record.headers.get("WARC-Block-Digest") or "").partition(":")
    if algorithm.lower() != "sha1" or len(stated) != 32:
        return True
    return base64.b32encode(hashlib.sha1(block, usedforsecurity=False).digest()).decode() == stated.upper()


def gzip_is_cut(path: Path, offset: int) -> bool:
    """Whether the gzip members from an offset on do not end where the file ends.

    Cheap where each record is a member of its own, as the standard asks for: then one member is left to check.
    """
    with path.open("rb") as file:
        if file.read(2) != b"\x1f\x8b":
            return False
        file.seek(offset)
        if file.read(2) != b"\x1f\x8b":
            offset = 0
        file.seek(offset)
        return not ends_whole(file)


def ends_whole(file: BinaryIO) -> bool:
    member, data = zlib.decompressobj(31), b""
    fresh = True
    while True:
        data = data or file.read(1 << 16)
        if not data:
            return fresh
        if fresh and data[:1] == b"\0":  # padding after the last member is allowed
            data = data.lstrip(b"\0")
            continue
        try:
            data, fresh = member.unconsumed_tail if member.decompress(data, 1 << 20) else b"", False
        except zlib.error:
            return False
        if member.eof:
            data, member, fresh = member.unused_data, zlib.decompressobj(31), True


def not_warc(path: Path, name: str, error: str) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith(b"filedesc:") or name.endswith((".arc", ".arc.gz")):
        return f"{name} is an ARC file, the older format: convert it to WARC first"
    return f"{name} is not a WARC file ({error})"


def write_page(out: BinaryIO, url: str, html: bytes, date: str) -> None:
    """Append one page as a `response` record, a gzip member of its own, with the digest of its block."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(html)}\r\n\r\n"
    record = WarcRecord()
    record.init_headers(
        record_type=WarcRecordType.response, record_urn=f"uuid:{uuid.uuid5(uuid.NAMESPACE_URL, url)}".encode()
    )
    record.headers["WARC-Target-URI"] = url
    record.headers["WARC-Date"] = date
    record.is_http = True
    record.set_bytes_content(head.encode() + html)
    plain = io.BytesIO()
    record.write(plain, checksum_data=True)
    out.write(gzip.compress(plain.getvalue(), compresslevel=6, mtime=0))
