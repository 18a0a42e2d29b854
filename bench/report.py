"""The report of a run on 10,000 test pictures: its size, how long Chromium takes to open it, what it asks for.

The pictures shown are noise, which no codec compresses. Each page is opened in a browser of its own; the time is that
from asking for the page to its load event, the median of several. Console and network have to stay silent.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import record

sys.path.insert(0, str(record.ROOT / "tests"))

import browser  # the same look at a page as in the tests
import stories

SIZE_BAR, TIME_BAR = 3.0, 1.0  # MB, seconds


def measure(classes: int, pictures: int, runs: int, folder: Path) -> dict[str, Any]:
    from tessella.report.run import page

    story = stories.story(classes, pictures)
    began = time.perf_counter()
    html = page(story).encode()
    made, at = time.perf_counter() - began, folder / f"{classes}.html"
    at.write_bytes(html)
    seen = [browser.look(at) for _ in range(runs)] if browser.BROWSER else []
    loaded = statistics.median(one.milliseconds for one in seen) / 1000 if seen else None
    said = sum(len(one.console) + len(one.asked) for one in seen)
    return {"classes": classes, "mb": len(html) / 1e6, "made_s": made, "opened_s": loaded, "said": said}


def main() -> None:
    parser = record.parser(__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 10, 102, 1000])
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=5)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(k, asked.pictures, asked.runs, Path(folder)) for k in asked.classes]
    record.table(
        ["classes", "MB", "made, s", "opened, s", "console and requests"], [list(row.values()) for row in rows]
    )
    judged = [record.verdict("size of the page, MB", max(row["mb"] for row in rows), SIZE_BAR, False)]
    if all(row["opened_s"] is not None for row in rows):
        judged.append(record.verdict("opened in Chromium, s", max(row["opened_s"] for row in rows), TIME_BAR, False))
        judged.append(record.verdict("console lines and requests", sum(row["said"] for row in rows), 0, False))
    record.show(judged)
    record.keep(asked, "report", {"pictures": asked.pictures, "pages": rows, "verdicts": judged})


if __name__ == "__main__":
    main()
