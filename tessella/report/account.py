"""The facts at the end: what data it was, what the program chose and why, on which machine, and how to do it again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .chart import meter, number, text
from .story import Plain, Story

NAMED = 60  # unreadable files that the page names; the list in the run folder has them all
MOST = 1000  # classes counted on the page
FEW = 24  # classes whose counts are seen at once


def data(story: Story) -> str:
    names = {"train": "pictures to train on"}
    totals = ", ".join(f"{n:,} {text(names.get(part, part))}" for part, n in story.totals.items())
    where = story.setting("data.path")
    out = [f"<p>{f'<code>{text(str(where))}</code>: ' if where else ''}{totals}.</p>" if totals else ""]
    out += [f"<p class='note'>{text(note[:1].upper() + note[1:])}.</p>" for note in story.notes]
    out.append(_counts(story))
    n = len(story.quarantined)
    if n:
        files = "file" if n == 1 else "files"
        out.append(
            f"<h4>{n:,} unreadable {files}</h4><p>They left holes in their batches; nothing took their place.</p>"
        )
        rows = [[str(b.get("split", "")), str(b.get("id", "")), str(b.get("reason", ""))] for b in story.quarantined]
        body = table(["Part", "Picture", "Why"], rows[:NAMED])
        out.append(body if n <= 6 else f"<details><summary>{_first(n)}</summary>{body}</details>")
    else:
        out.append("<p>Every picture could be read.</p>" if story.rows else "")
    return "".join(out)


def _first(n: int) -> str:
    return f"All {n:,}" if n <= NAMED else f"The first {NAMED} of {n:,}; quarantine.jsonl has them all"


def _counts(story: Story) -> str:
    """Pictures of each class; of many classes the spread first."""
    if not story.parts:
        return ""
    first = next(iter(story.parts.values()))
    counts = np.array(list(first.values()), dtype=np.int64)
    if not len(counts) or not counts.sum():
        return ""
    part = next(iter(story.parts))
    low, middle, high = int(counts.min()), float(np.median(counts)), int(counts.max())
    spread = f"{low:,} to {high:,} pictures a class in {text(part)}, {middle:,.0f} in the middle of them"
    if low == high:
        spread = f"{low:,} pictures of each class in {text(part)}"
    names = list(first)
    most = max((max(c.values(), default=0) for c in story.parts.values()), default=1) or 1
    rows = []
    for name in sorted(names, key=lambda name: -first[name])[:MOST]:
        cells = "".join(
            f'<td class="n">{c.get(name, 0):,}</td><td class="meter">{meter(c.get(name, 0) / most, look)}</td>'
            for c, look in zip(story.parts.values(), ("fill", "calm", "calm", "calm"), strict=False)
        )
        rows.append(f'<tr><td class="name">{text(name)}</td>{cells}</tr>')
    top = "".join(f'<th class="n">{text(p)}</th><th></th>' for p in list(story.parts)[:4])
    body = f"<table><thead><tr><th>Class</th>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    body = f'<div class="wide">{body}</div>'
    if len(names) <= FEW:
        return f"<p>{spread}.</p>{body}"
    told = f"All {len(names):,} classes" if len(names) <= MOST else f"The {MOST:,} largest of {len(names):,} classes"
    return f"<p>{spread}.</p><details><summary>{told}</summary>{body}</details>"


# -- settings ------------------------------------------------------------------------------------------------------


def values(story: Story) -> str:
    """What the program chose, each with its reason, then what was given, then the rest."""
    origins: Mapping[str, str] = story.written.get("origins", {})
    chosen, given, left = [], [], []
    for key, origin in origins.items():
        told = _value(story, key)
        if origin == "recipe" or (key.startswith("model.") and origin == origins.get("model")):
            left.append([key, told])  # of the architecture: its name says it
        elif origin.startswith("chosen: "):
            chosen.append([key, told, origin.removeprefix("chosen: ")])
        else:
            given.append([key, told, "" if origin == "given" else origin])
    out = []
    if chosen:
        out.append(f"<h4>Chosen by the program</h4>{table(['Setting', 'Value', 'Why'], _merged(chosen))}")
    if given:
        from_files = any(origin for *_, origin in given)
        rows = given if from_files else [row[:2] for row in given]
        out.append(f"<h4>Given</h4>{table(['Setting', 'Value', 'From'][: len(rows[0])], rows)}")
    if left:
        body = table(["Setting", "Value"], left)
        out.append(
            f"<details><summary>{len(left)} more, as recipe and architecture have them</summary>{body}</details>"
        )
    return "".join(out)


def _value(story: Story, key: str) -> str:
    if key in ("recipe", "model"):  # the names that they went by; what they stand for is settings
        return str(story.written.get(key) or "")
    value = story.setting(key)
    if isinstance(value, float):
        return f"{value:.6g}"
    words = value if isinstance(value, str) else json.dumps(value)
    return words if len(words) <= 90 else words[:87] + "..."


def _merged(rows: Sequence[list[str]]) -> list[list[str]]:
    """Settings below one key with one reason are one line: `preprocess.*`."""
    out: list[list[str]] = []
    seen: dict[tuple[str, str], list[str]] = {}
    for key, value, why in rows:
        above = key.rpartition(".")[0]
        same = [k for k, _, w in rows if k.rpartition(".")[0] == above and w == why]
        if not above or len(same) < 3:
            out.append([key, value, why])
            continue
        line = seen.get((above, why))
        if line is None:
            line = seen[above, why] = [f"{above}.*", "", why]
            out.append(line)
        if value != "null":
            line[1] += f"{', ' if line[1] else ''}{key.rpartition('.')[2]} {value}"
    return out


def environment(story: Story) -> str:
    machine: Plain = dict(story.written.get("machine", {}))
    packages = machine.pop("packages", None) or {}
    rows = [["tessella", str(story.written.get("tessella", ""))]]
    rows += [[key.replace("_gb", ", GB"), str(value)] for key, value in machine.items() if value is not None]
    rows += [["processes", str(story.written["processes"])]] if story.written.get("processes", 1) != 1 else []
    if packages:
        rows.append(["packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)])
    elif story.written.get("torch"):
        rows.append(["torch", str(story.written["torch"])])
    memory = [row["memory"] for row in story.rows if isinstance(row.get("memory"), (int, float))]
    rows += [["peak memory", f"{number(max(memory))}B"]] if memory and max(memory) > 0 else []
    return table(["", ""], [row for row in rows if row[1]])


def repeat(story: Story) -> str:
    """The words that started it; `cd` first, because paths may be relative."""
    words = story.written.get("command")
    if not isinstance(words, list) or not words:
        return ""
    out = [f"<pre>{text_lines(_command(words, story.written))}</pre>"]
    for again in story.written.get("resumed", []):
        out.append(f"<p>Then it was resumed with something changed:</p><pre>{text_lines(_command(again, {}))}</pre>")
    seed = story.setting("train.seed")
    out.append(
        f"<p class='note'>Everything random follows from train.seed = {text(str(seed))}; the same data, versions and "
        "device give the same model. <code>run.json</code> beside this page has every value.</p>"
    )
    return "".join(out)


def _command(words: Sequence[Any], written: Mapping[str, Any]) -> str:
    program, rest = str(words[0]), [str(word) for word in words[1:]]
    ours = re.search(r"(^|[/\\])tessella([/\\]__main__\.py|\.exe)?$", program)
    n = written.get("processes", 1)
    start = ["tessella"] if ours else ["python", program]
    if isinstance(n, int) and n > 1:
        start = ["torchrun", "--nproc-per-node", str(n), *(["-m", "tessella"] if ours else [program])]
    where = f"cd {shlex.quote(str(written['folder']))}\n" if written.get("folder") else ""
    return where + shlex.join([*start, *rest])


def text_lines(words: str) -> str:
    return "\n".join(text(line) for line in words.split("\n"))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    lines = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table class='keys'>{top}<tbody>{lines}</tbody></table></div>"
