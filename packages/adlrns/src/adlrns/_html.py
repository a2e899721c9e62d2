"""One HTML file that needs nothing but itself."""

from collections.abc import Mapping
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --page: #fff; --line: #d8dde4; --soft: #5b6675;
  --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --page: #14181e; --line: #333b46;
  --soft: #9aa5b4; --card: #1b2129; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--page); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; }
.lead { color: var(--soft); }
.wide { overflow-x: auto; }
.wide > svg, .wide > table { min-width: 40rem; } /* a narrow window scrolls: text stays legible */
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .6rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: bottom; }
td { white-space: nowrap; }
th { font-weight: 600; color: var(--soft); }
.n { text-align: right; }
tbody tr:hover { background: var(--card); }
.notes { color: var(--soft); font-size: .84rem; padding-left: 1.1rem; }
figure { margin: 0; } figure svg { width: 100%; height: auto; max-width: 58rem; display: block; }
figure svg text { font-family: inherit; }
code { background: var(--card); padding: .1rem .3rem; border-radius: 3px; font-size: .88em; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""


def page(title: str, lead: str, parts: list[str]) -> str:
    """Returns a whole page of fragments, without scripts, fonts or links to anywhere."""
    body = "\n".join(parts)
    return (
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n<p class='lead'>{escape(lead)}</p>\n{body}\n</body>\n</html>\n"
    )


def figure(title: str, text: str, svg: str) -> str:
    """Returns a plot under its title, with what it shows in words."""
    return (
        f"<h2>{escape(title)}</h2>\n<p>{escape(text)}</p>\n"
        f"<figure><div class='wide'>{svg}</div></figure>\n"
    )


def facts(title: str, values: Mapping[str, str]) -> str:
    """Returns names and values, one a line."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in values.items())
    return f"<h2>{escape(title)}</h2>\n<dl>\n{rows}</dl>\n"


def note(text: str) -> str:
    """Returns a paragraph."""
    return f"<p class='lead'>{escape(text)}</p>\n"
