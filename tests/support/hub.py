"""A small hub on 127.0.0.1 that speaks the API of Hugging Face's: dataset repositories and buckets, read only."""

import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """The files of the repository `datasets/lab/photos` and of the bucket `lab/photos`, and every request."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.url = ""

    def environ(self) -> dict[str, str]:
        """The variables by which a process finds this hub."""
        return {"HF_ENDPOINT": self.url, "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def describe(self, path: str, is_bucket: bool) -> dict[str, Any] | None:
        """The entry of a file or a folder in the API."""
        data = self.files.get(path)
        if data is None:
            is_folder = any(name.startswith(path + "/") for name in self.files)
            return {"type": "directory", "oid": "0", "path": path} if is_folder and not is_bucket else None
        digest = hashlib.sha256(data).hexdigest()
        entry = {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if is_bucket:
            return entry | {"xetHash": digest, "mtime": "2026-11-24T01:00:00.000Z"}
        lfs = {"oid": digest, "size": len(data), "pointerSize": 134}
        return entry | ({"lfs": lfs} if path.endswith(".tar") else {})

    def list(self, folder: str, recursive: bool, is_bucket: bool) -> list[dict[str, Any]]:
        """The entries below a folder."""
        below = {name for name in self.files if name.startswith(folder and folder.rstrip("/") + "/")}
        if not recursive:
            depth = len(folder.rstrip("/").split("/")) if folder else 0
            below = {"/".join(name.split("/")[:depth + 1]) for name in below}
        entries = [self.describe(name, is_bucket) for name in sorted(below)]
        return [entry for entry in entries if entry is not None]


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """The hub while the context lasts."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def reply(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def reply_json(self, value: object) -> None:
            self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path, query = unquote(url.path), parse_qs(url.query)
            hub.requests.append(("GET", self.path))
            recursive = query.get("recursive", ["false"])[0].lower() == "true"
            if match := re.fullmatch(r"/(?:datasets/lab/photos/resolve/\w+|buckets/lab/photos/resolve)/(.+)", path):
                data = hub.files.get(match[1])
                if data is None:
                    self.reply(404, b"", X_Error_Code="EntryNotFound")
                elif part := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                    self.reply(206, data[int(part[1]):int(part[2]) + 1])
                else:
                    self.reply(200, data)
            elif match := re.fullmatch(r"/api/datasets/lab/photos/tree/main/?(.*)", path):
                entries = hub.list(match[1], recursive, False)
                self.reply_json(entries) if entries else self.reply(404, b"", X_Error_Code="EntryNotFound")
            elif match := re.fullmatch(r"/api/buckets/lab/photos/tree/?(.*)", path):
                self.reply_json(hub.list(match[1], recursive, True))
            elif re.fullmatch(r"/api/datasets/lab/photos(/revision/main)?", path):
                self.reply_json({"id": "lab/photos", "sha": "1" * 40, "private": False, "tags": []})
            elif path == "/api/buckets/lab/photos":
                self.reply_json({"id": "lab/photos", "private": False, "createdAt": "2026-11-24T01:00:00.000Z",
                                 "size": 1, "totalFiles": len(hub.files)})
            else:
                self.reply(404, b"{}", X_Error_Code="RepoNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            hub.requests.append(("POST", self.path))
            is_json = self.headers.get("Content-Type", "").startswith("application/json")
            paths = json.loads(body)["paths"] if is_json else parse_qs(body).get("paths", [])
            match = re.fullmatch(r"/api/(datasets|buckets)/lab/photos/paths-info(/main)?", self.path)
            if match is None:
                self.reply(404, b"{}", X_Error_Code="RepoNotFound")
                return
            entries = [hub.describe(path, match[1] == "buckets") for path in paths]
            self.reply_json([entry for entry in entries if entry is not None])

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()
