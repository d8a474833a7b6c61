"""How the page of a report looks: system fonts, few colours, light and dark, and paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --paper: #fff; --quiet: #66707b; --rule: #dfe3e8; --soft: #f5f6f8;
  --good: #20744a; --good-soft: #e7f3ec; --bad: #b3261e; --bad-soft: #fbeceb; --open: #8a6100; --open-soft: #fbf3de;
  --blue: #2b5f9e; --cell: #3d7ab8; --cell-rounded: #9cc0e2; --cell-near: #1f8a80; }
@media screen and (prefers-color-scheme: dark) { :root {
  --ink: #e4e7eb; --paper: #14171a; --quiet: #98a2ad; --rule: #30363d;
  --soft: #1c2126; --good: #67c592; --good-soft: #16291f; --bad: #f28b82; --bad-soft: #341b1a; --open: #e0b64f;
  --open-soft: #2e2613; --blue: #82b1e8; --cell: #5390cf; --cell-rounded: #2f557c; --cell-near: #4fb8ad; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 56rem; margin: 0 auto; padding: 2.5rem 1.5rem 3rem; }
header { border-left: 5px solid var(--tone); background: var(--tone-soft); padding: 1.1rem 1.4rem; border-radius: 4px; }
h1 { font-size: 1.45rem; line-height: 1.3; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
header p { margin: .35rem 0 0; color: var(--quiet); }
h2 { font-size: 1.05rem; font-weight: 600; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
li { overflow-wrap: anywhere; }
.passed { --tone: var(--good); --tone-soft: var(--good-soft); }
.failed { --tone: var(--bad); --tone-soft: var(--bad-soft); }
.open { --tone: var(--open); --tone-soft: var(--open-soft); }
.badge { display: inline-block; min-width: 6.4em; padding: .05rem .5rem; border-radius: 3px; text-align: center;
  font-size: .85rem; font-weight: 600; color: var(--tone); background: var(--tone-soft); white-space: nowrap; }
.muted, figcaption, .legend { color: var(--quiet); font-size: .88rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-top: 1px solid var(--rule); }
th { font-weight: 600; white-space: nowrap; }
thead th { border-top: 0; color: var(--quiet); font-weight: 400; font-size: .88rem; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; }
.findings { color: var(--bad); font-size: .92rem; }
.sides { table-layout: fixed; } .sides th:first-child { width: 7.6rem; }
time { white-space: nowrap; }
.digest { font-size: .72rem; } .digest b { font-weight: 400; font-size: 1em; word-break: break-all; }
.weights td, .weights th { border: 0; padding-top: .12rem; padding-bottom: .12rem; vertical-align: middle; }
.weights th { font-weight: 400; }
.weights td.cells { width: 45%; }
.scroll { overflow-x: auto; }
dl { columns: 2 20rem; column-gap: 2.5rem; margin: 0; font-size: .92rem; }
dl div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid; }
h3 { font-size: .92rem; font-weight: 600; margin: .9rem 0 .2rem; padding-top: .4rem;
  border-top: 1px solid var(--rule); }
dt, dd { margin: 0; overflow-wrap: anywhere; } dd { text-align: right; }
code, .digest b { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font-size: .84rem; }
pre { margin: .4rem 0; padding: .6rem .8rem; background: var(--soft); border-radius: 4px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
figure { margin: .8rem 0 1.2rem; }
figcaption { margin-top: .4rem; max-width: 46rem; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; margin-right: .35rem;
  vertical-align: -1px; }
.key.stroke { height: 3px; vertical-align: 4px; border-radius: 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg.strip { height: 16px; }
svg text { font-size: 12px; fill: currentColor; stroke: none; }
svg text.quiet { fill: var(--quiet); }
.axis { stroke: var(--quiet); fill: none; }
.grid { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 1.5; }
path.near { stroke: var(--blue); } circle.near { fill: var(--blue); } text.near { font-weight: 600; }
circle.far { fill: var(--bad); } path.far:not(.line) { stroke: var(--bad); }
text.far { fill: var(--bad); font-weight: 600; }
path.gate { stroke: var(--bad); } circle.gate { fill: var(--bad); } .line.gate { stroke-dasharray: 6 3; }
path.noise { stroke: var(--quiet); } circle.noise { fill: var(--quiet); }
path.known { stroke: var(--open); } circle.known { fill: var(--open); }
.far-zone { fill: var(--bad-soft); } .near-zone { fill: var(--good-soft); }
rect.equal { fill: var(--cell); } rect.rounded { fill: var(--cell-rounded); } rect.near { fill: var(--cell-near); }
rect.far { fill: var(--bad-soft); stroke: var(--bad); stroke-width: .6; }
rect.missing { fill: none; stroke: var(--quiet); stroke-width: .6; }
.cross { stroke: var(--bad); stroke-width: .8; fill: none; }
.key.equal { background: var(--cell); } .key.rounded { background: var(--cell-rounded); }
.key.near { background: linear-gradient(90deg, transparent, var(--cell-near)); }
.key.far { background: var(--bad-soft); border: 1px solid var(--bad); } .key.missing { border: 1px solid var(--quiet); }
.key.difference { background: var(--blue); } .key.gate { background: var(--bad); }
.key.noise { background: var(--quiet); }
@media (max-width: 40rem) { main { padding: 1rem; } }
@media print { body { font-size: 10.5pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, tr, header { break-inside: avoid; } }
"""
