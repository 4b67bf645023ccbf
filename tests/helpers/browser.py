"""A real browser for tests: Debian's chromium, headless, driven over its DevTools protocol; no driver to install."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp  # comes with datasets
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NO_CHROMIUM = "no chromium here; apt-get install chromium"
PATIENCE = 60.0  # seconds for a busy machine
KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    " ": ("Space", 32, " "),
    "/": ("Slash", 191, "/"),
}


class Browser:
    """One tab. `errors` are what scripts of the page threw, `requests` every address it asked for."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.mkdtemp(prefix="browser-")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        profile = [f"--user-data-dir={self.folder}", "--no-first-run", "--disable-extensions", "about:blank"]
        self.process = subprocess.Popen(
            [str(CHROMIUM), *flags, *profile],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.number = 0
        self.errors: list[str] = []
        self.requests: list[str] = []
        try:
            self.loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> None:
        port = Path(self.folder) / "DevToolsActivePort"
        deadline = time.monotonic() + PATIENCE
        while not (port.exists() and port.read_text().count("\n")):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError("chromium did not start")
            await asyncio.sleep(0.05)
        self.session = aiohttp.ClientSession()
        async with self.session.get(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as answer:
            (tab,) = [entry for entry in await answer.json() if entry["type"] == "page"]
        self.socket = await self.session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0)

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One command of the protocol and its answer."""
        return self.loop.run_until_complete(asyncio.wait_for(self._call(method, arguments), PATIENCE))

    async def _call(self, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_json({"id": self.number, "method": method, "params": arguments})
        while True:
            message = json.loads((await self.socket.receive()).data)
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.errors.append(json.dumps(message["params"]["exceptionDetails"])[:600])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"]["entry"]["text"])
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def open(self, path: Path, ready: str = "document.documentElement?.dataset.ready === 'yes'") -> float:
        """Load a file; seconds until it is `ready`."""
        began = time.monotonic()
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(f"location.protocol === 'file:' && {ready}")
        return time.monotonic() - began

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        deadline = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < deadline, f"never became true: {condition}"
            time.sleep(0.02)

    def press(self, *keys: str, shift: bool = False) -> None:
        """Keys as a person presses them, one after another."""
        for key in keys:
            code, number, text = KEYS[key]
            event = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **event)
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """A real click into the middle of the first match."""
        script = f"""(() => {{ const node = document.querySelector({json.dumps(selector)});
            node.scrollIntoView({{ block: "center" }}); const box = node.getBoundingClientRect();
            return [box.x + box.width / 2, box.y + box.height / 2]; }})()"""
        x, y = self.run(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def size(self, width: int, height: int) -> None:
        """The window's inside [CSS pixels]."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefers(self, scheme: str) -> None:
        """What the system prefers: light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """A PNG of the window, or of the `whole` page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser and forget its profile."""
        if hasattr(self, "session"):
            self.loop.run_until_complete(self.session.close())
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.loop.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for all tests of a file, which imports this fixture by name."""
    chromium = Browser()
    yield chromium
    chromium.close()


@contextmanager
def freshly_opened(browser: Browser, page: Path) -> Iterator[Browser]:
    """A page, freshly opened; afterwards nothing must have gone wrong in it."""
    browser.size(1400, 1000)
    browser.prefers("light")
    browser.errors.clear()
    browser.requests.clear()
    browser.open(page)
    yield browser
    assert browser.errors == []
