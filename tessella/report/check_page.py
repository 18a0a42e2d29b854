"""What `check` found, as one HTML file: no script, nothing loaded from anywhere, readable on a phone, light or dark.

Every name comes from somebody's disk: it is escaped, and the page forbids itself to run or load anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from ..errors import readable
from .check import ODD, SAME, Plain

Picture = tuple[str, str]  # part, id
MOST = 200  # sets, pairs and labels that the page shows of each kind; the JSON has them all
ACROSS = 8  # pictures that it shows of one set

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881;
  --error: light-dark(#b11, #f77); --warning: light-dark(#b70, #fb4); --note: light-dark(#478, #8bc); }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 72rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h1, td, li, figcaption, p { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; min-width: 34rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
.find { list-style: none; padding: 0; }
.find li { border-left: .3rem solid var(--note); padding: .2rem .6rem; margin: .3rem 0; background: var(--soft); }
.find .error { border-color: var(--error); } .find .warning { border-color: var(--warning); }
.set { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; margin: .6rem 0; }
.set p { margin: 0 0 .4rem; } .bad { color: var(--error); font-weight: 600; }
.row { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 9rem; } figcaption { font-size: .8rem; }
img { max-width: 9rem; max-height: 9rem; display: block; background: #fff; }
summary { cursor: pointer; padding: .3rem 0; }
"""


def shown(plain: Plain) -> list[Picture]:
    """The pictures that the page wants to show."""
    out = [_key(p) for same in plain["same"][:MOST] for p in same["pictures"][:ACROSS]]
    if plain["labels"] is not None:
        out += [_key(d) for d in plain["labels"]["doubtful"][:MOST]]
    for pair in (plain["near"] or [])[:MOST]:
        out += [_key(pair["first"]), _key(pair["second"])]
    return list(dict.fromkeys(out))


def page(plain: Plain, pictures: Mapping[Picture, str]) -> str:
    """`pictures`: data URIs of those that `shown` asks for; one that is missing is only named."""
    title = f"Check of {_text(plain['data'])}"
    total = sum(part["pictures"] for part in plain["parts"].values())
    model = f" with {_text(plain['model'])}" if plain["model"] else ""
    body = [
        f"<h1>{title}</h1>",
        f"<p>{total:,} pictures looked at{model} by tessella {_text(plain['tessella'])}. Nothing was changed.</p>",
        _findings(plain),
        _parts(plain),
        _unreadable(plain),
        _same(plain, pictures),
        _doubtful(plain, pictures),
        _near(plain, pictures),
        _classes(plain),
        _odd(plain),
    ]
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _findings(plain: Plain) -> str:
    lines = [f'<li class="{_text(f["level"])}">{_text(f["text"])}</li>' for f in plain["summary"]]
    return f"<ul class='find'>{''.join(lines) or '<li>Nothing to mend was found.</li>'}</ul>"


def _parts(plain: Plain) -> str:
    rows = []
    for name, part in plain["parts"].items():
        used = sum(n > 0 for n in part["classes"].values())
        sizes = [
            f"{part[s]['min']:,} / {part[s]['median']:,} / {part[s]['max']:,}" for s in ("width", "height", "bytes")
        ]
        formats = ", ".join(f"{kind} {n:,}" for kind, n in part["formats"].items())
        cells = [name, f"{part['pictures']:,}", f"{len(part['unreadable']):,}", f"{used:,}", *sizes, formats]
        rows.append(cells)
    head = ["Part", "Pictures", "Unreadable", "Classes", "Width", "Height", "Bytes", "Formats"]
    return f"<h2>Parts</h2><p>Sizes: smallest / median / largest.</p>{_table(head, rows)}"


def _unreadable(plain: Plain) -> str:
    rows = [
        [name, bad["id"], bad["holds"], bad["reason"]]
        for name, part in plain["parts"].items()
        for bad in part["unreadable"]
    ]
    return f"<h2>Unreadable</h2>{_table(['Part', 'Picture', 'Holds', 'Why'], rows)}" if rows else ""


