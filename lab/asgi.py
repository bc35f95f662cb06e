"""What uvicorn serves: `uvicorn lab.asgi:application`.

Django under ASGI writes the whole body of a request to disk before anybody asks who sent it, so its size is
bounded here, by what is declared and by what comes.
"""

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "lab.settings")

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]


def bounded(application: Application) -> Application:
    """Refuse a body that is too large with 413: at once when it says so, otherwise when it has grown too large."""
    from django.conf import settings

    async def serve(scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await application(scope, receive, send)
        is_upload = "/datasets" in scope["path"]
        most = settings.MAX_UPLOAD_BYTES if is_upload else settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            return await _refuse(send, most)
        n_bytes = 0

        async def counted() -> dict[str, Any]:
            nonlocal n_bytes
            message = await receive()
            n_bytes += len(message.get("body", b""))
            return message if n_bytes <= most else {"type": "http.disconnect"}

        # Django leaves without a word when its caller seems to have gone.
        await application(scope, counted, send)
        if n_bytes > most:
            await _refuse(send, most)

    return serve


async def _refuse(send: Send, most: int) -> None:
    problem = {"detail": f"The body is larger than {most:,} bytes.", "errors": []}
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(problem).encode()})


application = bounded(get_asgi_application())
