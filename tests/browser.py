"""A page in a real browser: how long it takes to load, what it says on the console, what it asks the network for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

BROWSER = shutil.which("chromium")
needed = pytest.mark.skipif(not BROWSER, reason="needs chromium: install the package of that name")
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
QUIET += ["--disable-component-update", "--disable-sync", "--disable-default-apps", "--no-pings", "--hide-scrollbars"]
FRAME = """<!doctype html><title>-</title><body style="margin:0"><script>
const began = performance.now(), frame = document.createElement("iframe");
frame.style = "border:0;width:{width}px;height:{height}px";
frame.onload = () => {{
  const inner = frame.contentDocument.documentElement;
  document.title = (performance.now() - began) + " " + inner.scrollHeight + " " + inner.scrollWidth;
}};
frame.src = "{address}";
document.body.append(frame);
</script>"""


@dataclass(frozen=True)
class Seen:
    milliseconds: float  # from asking for the page to its load event, pictures and all
    height: int  # of the whole page, pixels
    width: int  # more than that of the window: it has to be pushed sideways
    console: tuple[str, ...]
    asked: tuple[str, ...]  # addresses


def run(*words: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    with tempfile.TemporaryDirectory(prefix="browser-") as profile:
        command = [BROWSER, *QUIET, f"--user-data-dir={profile}", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)


def look(page: Path, width: int = 1280, height: int = 900) -> Seen:
    """In a frame of this size: a window cannot be as narrow as a phone."""
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        frame, log = Path(folder) / "frame.html", Path(folder) / "net.json"
        frame.write_text(FRAME.format(address=page.absolute().as_uri(), width=width, height=height))
        logging = ["--enable-logging=stderr", f"--log-net-log={log}", "--allow-file-access-from-files"]
        done = run(*logging, "--dump-dom", frame.as_uri())  # no virtual time: the page is timed
        told = re.search(r"<title>([\d.]+) (\d+) (\d+)</title>", done.stdout)
        assert told, done.stdout[:500] + done.stderr[-500:]
        console = tuple(line for line in done.stderr.splitlines() if ":CONSOLE" in line)
        return Seen(float(told[1]), int(told[2]), int(told[3]), console, _asked(log))


def _asked(log: Path) -> tuple[str, ...]:
    """Every address but those of files, and what the browser asks its maker whatever it shows."""
    events = json.loads(log.read_text(errors="replace"))["events"]
    urls = {str(event.get("params", {}).get("url", "")) for event in events}
    own = r"https?://[\w.-]+\.google(apis)?\.com/"
    return tuple(sorted(url for url in urls if re.match(r"(https?|wss?|ftp):", url) and not re.match(own, url)))


def picture(page: Path, to: Path, width: int, height: int) -> None:
    """A screenshot of the page in a frame of this size."""
    with tempfile.TemporaryDirectory(prefix="look-") as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(address=page.absolute().as_uri(), width=width, height=height))
        size = f"--window-size={max(width, 600)},{height}"
        run(size, "--allow-file-access-from-files", "--virtual-time-budget=20000", f"--screenshot={to}", frame.as_uri())


def printed(page: Path, to: Path) -> None:
    """As it would come out of a printer."""
    run("--no-pdf-header-footer", f"--print-to-pdf={to}", page.absolute().as_uri())
