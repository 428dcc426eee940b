"""The page around the content: one file, no network, light and dark, desk and phone."""

from mmsr.engine.bench.page.html import Html, join, tag

LIGHT = ("#2a5bd7", "#d9480f", "#2b8a3e", "#9c36b5", "#0b7285", "#c2255c", "#a17200", "#5c6370")
DARK = ("#7aa2ff", "#ff9561", "#69d07d", "#d98cf0", "#4fd0e0", "#ff85ab", "#e6c14a", "#aab2c0")
COLOURS = len(LIGHT)

# Nothing may be loaded, whatever a name contains.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --ink: #1b2230; --muted: #5b6472;
  --line: #d9dee7; --soft: #f4f6fa; LIGHT }
@media (prefers-color-scheme: dark) { :root { --back: #14171d; --ink: #e6e9ef; --muted: #9aa4b2;
  --line: #343b47; --soft: #1d222b; DARK } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } h3 { font-size: .95rem; margin: 1rem 0 .3rem }
p { margin: .4rem 0; overflow-wrap: anywhere; max-width: 46rem }
.muted, .remark, footer, .notes { color: var(--muted); font-size: .875rem }
.void { color: var(--c1); font-weight: 600 }
.tiles { display: grid; gap: .75rem; margin: 1.2rem 0 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr)) }
.tiles > div { background: var(--soft); border-radius: .5rem; padding: .6rem .8rem }
.tiles dt { font-size: .8rem; color: var(--muted) } .tiles dd { margin: 0; overflow-wrap: anywhere }
.tiles dd:not(.remark) { font-size: 1.4rem; font-weight: 600; line-height: 1.3 }
.scroll { overflow-x: auto; max-width: 100% } .scroll + .scroll { margin-top: 1rem }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .55rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
thead th { vertical-align: bottom; color: var(--muted); font-weight: 500 }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--back) }
tbody th { font-weight: 500 }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 12rem }
.charts { display: grid; gap: 1.2rem; grid-template-columns:
  repeat(auto-fill, minmax(min(100%, 20rem), 1fr)) }
figure { margin: 0; min-width: 0 } figcaption { font-size: .875rem; font-weight: 600 }
svg { display: block; width: 100%; height: auto; overflow: visible }
svg text { fill: var(--muted); font: 11px system-ui, sans-serif }
.grid { stroke: var(--line); stroke-width: 1 }
.mark { stroke: var(--ink); stroke-width: 1.2; stroke-dasharray: 3 3 }
.series { fill: none; stroke-width: 1.8; stroke-linejoin: round }
.dashed { stroke-dasharray: 6 3 } .bar { opacity: .85 }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0;
  margin: .3rem 0 .8rem; font-size: .875rem }
.part { width: 12rem; height: .8rem }
.legend svg { display: inline-block; width: 22px; height: 8px; margin-right: .4rem }
@media (max-width: 40rem) { th, td { padding: .3rem .4rem }
  .scroll tbody th:first-child { white-space: normal; min-width: 6rem; max-width: 8.5rem;
  overflow-wrap: anywhere } .facts td { min-width: 9rem } }
""".strip()


def page(title: str, subtitle: str, content: list[Html], footer: str) -> str:
    """Return the whole document."""
    head = join(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
            tag("title", title),
            tag("style", Html(_style())),
        ]
    )
    body = tag(
        "main",
        tag("header", tag("h1", title), tag("p", subtitle, class_="muted")),
        *content,
        tag("footer", tag("p", footer)),
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _style() -> str:
    light, dark = (
        " ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours))
        for colours in (LIGHT, DARK)
    )
    classes = "".join(
        f"\n.c{i} {{ stroke: var(--c{i}) }} .f{i} {{ fill: var(--c{i}) }}" for i in range(COLOURS)
    )
    return STYLE.replace("LIGHT", light).replace("DARK", dark) + classes
