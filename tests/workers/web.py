"""A web server that gives images, or does not."""

from __future__ import annotations

import io
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from PIL import Image

NOWHERE = "http://127.0.0.1:1"
"""Where no server is."""


class Server:
    """/N is a status, /later the third time, /forever has no end, and all else an image of its own colour."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.strip("/")
                asked[name] += 1
                status = 503 if name == "later" and asked[name] < 3 else int(name) if name.isdigit() else 200
                self.send_response(status)
                self.end_headers()
                try:
                    self.wfile.write(picture(name))
                    while name == "forever":
                        self.wfile.write(bytes(2**16))
                except OSError:  # who asked has gone
                    pass

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def picture(name: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (24, 24), (len(name) * 40, ord(name[0]), 90)).save(data, "PNG")
    return data.getvalue()
