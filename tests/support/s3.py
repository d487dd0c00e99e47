"""An S3 server on 127.0.0.1, and who uses it."""

import random
import socket

from pipeline.store.s3 import pages

KEY, SECRET = "testkey", "testsecret"


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, and so were the ports 10,000 above them, which SeaweedFS takes too.

    The system gives higher ports to whoever asks for any port, so no other process gets one of these by chance.
    """
    ports: set[int] = set()
    while len(ports) < number:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:  # another process has one of them
                continue
        ports.add(port)
    return [*ports]


def forget_s3() -> None:
    """Let this process connect anew, as its environment says now."""
    import s3fs
    s3fs.S3FileSystem.clear_instance_cache()
    pages.connect.cache_clear()
