"""Chromium without a window, driven over its debugging pipe: tests, images and timings of pages."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Page:
    """A page in Chromium, driven over its debugging pipe; complaints of the console are kept."""

    def __init__(self, send: Any, session: str) -> None:
        self._send, self._session, self.complaints = send, session, []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the page's own DevTools session."""
        return self._send(method, parameters, self._session)

    def run(self, script: str) -> Any:
        """Evaluate an expression; a promise is waited for. A thrown error fails the test."""
        done = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 15.0) -> None:
        """Wait until an expression holds."""
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.05)

    def key(self, name: str, code: int = 0, text: str = "") -> None:
        """Press and let go of a key."""
        more = {"text": text} if text else {}
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=name, code=name, windowsVirtualKeyCode=code, **more
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=name, code=name, windowsVirtualKeyCode=code)

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse to the middle of an element, and click it if asked to."""
        box = f"document.querySelector({selector!r}).getBoundingClientRect()"
        x, y = self.run(f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the window's size and the colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def image(self) -> bytes:
        """Return a screenshot as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


class Browser:
    """Chromium without a window."""

    def __init__(self, program: str, profile: Path) -> None:
        commands_out, self._write = os.pipe()
        self._read, answers_in = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4, whatever ours are.
        move = (
            "import fcntl, os, sys; "
            "ours = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 64) for fd in sys.argv[1:3]]; "
            "[os.dup2(fd, to) for fd, to in zip(ours, (3, 4))]; os.execvp(sys.argv[3], sys.argv[3:])"
        )
        arguments = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", move, str(commands_out), str(answers_in), *arguments],
            pass_fds=(commands_out, answers_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands_out)
        os.close(answers_in)
        self._buffer, self._number = b"", 0
        self._pages: dict[str, Page] = {}

    def open(self, url: str) -> Page:
        """Open a page and wait until it is loaded."""
        target = self._send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self._send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self._send, session)
        for domain in ("Runtime", "Log", "Page", "Network"):
            page.call(f"{domain}.enable")
        page.call("Network.setBlockedURLs", urls=["http://*", "https://*"])
        page.call("Page.navigate", url=url)
        page.wait("location.href !== 'about:blank' && document.readyState === 'complete'", 30)
        return page

    def close(self) -> None:
        """End the browser, whatever state it is in."""
        try:
            self._send("Browser.close", {})
            self._process.wait(20)
        finally:
            self._process.kill()
            os.close(self._write)
            os.close(self._read)

    def _send(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, (method, answer)
        return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], 60)
            assert ready, "Chromium does not answer"
            data = os.read(self._read, 1 << 20)
            assert data, "Chromium has ended"
            self._buffer += data
        text, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        page, told = self._pages.get(message.get("sessionId", "")), message.get("params", {})
        if page is not None and message.get("method") == "Runtime.exceptionThrown":
            page.complaints.append(told["exceptionDetails"])
        if (
            page is not None
            and message.get("method") == "Log.entryAdded"
            and told["entry"]["level"] == "error"
        ):
            page.complaints.append(told["entry"])
        if page is not None and message.get("method") == "Network.requestWillBeSent":
            url = told["request"]["url"]
            if not url.startswith(("file:", "data:", "blob:", "about:")):
                page.complaints.append(url)
        return message


def find_chromium() -> str | None:
    """Return the program; None where it is not installed."""
    return shutil.which("chromium") or shutil.which("google-chrome")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium and end it.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = find_chromium()
    if program is None:
        raise FileNotFoundError("neither chromium nor google-chrome is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, Path(profile))
        try:
            yield browser
        finally:
            browser.close()
