//! The report as one page: style, script and plots inside, no request to anywhere.

use std::fmt::Write;

use crate::contents::{Chapter, Contents, TIMES_BEGIN, TIMES_END};
use crate::figures::Figure;
use crate::svg::{STYLE, classes};
use crate::text::escape_html;

/// The page's own style; colours are those of the plots.
const PAGE: &str = "\
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}\n\
h1{font-size:1.5rem;margin:.2em 0 .6em}h2{font-size:1.25rem;margin:2.2em 0 .6em;border-bottom:1px solid var(--faint);padding-bottom:.2em}h3{font-size:1rem;margin:1.6em 0 .4em}\n\
.notes{font-size:.85rem;margin:0;padding-left:1.1em}.reading{max-width:75ch}.reading li{margin:.35em 0}\n\
nav{margin:.8em 0}nav a{margin-right:1em}a{color:var(--c0)}code{font-size:.9em}\n\
.wide{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.85rem;line-height:1.35}caption{caption-side:bottom;text-align:left;font-size:.8rem;padding-top:.5em}caption span{display:inline-block;position:sticky;left:0;max-width:min(100%,calc(100vw - 2rem))}\n\
th,td{padding:.32em .7em;text-align:left;vertical-align:top;border-bottom:1px solid var(--faint);white-space:nowrap}.w{white-space:normal;min-width:26ch}th{border-bottom-color:var(--ink);font-weight:600}.n{text-align:right;font-variant-numeric:tabular-nums}\n\
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,430px),1fr));gap:1.6rem 2rem}.figures+.figures{margin-top:1.6rem}.small.figures{grid-template-columns:repeat(auto-fill,minmax(min(100%,270px),1fr))}figure{margin:0;break-inside:avoid}figcaption{font-size:.82rem;line-height:1.4;margin-top:.4em}figcaption b{display:block}\n\
.tip{display:block;min-height:1.3em;font-size:.8rem;margin-top:.3em;color:var(--c0)}[data-tip]{cursor:pointer}[data-tip]:focus-visible{outline:2px solid var(--c0)}\n\
.keys{display:flex;flex-wrap:wrap;gap:.3rem .5rem;margin:1em 0;padding:0;position:sticky;top:0;background:var(--paper);padding:.4rem 0;z-index:1;max-height:30vh;overflow-y:auto}\
.keys button{font:inherit;font-size:.8rem;color:var(--ink);background:none;border:1px solid var(--faint);border-radius:4px;padding:.15em .5em;display:flex;align-items:center;gap:.45em;cursor:pointer}\
.keys svg{width:22px;height:8px;flex:none}.keys button[aria-pressed=true]{border-color:var(--c);box-shadow:0 0 0 1px var(--c)}.keys .line{fill:none;stroke:var(--c);stroke-width:3}\n\
.chosen [data-s]:not(.on){opacity:.12}\n\
@media print{body{max-width:none;font-size:11pt}.keys{position:static;max-height:none}.tip{display:none}.wide{overflow:visible}table{font-size:7.5pt}.figures{grid-template-columns:1fr 1fr}section~section{break-before:page}.chosen [data-s]:not(.on){opacity:1}}\n";

/// Shows what a mark is under its figure, and one group alone when its key is pressed.
const SCRIPT: &str = "\
const show=e=>{const f=e.target.closest('figure');if(!f)return;const m=e.target.closest('[data-tip]');\
const t=f.querySelector('.tip');if(t&&(m||e.type==='click'))t.textContent=m?m.dataset.tip:''};\
for(const kind of['click','mouseover','focusin'])document.addEventListener(kind,show);\
for(const key of document.querySelectorAll('.keys button'))key.addEventListener('click',()=>{\
const part=key.closest('section');const on=key.getAttribute('aria-pressed')!=='true';key.setAttribute('aria-pressed',on);\
const chosen=new Set([...part.querySelectorAll('.keys [aria-pressed=true]')].map(k=>k.dataset.key));\
part.classList.toggle('chosen',chosen.size>0);\
for(const mark of part.querySelectorAll('[data-s]'))mark.classList.toggle('on',chosen.has(mark.dataset.s))});";

/// The whole page.
pub(crate) fn page(contents: &Contents) -> String {
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';script-src 'unsafe-inline';img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{0}</title>\n<style>\n{STYLE}{PAGE}</style>\n</head>\n<body>\n<h1>{0}</h1>\n<ul class=\"notes\">\n",
        escape_html(&contents.title)
    );
    for note in &contents.notes {
        let _ = writeln!(text, "<li>{}</li>", inline(note));
    }
    text.push_str("</ul>\n<nav>");
    for chapter in &contents.chapters {
        let _ = write!(
            text,
            "<a href=\"#{}\">{}</a>",
            chapter.id,
            escape_html(&chapter.title)
        );
    }
    text.push_str("<a href=\"#runs\">Runs</a><a href=\"#times\">Times</a></nav>\n");
    for chapter in &contents.chapters {
        text.push_str(&section(chapter));
    }
    let _ = write!(
        text,
        "<section id=\"runs\"><h2>Runs</h2>\n{}</section>\n{TIMES_BEGIN}\n<section id=\"times\"><h2>Times</h2>\n{}</section>\n{TIMES_END}\n<script>{SCRIPT}</script>\n</body>\n</html>\n",
        contents.runs.1.html(&contents.runs.0),
        contents.times.1.html(&contents.times.0)
    );
    text
}

fn section(chapter: &Chapter) -> String {
    let mut text = format!(
        "<section id=\"{}\"><h2>{}</h2>\n<h3>What the numbers say</h3>\n<ul class=\"reading\">\n",
        chapter.id,
        escape_html(&chapter.title)
    );
    for sentence in &chapter.reading {
        let _ = writeln!(text, "<li>{}</li>", inline(sentence));
    }
    text.push_str("</ul>\n");
    for (caption, table) in &chapter.tables {
        text.push_str(&table.html(caption));
    }
    text.push_str("<h3>Figures</h3>\n<div class=\"keys\" role=\"group\" aria-label=\"Groups; press to show them alone\">");
    for (index, label) in chapter.groups.iter().enumerate() {
        let _ = write!(
            text,
            "<button type=\"button\" class=\"{}\" data-key=\"{index}\" aria-pressed=\"false\"><svg viewBox=\"0 0 22 8\" aria-hidden=\"true\"><path class=\"line\" d=\"M0 4H22\"/></svg>{}</button>",
            classes(index),
            escape_html(label)
        );
    }
    text.push_str("</div>\n");
    for (small, class) in [(false, "figures"), (true, "figures small")] {
        let _ = writeln!(text, "<div class=\"{class}\">");
        let drawn = chapter.figures.drawn.iter();
        text.extend(
            drawn
                .filter(|figure| figure.small == small)
                .map(|figure| element(chapter, figure)),
        );
        text.push_str("</div>\n");
    }
    for sentence in &chapter.figures.missing {
        let _ = writeln!(text, "<p>{}</p>", inline(sentence));
    }
    text + "</section>\n"
}

fn element(chapter: &Chapter, figure: &Figure) -> String {
    format!(
        "<figure id=\"{}-{}\">{}<figcaption><b>{}</b>{}</figcaption><output class=\"tip\"></output></figure>\n",
        chapter.id,
        figure.id,
        figure.plot.element(),
        escape_html(&figure.title),
        inline(&figure.caption)
    )
}

/// Text with `code` in backticks.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate();
    parts
        .map(|(index, part)| match index % 2 {
            0 => escape_html(part),
            _ => format!("<code>{}</code>", escape_html(part)),
        })
        .collect()
}
