"""A page as headless Chromium shows it: what it logs, asks for, measures, and looks like."""

import asyncio
import base64
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.support.processes import wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@dataclass
class Seen:
    """`console`: messages and errors. `requests`: URLs asked for. `values`: of the expressions. `violations`: axe's."""

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    picture: bytes = b""


def see(page: Path, folder: Path, *expressions: str, width: int = 1280, height: int = 900, dark: bool = False) -> Seen:
    """Open a page of the disk in a window of that size. `folder`: for the browser's own files."""
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
               f"--user-data-dir={folder}", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file = folder / "DevToolsActivePort"
        wait_until(lambda: browser.poll() is not None or (port_file.exists() and port_file.read_text().strip()),
                   "Chromium does not start", 60, 0.05)
        assert browser.poll() is None, "Chromium has ended"
        port, path = port_file.read_text().split()
        return asyncio.run(_see(f"ws://127.0.0.1:{port}{path}", page, expressions, width, height, dark))
    finally:
        browser.kill()
        browser.wait()


async def _see(endpoint: str, page: Path, expressions: tuple[str, ...], width: int, height: int, dark: bool) -> Seen:
    seen, number, loaded = Seen(), 0, False
    async with aiohttp.ClientSession() as http, http.ws_connect(endpoint, max_msg_size=2**27) as socket:
        async def receive() -> dict[str, Any]:
            nonlocal loaded
            message: dict[str, Any] = json.loads((await asyncio.wait_for(socket.receive(), 60)).data)
            match message.get("method"):
                case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                    seen.console.append(json.dumps(message["params"])[:500])
                case "Network.requestWillBeSent":
                    seen.requests.append(message["params"]["request"]["url"])
                case "Page.loadEventFired":
                    loaded = True
            return message

        async def ask(method: str, **params: Any) -> Any:
            nonlocal number
            number += 1
            await socket.send_json({"id": number, "method": method, "params": params, **session})
            while True:
                message = await receive()
                if message.get("id") == number:
                    assert "error" not in message, message
                    return message["result"]

        async def value(expression: str) -> Any:
            answer = await ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
            assert "exceptionDetails" not in answer, answer
            return answer["result"].get("value")

        session: dict[str, str] = {}
        target = (await ask("Target.createTarget", url="about:blank"))["targetId"]
        session = {"sessionId": (await ask("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            await ask(f"{domain}.enable")
        await ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)
        await ask("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        await ask("Page.navigate", url=page.as_uri())
        while not loaded:
            await receive()
        seen.values = [await value(expression) for expression in expressions]
        seen.picture = base64.b64decode((await ask("Page.captureScreenshot", captureBeyondViewport=True))["data"])
        await value((files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8"))
        violations = await value("axe.run().then(result => result.violations)")
        seen.violations = [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in violations
                           for node in one["nodes"]]
    return seen
