"""How an exported page looks: one column, the reader's own font, light or dark as the reader's screen is."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root {
  color-scheme: light dark;
  --page: #fbfaf8; --ink: #22211f; --faint: #6d6a65; --line: #dedad3; --card: #ffffff; --mine: #eaf1f7; --code: #f3f1ec;
  --thread: #a4343a; --trouble: #b4540a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #191817; --ink: #e6e3de; --faint: #9c978f; --line: #37342f; --card: #211f1d; --mine: #1f2a33; --code: #151413;
    --thread: #e0777c; --trouble: #e59a55;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 48rem; padding: 1.5rem 1rem 4rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: anywhere; -webkit-text-size-adjust: 100%;
}
header { border-bottom: 2px solid var(--thread); margin-bottom: 1.5rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
header p, .who span, time, figcaption, .file, .outcome, .language { color: var(--faint); font-size: .85rem; }
header p { margin: 0 0 .75rem; }
article, .summary { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem; margin: 0 0 .9rem; }
article.user { background: var(--mine); }
article.event, .summary { background: none; border-style: dashed; }
article.troubled { border-color: var(--trouble); }
article.troubled .who b { color: var(--trouble); }
.who { margin: 0 0 .35rem; display: flex; flex-wrap: wrap; gap: 0 .6rem; justify-content: space-between; }
.who b { color: var(--ink); }
.text { white-space: pre-wrap; margin: .35rem 0; }
pre {
  background: var(--code); border-radius: .4rem; padding: .6rem .75rem; margin: .5rem 0; overflow-x: auto; white-space: pre-wrap;
  font: .85rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .9em; }
pre code { font-size: inherit; }
.language { display: block; }
.left-out { color: var(--trouble); font-style: italic; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
.call { border-left: 3px solid var(--line); padding-left: .7rem; }
.call > summary { font-size: .9rem; }
.glimpse { color: var(--faint); font: .8rem ui-monospace, monospace; }
.call[open] > summary .glimpse { display: none; }
.outcome::before { content: "· "; }
.thinking { color: var(--faint); font-size: .9rem; }
figure { margin: .6rem 0; }
img { max-width: 100%; height: auto; border-radius: .4rem; display: block; }
@media print { body { max-width: none; } article { break-inside: avoid; } }
"""

PAGE_END: Final = "</main>\n</body>\n</html>\n"
