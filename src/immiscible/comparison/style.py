"""The style sheet of the report: one column of cards that fits a phone, in light and in dark."""

STYLE = """
:root {
  --ground: #f3f5f7; --card: #ffffff; --text: #1f242b; --soft: #57606b; --line: #e0e4e9;
  --good: #dff2e6; --good-text: #0d5a2f; --warn: #fff3dc; --warn-line: #d98a1f;
  --baseline: #5d6570;
  --c0: #0072b2; --c1: #d55e00; --c2: #009e73; --c3: #cc79a7; --c4: #b67d00; --c5: #3a9bd4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #0f1216; --card: #181c22; --text: #e4e8ed; --soft: #a0aab5; --line: #2f3640;
    --good: #12391f; --good-text: #9be3b5; --warn: #35280f; --warn-line: #c98a2b;
    --baseline: #a7b0bb;
    --c0: #4da3e0; --c1: #f0803c; --c2: #2cc295; --c3: #e39cc4; --c4: #e6b12e; --c5: #8fd0f5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--ground); color: var(--text); overflow-wrap: anywhere;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: clamp(1.5rem, 1.1rem + 2vw, 2.2rem); line-height: 1.2; margin: .5rem 0 .75rem; }
h2 { font-size: 1.25rem; margin: 0 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .4rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.05rem; }
.soft, caption, figcaption, small { color: var(--soft); }
section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
section { padding: 1.25rem; margin-top: 1.25rem; }
ul { margin: .25rem 0; padding-left: 1.2rem; max-width: 50rem; }
li { margin: .3rem 0; }
.note { border-left: 4px solid var(--warn-line); background: var(--warn); border-radius: .25rem; }
.note { padding: .6rem .9rem; max-width: 50rem; }
.scroll { overflow-x: auto; margin-top: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
caption { text-align: left; padding: .25rem 0 .5rem; font-size: .9rem; overflow-wrap: anywhere; }
caption b { color: var(--text); font-size: 1rem; }
caption span { display: block; position: sticky; left: 0; max-width: calc(100vw - 3.5rem); }
th, td { text-align: right; padding: .45rem .6rem; border-bottom: 1px solid var(--line); vertical-align: baseline; }
th:first-child { text-align: left; padding-left: 0; font-weight: 600; }
thead th { font-weight: 600; color: var(--soft); font-size: .9rem; vertical-align: bottom; }
tbody th, td, .spread, .formula, .name { white-space: nowrap; }
td .calls, td .seeds { display: block; }
.words td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.words th { text-align: left; vertical-align: baseline; }
.best { display: inline-block; background: var(--good); color: var(--good-text); border-radius: .35rem; }
.best { padding: .1rem .35rem; margin-right: -.35rem; }
.best small { color: inherit; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .45em; }
.swatch { background: var(--baseline); }
.c0 { background: var(--c0); } .c1 { background: var(--c1); } .c2 { background: var(--c2); }
.c3 { background: var(--c3); } .c4 { background: var(--c4); } .c5 { background: var(--c5); }
figure { margin: 0; }
figcaption { font-size: .9rem; padding-top: .3rem; }
img { display: block; max-width: 100%; height: auto; }
.panels { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.panels img { width: 100%; }
.wide img { width: 100%; max-width: 46rem; }
figcaption small { display: block; }
.grids { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(46%, 12rem), 1fr)); }
.grids img { width: 100%; image-rendering: pixelated; border-radius: .35rem; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: .5rem; }
pre { padding: .75rem 1rem; margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
code, pre { font: .9rem/1.5 ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", monospace; }
.columns { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.columns { align-items: start; }
dt { font-weight: 600; margin-top: .75rem; }
dd { margin: .1rem 0; color: var(--soft); max-width: 50rem; }
@media (max-width: 36rem) {
  main { padding: .75rem .5rem 3rem; }
  section { padding: 1rem .7rem; border-radius: .5rem; }
  th, td { padding: .4rem .25rem; font-size: .8rem; vertical-align: middle; }
  th:last-child, td:last-child { padding-right: 0; }
  thead th { font-size: .75rem; }
  td small { font-size: .7rem; font-weight: normal; }
  td .spread { display: block; }
  td, tbody th { white-space: normal; }
  .best { margin-right: 0; padding: .1rem .2rem; }
}
"""
