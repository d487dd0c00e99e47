"""An S3 server on 127.0.0.1, and who uses it."""

import socket

from pipeline.store import s3_pages

KEY, SECRET = "testkey", "testsecret"


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, below 55535, since SeaweedFS also takes port + 10000."""
    sockets: list[socket.socket] = []
    while len(sockets) < number:
        candidate = socket.socket()
        candidate.bind(("127.0.0.1", 0))
        port = candidate.getsockname()[1]
        candidate.close()
        probe = socket.socket()
        probe.bind(("127.0.0.1", port % 20000 + 20000))
        sockets.append(probe)
    ports = [probe.getsockname()[1] for probe in sockets]
    for probe in sockets:
        probe.close()
    return ports


def forget_s3() -> None:
    """Let this process connect anew, as its environment says now."""
    import s3fs
    s3fs.S3FileSystem.clear_instance_cache()
    s3_pages.connect.cache_clear()
