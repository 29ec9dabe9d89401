"""How a report looks: one style sheet, for screens from 360 pixels on, light and dark."""

STYLE = """
:root { color-scheme: light dark; --page: #f4f5f7; --card: #ffffff; --ink: #1b1f24;
  --quiet: #59626d; --line: #dfe3e8; --track: #e9ecf0; --accent: #2f6bd8; --soft: #dbe7fb;
  --yes: #1a7f4b; --no: #c0352b; --maybe: #94650a; --shadow: 0 1px 2px rgb(27 31 36 / 8%); }
@media (prefers-color-scheme: dark) { :root { --page: #0e1116; --card: #171b22; --ink: #e8ebef;
  --quiet: #9aa4b0; --line: #2a313b; --track: #262d36; --accent: #6ea3ff; --soft: #1d2c47;
  --yes: #4fc788; --no: #ff7b72; --maybe: #e0aa3e; --shadow: none; } }
* { box-sizing: border-box; }
html { background: var(--page); -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 1280px; padding: 28px clamp(14px, 3vw, 36px) 60px;
  color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", "Noto Sans CJK SC",
  sans-serif; }
h1 { margin: 0; font-size: clamp(22px, 3vw, 30px); line-height: 1.2; letter-spacing: -.01em;
  overflow-wrap: anywhere; }
h2 { margin: 44px 0 4px; font-size: 20px; letter-spacing: -.01em; }
h3 { margin: 26px 0 10px; font-size: 16px; }
p { margin: 0; } .quiet { color: var(--quiet); } .lead { margin: 6px 0 0; color: var(--quiet); }
.mono { font: 12.5px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
nav { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 16px 0 22px; }
a { color: var(--accent); text-underline-offset: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.box { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  box-shadow: var(--shadow); padding: 14px 16px; min-width: 0; }
.tile .name { color: var(--quiet); font-size: 13px; }
.tile .figure { font-size: 25px; line-height: 1.25; font-weight: 620; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
.tile .more { color: var(--quiet); font-size: 13px; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(270px, 100%), 1fr));
  gap: 12px; margin-top: 12px; }
figure { margin: 0; } figcaption { display: flex; justify-content: space-between; gap: 10px;
  align-items: baseline; margin-bottom: 8px; font-weight: 600; overflow-wrap: anywhere; }
figcaption span { color: var(--quiet); font-weight: 400; font-size: 13px; white-space: nowrap; }
svg { display: block; width: 100%; height: auto; } svg rect { fill: var(--accent); }
svg line { stroke: var(--line); } svg text { fill: var(--quiet); font-size: 11px; }
.wide { overflow-x: auto; margin-top: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--quiet); font-size: 13px; }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; } .number { text-align: right; white-space: nowrap; }
td:last-child, th:last-child { padding-right: 0; } .share { width: 34%; min-width: 110px; }
td.share { vertical-align: middle; padding-left: 14px; } th.share { padding-left: 14px; }
.bars { display: grid; grid-template-columns: fit-content(46%) 1fr max-content; gap: 5px 10px;
  align-items: center; font-size: 13px; }
.bars > .of { overflow-wrap: anywhere; } .bars > .value { text-align: right;
  font-variant-numeric: tabular-nums; color: var(--quiet); }
.bar { height: 8px; border-radius: 4px; background: var(--track); overflow: hidden; }
.bar i { display: block; height: 100%; border-radius: 4px; background: var(--accent); }
.yes i, i.yes { background: var(--yes); } .no i, i.no { background: var(--no); }
.maybe i, i.maybe { background: var(--maybe); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px;
  margin-top: 12px; padding: 0; list-style: none; }
.card { padding: 0; overflow: hidden; display: flex; flex-direction: column; }
.picture { background: var(--track); display: grid; place-items: center; height: 190px; }
.picture img { display: block; max-width: 100%; max-height: 190px; object-fit: contain; }
.picture p { padding: 14px; font-size: 13px; color: var(--quiet); text-align: center;
  overflow-wrap: anywhere; }
.told { padding: 12px 14px 14px; display: grid; gap: 9px; align-content: start; min-width: 0; }
.caption { font-weight: 600; overflow-wrap: anywhere; line-height: 1.35; }
.id { color: var(--quiet); overflow-wrap: anywhere; }
details { font-size: 13px; } summary { cursor: pointer; color: var(--quiet); }
details ol { margin: 6px 0 0; padding-left: 20px; overflow-wrap: anywhere; }
.chips { display: flex; flex-wrap: wrap; gap: 5px; margin: 0; padding: 0; list-style: none; }
.chips li, .badge { background: var(--soft); border-radius: 20px; padding: 1px 9px;
  font-size: 12.5px; }
.question { display: grid; gap: 5px; } .question > p { font-size: 13px; overflow-wrap: anywhere; }
.badge { background: none; border: 1px solid currentColor; padding: 0 8px; font-weight: 600; }
.badge.yes { color: var(--yes); } .badge.no, .fault { color: var(--no); }
.badge.maybe { color: var(--maybe); } .fault { font-weight: 600; }
.message { font-size: 13px; overflow-wrap: anywhere; }
footer { margin-top: 48px; color: var(--quiet); font-size: 13px; }
@media (max-width: 560px) { .share { display: none; } th, td { padding-right: 10px; }
  .sheet { grid-template-columns: 1fr; }
  .card { display: grid; grid-template-columns: 116px 1fr; } .picture { height: auto;
  background: none; place-items: start; padding: 14px 0 0 14px; }
  .picture img { max-height: 160px; border-radius: 8px; } .picture p { padding: 0; }
  .tiles { grid-template-columns: 1fr 1fr; } .tile .figure { font-size: 21px; } }
@media print { html { background: none; } .box { break-inside: avoid; } nav { display: none; } }
"""
