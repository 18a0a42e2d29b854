"""How the report of a run looks: one column of calm type, one accent, light, dark and on paper."""

STYLE = """
:root { color-scheme: light dark;
  --paper: light-dark(#fcfbf9, #151517); --ink: light-dark(#1f1d1a, #eae8e4); --soft: light-dark(#6d6861, #a09b93);
  --line: light-dark(#e5e1da, #2f2e32); --wash: light-dark(#f4f1ec, #1f1f23); --accent: light-dark(#b5451f, #f08a60); }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: clamp(1.2rem, 4vw, 3.5rem) clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 70rem;
  background: var(--paper); color: var(--ink); font: 16px/1.6 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; }
h1, h3, h4, p, li, pre, dd, figcaption, summary, footer, .brand span { overflow-wrap: anywhere; min-width: 0; }
h1 { font-size: clamp(1.5rem, 4.5vw, 2.3rem); line-height: 1.2; font-weight: 600; letter-spacing: -.02em;
  margin: .4rem 0 0; text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.3; font-weight: 600; letter-spacing: -.01em; margin: 0 0 .4rem; }
h3 { font-size: 1.05rem; font-weight: 600; margin: 1.8rem 0 .5rem; }
h4 { font-size: .9rem; font-weight: 600; margin: 1.6rem 0 .5rem; } .verdict code { white-space: nowrap; }
p { margin: 0 0 .8rem; max-width: 44rem; text-wrap: pretty; }
section { padding: 2.6rem 0 .4rem; margin-top: 2.6rem; border-top: 1px solid var(--line); }
.quiet, figcaption, .note { color: var(--soft); } .quiet, .note { font-size: .9rem; }
a { color: inherit; text-decoration-color: var(--accent); text-underline-offset: .2em; }
b, strong { font-weight: 600; }
code, pre { font: .86em/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { background: var(--wash); padding: .9rem 1.1rem; border-radius: .5rem; white-space: pre-wrap; margin: 0 0 1rem; }
.brand { display: flex; align-items: center; gap: .6rem; color: var(--soft); font-size: .9rem; }
.brand svg { width: 1.5rem; height: 1.5rem; flex: none; }
.lead { display: flex; flex-wrap: wrap; gap: 1.4rem 3.5rem; align-items: end; margin: 2rem 0 0; }
.verdict { font-size: 1.1rem; flex: 1 1 22rem; max-width: 34rem; margin: 0; }
.big { display: flex; flex-wrap: wrap; gap: 1.2rem 3rem; } .big div { max-width: 19rem; }
.big strong { display: block; font-size: clamp(2.6rem, 10vw, 4rem); line-height: 1.05;
  font-weight: 600; letter-spacing: -.04em; color: var(--accent); }
.big small { font-size: .5em; letter-spacing: 0; font-weight: 500; margin-left: .1em; }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem 1.6rem;
  margin: 2rem 0 0; padding: 0; }
.facts dt { color: var(--soft); font-size: .85rem; } .facts dd { margin: 0; font-weight: 600; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: 2.2rem 0 0; font-size: .9rem; }
nav a { text-decoration: none; color: var(--soft); } nav a:hover { color: var(--accent); }
.small { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17.5rem, 100%), 1fr)); gap: 1.8rem 2.2rem; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.6rem 3rem;
  align-items: start; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
figcaption { font-size: .85rem; line-height: 1.45; }
.panel > figcaption { color: var(--ink); font-weight: 600; margin: 0 0 .3rem; }
.panel figcaption span { color: var(--soft); font-weight: 400; margin-left: .7em; white-space: nowrap; }
.panel figcaption i { display: inline-block; width: .9em; height: .18em; vertical-align: .25em; margin-right: .35em;
  background: var(--soft); border-radius: 1px; } figcaption i.accent { background: var(--accent); }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font: 10.5px system-ui, sans-serif; fill: var(--soft); font-variant-numeric: tabular-nums; }
svg .ink { fill: var(--ink); } svg .said { fill: var(--accent); font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; } svg path { fill: none; stroke-linejoin: round; }
svg .raw { stroke: var(--soft); stroke-width: 1; opacity: .35; } svg .line { stroke: var(--soft); stroke-width: 1.6; }
svg .accent { stroke: var(--accent); stroke-width: 2.2; } svg .dot { fill: var(--accent); }
svg .fill { fill: var(--accent); } svg .calm { fill: var(--ink); } svg .even { stroke: var(--soft);
  stroke-dasharray: 3 4; stroke-width: 1; }
.tiles { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 1.4rem 1rem; margin: 1rem 0 0; }
.tiles.few { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1.4rem 1.6rem; }
.tiles.wide img { aspect-ratio: auto; image-rendering: auto; }
.tiles img, .tile img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: var(--wash);
  border-radius: .35rem; } img.sharp { image-rendering: pixelated; }
.tiles .none { display: grid; place-items: center; aspect-ratio: 1; background: var(--wash); border-radius: .35rem;
  font-size: .8rem; color: var(--soft); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .3rem; }
.tiles figcaption { margin-top: .4rem; font-size: .8rem; color: var(--ink); }
.say { display: flex; justify-content: space-between; gap: .5em; } .say + .say { color: var(--soft); }
.say > * { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; min-width: 0; } .say > .n { flex: none; }
.bar { display: block; margin: .12rem 0 .3rem; } .bar svg { height: 3px; border-radius: 2px; }
.file { color: var(--soft); font-size: .72rem; display: block; overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; }
.wide { overflow-x: auto; margin: 0 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 500; color: var(--soft); font-size: .8rem; vertical-align: bottom; }
th, td { padding: .38rem 1rem .38rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:last-child, td:last-child { padding-right: 0; }
.n { text-align: right; white-space: nowrap; } td.meter { min-width: 6rem; vertical-align: middle; }
td.meter svg { height: .45rem; }
td.name { min-width: 7rem; overflow-wrap: anywhere; } td:first-child { min-width: 6rem; }
.keys td { overflow-wrap: anywhere; min-width: 7rem; } .keys td:first-child { color: var(--soft); width: 28%; }
.square svg { max-width: 24rem; } .matrix svg { width: auto; max-width: 100%; } .matrix.many svg { max-width: none; }
.classes td { vertical-align: middle; } td.taken { min-width: 11rem; } .pairs td.name { min-width: 9rem; }
img.map { display: block; width: 100%; max-width: 24rem; image-rendering: pixelated; }
details { margin: .6rem 0 1rem; } summary { cursor: pointer; color: var(--soft); font-size: .9rem; padding: .3rem 0; }
summary:hover { color: var(--accent); }
footer { margin-top: 4rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 52rem) { .tiles { grid-template-columns: repeat(4, minmax(0, 1fr)); }
  .tiles.few { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
@media (max-width: 36rem) { .tiles { grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 1.1rem .7rem; }
  .tiles figcaption { font-size: .72rem; } .tiles .file { display: none; }
  .tiles.few { grid-template-columns: 1fr 1fr; gap: 1.1rem .8rem; } .tiles.few .two { gap: 2px; }
  dl.facts { grid-template-columns: 1fr 1fr; } section { padding-top: 2rem; margin-top: 1.8rem; }
  table { font-size: .85rem; } th, td { padding-right: .7rem; } td.meter { min-width: 3.5rem; }
  .classes .meter { display: none; } }
@media print { :root { color-scheme: light; --paper: #fff; } @page { margin: 14mm; }
  body { font-size: 9.5pt; padding: 0; max-width: none; } nav { display: none; }
  section { margin-top: 1.2rem; padding-top: 1.2rem; } h2, h3, .lead { break-after: avoid; } tr { break-inside: avoid; }
  .wide { overflow: visible; } .tiles { grid-template-columns: repeat(6, minmax(0, 1fr)); gap: .8rem .6rem; }
  .tiles.few { grid-template-columns: repeat(3, minmax(0, 1fr)); } .tiles figcaption { font-size: 7pt; }
  .tiles .file { font-size: 6pt; }
  .small { grid-template-columns: repeat(3, 1fr); gap: 1rem; } .pair { grid-template-columns: 1fr 1fr; }
  .big strong { font-size: 34pt; } th, td { padding-top: .15rem; padding-bottom: .15rem; } }
"""
