"""What `check` found, in words: the few lines that matter, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import readable

Plain = dict[str, Any]

NAMED = 5  # examples of a finding in the terminal; the JSON has them all
ODD = {  # kinds of pictures, and what training makes of them
    "rotated": "stored rotated (EXIF); they are turned upright",
    "deep": "with more than 8 bits; the high byte counts unless the model asks for more",
    "float": "of floats, signed or 32-bit numbers; they need preprocess.limits",
    "grey": "grey; a colour model gets three equal channels",
    "inks": "in CMYK; colour profiles are ignored",
    "alpha": "with transparency; they are laid on white",
    "channels": "with another number of channels than 1 or 3; set preprocess.channels",
    "frames": "with several frames or pages; the first counts",
    "tiny": "below 16 pixels on the shorter side",
    "long": "more than 8 times as long as wide",
    "plain": "of one colour, or nearly; they were not compared with others",
}
WARNED = ("float", "channels", "tiny", "long", "plain")
SAME = {
    "file": "one file under several names",
    "bytes": "the same bytes",
    "pixels": "the same pixels in other bytes",
    "photograph": "the same photograph, resized, trimmed or saved again",
    "mirrored": "the same photograph, mirrored",
}


def summary(plain: Plain) -> list[Plain]:
    """Findings as {level, what, count, text}, gravest first; `what` is a stable word, `text` is for people."""
    out: list[Plain] = []

    def add(level: str, what: str, count: int, words: str) -> None:
        if count:
            out.append({"level": level, "what": what, "count": count, "text": words})

    for name, part in plain["parts"].items():
        n = len(part["unreadable"])
        add("error", "unreadable", n, f"{name}: {n:,} of {part['pictures']:,} pictures cannot be read")
    for both in plain["shared"]:
        n = both["pictures"]
        told = f"{n:,} of {both['of']:,} {both['part']} pictures are in {both['with']} as well"
        add("error", "leak", n, f"{told}: figures measured on them flatter")
    n = sum(same["conflict"] for same in plain["same"])
    add("error", "conflict", n, f"{n:,} sets of same pictures have different labels")
    n = sum(len(same["pictures"]) - len(same["parts"]) for same in plain["same"])
    add("warning", "duplicates", n, f"{n:,} pictures are there again within their part")
    for name, part in plain["parts"].items():
        n, labelled = len(part["missing"]), part["unlabelled"] < part["pictures"]
        told = f"{name}: no picture of {n:,} classes ({_some(part['missing'])})"
        add("warning", "missing", n if labelled else 0, told)
        add("warning", "suffix", len(part["wrong_suffix"]), f"{name}: {len(part['wrong_suffix']):,} wrong suffixes")
        for kind in (
            "float",
            "channels",
            "tiny",
            "long",
            "plain",
            "rotated",
            "deep",
            "inks",
            "alpha",
            "frames",
            "grey",
        ):
            level = "warning" if kind in ("float", "channels", "tiny", "long", "plain") else "note"
            n = len(part["odd"][kind])
            add(level, kind, n, f"{name}: {n:,} pictures {ODD[kind]}")
    balance = plain["balance"]
    if balance["remedy"] != "nothing":
        add("warning", "imbalance", 1, f"{balance['part']}: {balance['why']}; use {balance['option']}")
    if plain["labels"] is not None:
        n = len(plain["labels"]["doubtful"])
        add("warning", "labels", n, f"{n:,} labels that the model's embeddings contradict; the first are the likeliest")
    add(
        "note",
        "near",
        len(plain["near"] or []),
        f"{len(plain['near'] or []):,} pairs that the model sees as nearly one",
    )
    for note in plain["notes"]:
        add("note", "note", 1, note)
    return sorted(out, key=lambda found: ("error", "warning", "note").index(found["level"]))


def text(plain: Plain) -> str:
    """For the terminal."""
    lines = [_table(plain), ""]
    for found in plain["summary"]:
        lines.append(f"{found['level']:<8} {readable(found['text'])}")
        lines += [f"           {example}" for example in _examples(plain, found)]
    if not any(found["level"] != "note" for found in plain["summary"]):
        lines.append("nothing to mend was found")
    balance = plain["balance"]
    if balance["remedy"] == "nothing" and balance["ratio"] > 1:
        lines.append(f"balance  {readable(balance['why'])}: nothing needs to be done")
    lines.append(
        f"{sum(p['pictures'] for p in plain['parts'].values()):,} pictures looked at in {plain['seconds']:g} s"
    )
    return "\n".join(lines)


def _table(plain: Plain) -> str:
    rows = [["part", "pictures", "unreadable", "classes", "width", "height", "formats"]]
    for name, part in plain["parts"].items():
        classes = sum(n > 0 for n in part["classes"].values())
        sizes = ["{min}-{median}-{max}".format(**part[side]) for side in ("width", "height")]
        formats = ", ".join(f"{kind} {n:,}" for kind, n in part["formats"].items())
        counts = f"{part['pictures']:,}", f"{len(part['unreadable']):,}", f"{classes:,}"
        rows.append([readable(name), *counts, *sizes, formats])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    told = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([told[0], "  ".join("-" * w for w in widths), *told[1:]])


def _examples(plain: Plain, found: Plain) -> list[str]:
    """The first few pictures that a finding is about."""
    out: list[str] = []
    part = plain["parts"].get(str(found["text"]).partition(":")[0])
    match found["what"]:
        case "unreadable" if part:
            out = [_reason(bad) for bad in part["unreadable"]]
        case "suffix" if part:
            out = [f"{bad['id']} holds {bad['holds']}" for bad in part["wrong_suffix"]]
        case "leak":
            out = [_set(same) for same in plain["same"] if same["leak"]]
        case "conflict":
            out = [_set(same) for same in plain["same"] if same["conflict"]]
        case "duplicates":
            out = [_set(same) for same in plain["same"] if len(same["pictures"]) > len(same["parts"])]
        case "labels":
            out = [f"{d['id']}: {d['class']}, perhaps {d['perhaps']}" for d in plain["labels"]["doubtful"]]
        case what if part and what in WARNED:
            out = part["odd"][found["what"]]
    more = [f"... and {len(out) - NAMED:,} more (--json has them all)"] if len(out) > NAMED else []
    return [readable(line) for line in out[:NAMED]] + more


def _reason(bad: Plain) -> str:
    return bad["reason"] if bad["id"] in bad["reason"] else f"{bad['id']}: {bad['reason']}"


def _set(same: Plain) -> str:
    names = " = ".join(f"{p['id']}" for p in same["pictures"][:3])
    more = f" and {len(same['pictures']) - 3:,} more" if len(same["pictures"]) > 3 else ""
    labels = f" [{' / '.join(same['classes'])}]" if same["conflict"] else ""
    return f"{names}{more}{labels} ({SAME[same['kind']]})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