def _same(plain: Plain, pictures: Mapping[Picture, str]) -> str:
    if not plain["same"]:
        return ""
    out = [f"<h2>Same pictures</h2>{_capped(len(plain['same']))}"]
    for same in plain["same"][:MOST]:
        marks = [f"in {' and '.join(same['parts'])}"] if same["leak"] else []
        marks += [f"labelled {' and '.join(same['classes'])}"] if same["conflict"] else []
        bad = f" <span class='bad'>{_text(', '.join(marks))}</span>" if marks else ""
        score = "" if same["score"] == 1 else f" ({same['score']:.3f})"
        figures = "".join(_figure(p, pictures) for p in same["pictures"][:ACROSS])
        more = len(same["pictures"]) - ACROSS
        told = f"<p>and {more:,} more</p>" if more > 0 else ""
        words = f"<p>{_text(SAME[same['kind']])}{score}{bad}</p>"
        out.append(f"<div class='set'>{words}<div class='row'>{figures}</div>{told}</div>")
    return "".join(out)


def _doubtful(plain: Plain, pictures: Mapping[Picture, str]) -> str:
    labels = plain["labels"]
    if labels is None or not labels["doubtful"]:
        return ""
    told = (
        f"A probe on the embeddings gives {100 * labels['agreement']:.1f} % of the pictures the label that they have, "
        "without having seen that label. Below are those where it does not, the likeliest mistakes first."
    )
    figures = "".join(
        _figure(d, pictures, f"{readable(d['class'])}; perhaps {readable(d['perhaps'])}")
        for d in labels["doubtful"][:MOST]
    )
    return f"<h2>Doubtful labels</h2><p>{told}</p>{_capped(len(labels['doubtful']))}<div class='row'>{figures}</div>"


def _near(plain: Plain, pictures: Mapping[Picture, str]) -> str:
    if not plain["near"]:
        return ""
    out = [f"<h2>Nearly the same to the model</h2>{_capped(len(plain['near']))}"]
    for pair in plain["near"][:MOST]:
        both = _figure(pair["first"], pictures) + _figure(pair["second"], pictures)
        out.append(f"<div class='set'><p>cosine {pair['cosine']:.3f}</p><div class='row'>{both}</div></div>")
    return "".join(out)


def _classes(plain: Plain) -> str:
    if not plain["classes"]:
        return ""
    rows = [
        [name, *(f"{part['classes'].get(name, 0):,}" for part in plain["parts"].values())] for name in plain["classes"]
    ]
    balance = plain["balance"]
    advice = f"{balance['why']}. " + (f"Use {balance['option']}." if balance["option"] else "Nothing needs to be done.")
    table = _table(["Class", *plain["parts"]], rows)
    return f"<h2>Classes</h2><p>{_text(advice)}</p><details><summary>{len(rows):,} classes</summary>{table}</details>"


def _odd(plain: Plain) -> str:
    out = []
    for name, part in plain["parts"].items():
        for kind, ids in part["odd"].items():
            if ids:
                items = "".join(f"<li>{_text(i)}</li>" for i in ids[:MOST])
                told = f"{_text(name)}: {len(ids):,} {_text(ODD[kind])}"
                out.append(f"<details><summary>{told}</summary>{_capped(len(ids))}<ul>{items}</ul></details>")
        if part["wrong_suffix"]:
            rows = [[bad["id"], bad["holds"]] for bad in part["wrong_suffix"][:MOST]]
            told = f"{_text(name)}: {len(part['wrong_suffix']):,} with the suffix of another format"
            out.append(f"<details><summary>{told}</summary>{_table(['Picture', 'Holds'], rows)}</details>")
    return f"<h2>Odd pictures</h2>{''.join(out)}" if out else ""


def _figure(at: Plain, pictures: Mapping[Picture, str], words: str = "") -> str:
    uri = pictures.get(_key(at), "")
    image = f'<img src="{escape(uri)}" alt="" loading="lazy">' if uri.startswith("data:image/") else ""
    label = words or (readable(at["class"]) if at["class"] is not None else "")
    told = f"{_text(at['part'])}: {_text(at['id'])}" + (f"<br>{escape(label)}" if label else "")
    return f"<figure>{image}<figcaption>{told}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>"


def _capped(n: int) -> str:
    return f"<p>The first {MOST} of {n:,}; --json has them all.</p>" if n > MOST else ""


def _text(words: str) -> str:
    return escape(readable(words))


def _key(at: Plain) -> Picture:
    return at["part"], at["id"]
