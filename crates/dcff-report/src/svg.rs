//! Plots as SVG: axes, lines with bands, marks with deviations, bars and maps of cells.
//!
//! A plot takes its colours from CSS variables (`--c0` to `--c7`, `--ink`, `--faint`), so the page around it decides
//! whether it is light, dark or printed; [`Plot::standalone`] brings a style of its own. A mark carries its text in
//! `data-tip` for a page to show, and in `<title>` for every viewer.

use std::fmt::Write;

use crate::cells::Cells;
use crate::table::{count, fixed};
use crate::text::escape_html;

/// Width of every plot, in its own units; about that of a phone, so that letters stay readable there.
const WIDTH: f64 = 420.0;
/// Height of the plots with two axes.
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 42.0;

/// The colours of the plots, light and dark: Okabe and Ito's, which readers with colour-blindness can tell apart
/// (<https://jfly.uni-koeln.de/color/>), lightened where they would vanish on black.
pub const STYLE: &str = "\
:root{--ink:#1b1f24;--faint:#c9ced6;--paper:#fff;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b0568f;--c4:#b07d00;--c5:#3a97cf;--c6:#6b6b6b;--c7:#8c510a}\n\
@media (prefers-color-scheme:dark){:root{--ink:#e4e7eb;--faint:#3d444d;--paper:#14171a;--c0:#56b4e9;--c1:#ff8d47;--c2:#2fcf9f;--c3:#e08cc0;--c4:#f0c040;--c5:#8fd0ff;--c6:#b0b0b0;--c7:#d9a05b}}\n\
@media print{:root{--ink:#000;--faint:#bbb;--paper:#fff;--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b0568f;--c4:#b07d00;--c5:#3a97cf;--c6:#6b6b6b;--c7:#8c510a}}\n\
svg.plot{font:12px system-ui,sans-serif;width:100%;height:auto;display:block}svg.plot text{fill:var(--ink)}\
svg.plot .axis{stroke:var(--ink);fill:none}svg.plot .grid{stroke:var(--faint);stroke-width:.6;fill:none}\
svg.plot .line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round}svg.plot .hit{fill:none;stroke:transparent;stroke-width:12}\
svg.plot .band{fill:var(--c);opacity:.16;stroke:none}svg.plot .dot{fill:var(--c);stroke:var(--paper);stroke-width:.8}svg.plot .run{fill:none;stroke:var(--c);stroke-width:1.1}\
svg.plot .err{stroke:var(--c);stroke-width:1.4}svg.plot .bar{fill:var(--c)}svg.plot .all{fill:var(--faint)}svg.plot .cell{fill:none;stroke:var(--c0)}\
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}\
.d1 .line{stroke-dasharray:7 3}.d2 .line{stroke-dasharray:2 3}\n";

/// How many colours there are; further series repeat them with dashes.
const COLOURS: usize = 8;

/// The classes of the series number `index`: a colour, and dashes from the ninth on.
pub fn classes(index: usize) -> String {
    match index / COLOURS {
        0 => format!("c{}", index % COLOURS),
        dash => format!("c{} d{}", index % COLOURS, 1 + (dash - 1) % 2),
    }
}

/// An axis: its name and how its numbers are placed and written.
#[derive(Clone, Copy, Debug)]
pub struct Axis<'a> {
    /// What it shows, with its unit.
    pub name: &'a str,
    /// Whether equal factors are equally far apart.
    pub logarithmic: bool,
    /// Whether numbers are written as `72.35 M`.
    pub counts: bool,
}

impl<'a> Axis<'a> {
    /// An axis of plain numbers.
    pub fn new(name: &'a str) -> Self {
        Self {
            name,
            logarithmic: false,
            counts: false,
        }
    }
}

/// A line, where known with a band around it.
#[derive(Clone, Debug)]
pub struct Series {
    /// The colour's number.
    pub index: usize,
    /// What it is.
    pub tip: String,
    /// `(x, y)`; what is not finite leaves a gap.
    pub points: Vec<(f64, f64)>,
    /// `(x, low, high)`.
    pub band: Vec<(f64, f64, f64)>,
}

/// A mark at a point.
#[derive(Clone, Debug)]
pub struct Mark {
    /// The colour's number.
    pub index: usize,
    /// What it is.
    pub tip: String,
    /// Where.
    pub x: f64,
    /// Where.
    pub y: f64,
    /// Half the height of its bar of deviation.
    pub deviation: Option<f64>,
    /// A small ring for a run instead of a disc for a mean.
    pub small: bool,
    /// How far aside it is drawn, so that marks with the same `x` do not hide each other.
    pub aside: f64,
}

/// A finished plot.
#[derive(Clone, Debug)]
pub struct Plot {
    body: String,
    width: f64,
    height: f64,
    name: String,
}

impl Plot {
    /// The element for a page that has [`STYLE`].
    pub fn element(&self) -> String {
        format!(
            "<svg class=\"plot\" role=\"img\" aria-label=\"{}\" viewBox=\"0 0 {} {}\">\n{}</svg>\n",
            escape_html(&self.name),
            round(self.width),
            round(self.height),
            self.body
        )
    }

    /// A file of its own.
    pub fn standalone(&self) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\">\n<title>{2}</title>\n<style>\n{STYLE}svg{{background:var(--paper)}}</style>\n{3}</svg>\n",
            round(self.width),
            round(self.height),
            escape_html(&self.name),
            self.body
        )
    }
}

/// Lines over a common axis.
pub fn lines(name: &str, x: Axis<'_>, y: Axis<'_>, series: &[Series]) -> Plot {
    let xs = series.iter().flat_map(|s| s.points.iter().map(|p| p.0));
    let ys = series.iter().flat_map(|s| {
        let band = s.band.iter().flat_map(|b| [b.1, b.2]);
        s.points.iter().map(|p| p.1).chain(band)
    });
    let frame = Frame::new(Scale::of(x, xs, 0.0), Scale::of(y, ys, 0.04));
    let mut body = frame.axes(x, y);
    for s in series {
        let at = |&(x, y): &(f64, f64)| (frame.x(x), frame.y(y));
        let _ = write!(
            body,
            "<g class=\"{}\" {}>",
            classes(s.index),
            tip(s.index, &s.tip)
        );
        if s.band.len() > 1 {
            let up = s.band.iter().map(|&(x, _, high)| at(&(x, high)));
            let down = s.band.iter().rev().map(|&(x, low, _)| at(&(x, low)));
            let _ = write!(
                body,
                "<path class=\"band\" d=\"{}Z\"/>",
                path(up.chain(down))
            );
        }
        let d = path(s.points.iter().map(at));
        let _ = write!(
            body,
            "<path class=\"hit\" d=\"{d}\"/><path class=\"line\" d=\"{d}\"/>"
        );
        if let [point] = s.points.as_slice() {
            let (x, y) = at(point);
            let _ = write!(
                body,
                "<circle class=\"dot\" cx=\"{}\" cy=\"{}\" r=\"3\"/>",
                round(x),
                round(y)
            );
        }
        let _ = writeln!(body, "{}</g>", title(&s.tip));
    }
    frame.plot(name, body)
}

/// Marks in a plane.
pub fn marks(name: &str, x: Axis<'_>, y: Axis<'_>, marks: &[Mark]) -> Plot {
    let ys = marks.iter().flat_map(|m| {
        let d = m.deviation.unwrap_or(0.0);
        [m.y - d, m.y + d]
    });
    let frame = Frame::new(
        Scale::of(x, marks.iter().map(|m| m.x), 0.12),
        Scale::of(y, ys, 0.06),
    );
    let mut body = frame.axes(x, y);
    for m in marks {
        let (cx, cy) = (round(frame.x(m.x) + m.aside), round(frame.y(m.y)));
        let _ = write!(
            body,
            "<g class=\"{}\" tabindex=\"0\" {}>",
            classes(m.index),
            tip(m.index, &m.tip)
        );
        if let Some(d) = m.deviation.filter(|_| !m.small) {
            let (low, high) = (round(frame.y(m.y - d)), round(frame.y(m.y + d)));
            let _ = write!(body, "<path class=\"err\" d=\"M{cx} {low}V{high}\"/>");
        }
        let (class, radius) = if m.small { ("run", 3.0) } else { ("dot", 5.0) };
        // Where colours repeat, corners tell the mark apart.
        let corner = if (m.index / COLOURS).is_multiple_of(2) {
            radius
        } else {
            0.0
        };
        let _ = writeln!(
            body,
            "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" rx=\"{corner}\"/><circle class=\"hit\" cx=\"{cx}\" cy=\"{cy}\" r=\"4\"/>{}</g>",
            round(cx - radius),
            round(cy - radius),
            title(&m.tip),
            side = 2.0 * radius
        );
    }
    frame.plot(name, body)
}

/// Horizontal bars `(label, value, of)`: a part of a whole each.
pub fn bars(name: &str, index: usize, bars: &[(String, u64, u64)]) -> Plot {
    let (row, left, right) = (16.0, 132.0, 62.0);
    let height = row * bars.len() as f64 + 8.0;
    let largest = bars.iter().map(|bar| bar.2).max().unwrap_or(1).max(1) as f64;
    let length = |n: u64| round(n as f64 / largest * (WIDTH - left - right));
    let mut body = String::new();
    for (i, (label, value, of)) in bars.iter().enumerate() {
        let y = 4.0 + row * i as f64;
        let text = format!("{label}: {value} of {of}");
        let _ = writeln!(
            body,
            "<g class=\"{}\" {}><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text><rect class=\"all\" x=\"{left}\" y=\"{}\" width=\"{}\" height=\"11\"/><rect class=\"bar\" x=\"{left}\" y=\"{}\" width=\"{}\" height=\"11\"/><text x=\"{}\" y=\"{}\">{value}/{of}</text>{}</g>",
            classes(index),
            tip(index, &text),
            left - 6.0,
            round(y + 10.5),
            escape_html(&shortened(label, 19)),
            round(y + 1.0),
            length(*of),
            round(y + 1.0),
            length(*value),
            round(left + length(*of) + 5.0),
            round(y + 10.5),
            title(&text)
        );
    }
    Plot {
        body,
        width: WIDTH,
        height,
        name: name.to_owned(),
    }
}

/// A map of cells, the first row on top; darker is more. `rows` and `columns` name the axes.
pub fn map(name: &str, rows: &str, columns: &str, row_labels: &[String], cells: &Cells) -> Plot {
    let left = if row_labels.is_empty() { 34.0 } else { 120.0 };
    let (across, down) = (cells.columns().max(1) as f64, cells.rows().max(1) as f64);
    let width = WIDTH - left - RIGHT;
    // Cells as high as they are wide, within reason.
    let height = (width * down / across).clamp(f64::min(14.0 * down, 120.0), 320.0);
    let mut body = format!(
        "<rect class=\"axis\" x=\"{left}\" y=\"{TOP}\" width=\"{}\" height=\"{}\"/>\n<g transform=\"translate({left} {TOP}) scale({} {})\" shape-rendering=\"crispEdges\">\n{}</g>\n",
        round(width),
        round(height),
        width / across,
        height / down,
        cells.paths()
    );
    let base = TOP + height;
    for (i, label) in row_labels.iter().enumerate() {
        let every = (row_labels.len() as f64 * 12.0 / height).ceil().max(1.0) as usize;
        if i % every == 0 {
            let _ = writeln!(
                body,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" font-size=\"10\">{}</text>",
                left - 5.0,
                round(TOP + (i as f64 + 0.5) * height / down + 3.5),
                escape_html(&shortened(label, 18))
            );
        }
    }
    let _ = writeln!(
        body,
        "<text x=\"{left}\" y=\"{0}\">1</text><text x=\"{1}\" y=\"{0}\" text-anchor=\"end\">{across}</text><text x=\"{2}\" y=\"{0}\" text-anchor=\"middle\">{3}</text>",
        round(base + 15.0),
        WIDTH - RIGHT,
        round(left + width / 2.0),
        escape_html(columns)
    );
    if row_labels.is_empty() {
        let _ = writeln!(
            body,
            "<text x=\"{0}\" y=\"{1}\" text-anchor=\"end\">1</text><text x=\"{0}\" y=\"{2}\" text-anchor=\"end\">{down}</text>",
            left - 4.0,
            round(TOP + 10.0),
            round(base)
        );
    }
    let middle = round(TOP + height / 2.0);
    let _ = writeln!(
        body,
        "<text transform=\"translate(11 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape_html(rows)
    );
    Plot {
        body,
        width: WIDTH,
        height: base + 22.0,
        name: name.to_owned(),
    }
}

/// Numbers to places along an axis.
struct Scale {
    low: f64,
    high: f64,
    logarithmic: bool,
    ticks: Vec<f64>,
}

impl Scale {
    /// A scale that shows all of `values`, with a margin in shares of their range.
    fn of(axis: Axis<'_>, values: impl Iterator<Item = f64>, margin: f64) -> Self {
        let logarithmic = axis.logarithmic;
        let on = |v: f64| if logarithmic { v.max(1e-12).log10() } else { v };
        let (mut low, mut high) = values
            .filter(|v| v.is_finite())
            .map(on)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        if high - low < 1e-9 * high.abs().max(1e-3) {
            let room = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low, high) = (low - room, high + room);
        }
        let pad = margin * (high - low);
        (low, high) = (low - pad, high + pad);
        let step = nice_step((high - low) / 5.0, logarithmic);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let ticks = (first..=last).map(|k| k as f64 * step).collect();
        Self {
            low,
            high,
            logarithmic,
            ticks,
        }
    }

    /// 0 at the lower end, 1 at the upper.
    fn share(&self, value: f64) -> f64 {
        let value = if self.logarithmic {
            value.max(1e-12).log10()
        } else {
            value
        };
        (value - self.low) / (self.high - self.low)
    }

    fn label(&self, tick: f64, axis: Axis<'_>) -> String {
        if self.logarithmic {
            return count(10f64.powf(tick).round() as u64);
        }
        let step = self
            .ticks
            .get(1)
            .map_or(1.0, |second| second - self.ticks[0]);
        if axis.counts {
            let (unit, name) = match self.high.abs() {
                v if v >= 1e15 => (1e15, " P"),
                v if v >= 1e12 => (1e12, " T"),
                v if v >= 1e9 => (1e9, " G"),
                v if v >= 1e6 => (1e6, " M"),
                v if v >= 1e3 => (1e3, " k"),
                _ => (1.0, ""),
            };
            let number = fixed(tick / unit, decimals(step / unit));
            return format!("{number}{name}");
        }
        fixed(tick, decimals(step))
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `rough`; whole decades for logarithms.
fn nice_step(rough: f64, logarithmic: bool) -> f64 {
    if logarithmic {
        return rough.ceil().max(1.0);
    }
    let power = 10f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|times| times * power >= rough * (1.0 - 1e-9));
    times.unwrap_or(10.0) * power
}

fn decimals(step: f64) -> usize {
    (0..6)
        .find(|&d| {
            (step * 10f64.powi(d)).fract().abs() < 1e-6
                || (step * 10f64.powi(d)).fract().abs() > 1.0 - 1e-6
        })
        .unwrap_or(6) as usize
}

struct Frame {
    across: Scale,
    up: Scale,
}

impl Frame {
    fn new(across: Scale, up: Scale) -> Self {
        Self { across, up }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.across.share(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.up.share(value) * (HEIGHT - TOP - BOTTOM)
    }

    fn axes(&self, x: Axis<'_>, y: Axis<'_>) -> String {
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        let place = |scale: &Scale, tick: f64| (tick - scale.low) / (scale.high - scale.low);
        let mut body = String::new();
        for &tick in &self.across.ticks {
            let at = round(LEFT + place(&self.across, tick) * (right - LEFT));
            let _ = writeln!(
                body,
                "<path class=\"grid\" d=\"M{at} {bottom}V{TOP}\"/><text x=\"{at}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 15.0,
                self.across.label(tick, x)
            );
        }
        for &tick in &self.up.ticks {
            let at = round(bottom - place(&self.up, tick) * (bottom - TOP));
            let _ = writeln!(
                body,
                "<path class=\"grid\" d=\"M{LEFT} {at}H{right}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
                LEFT - 5.0,
                round(at + 4.0),
                self.up.label(tick, y)
            );
        }
        let _ = writeln!(
            body,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text><text transform=\"translate(12 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            round((LEFT + right) / 2.0),
            HEIGHT - 8.0,
            escape_html(x.name),
            round((TOP + bottom) / 2.0),
            escape_html(y.name)
        );
        body
    }

    fn plot(&self, name: &str, body: String) -> Plot {
        Plot {
            body,
            width: WIDTH,
            height: HEIGHT,
            name: name.to_owned(),
        }
    }
}

/// The commands of a path through `points`, in pieces where a point is not finite.
fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut d = String::new();
    let mut command = 'M';
    for (x, y) in points {
        if x.is_finite() && y.is_finite() {
            let _ = write!(d, "{command}{} {}", round(x), round(y));
            command = 'L';
        } else {
            command = 'M';
        }
    }
    d
}

fn tip(index: usize, text: &str) -> String {
    format!("data-s=\"{index}\" data-tip=\"{}\"", escape_html(text))
}

fn title(text: &str) -> String {
    format!("<title>{}</title>", escape_html(text))
}

/// A hundredth of a unit is finer than any screen.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The end of a long name, which tells layers apart.
fn shortened(text: &str, length: usize) -> String {
    let count = text.chars().count();
    match count > length {
        true => format!(
            "…{}",
            text.chars().skip(count + 1 - length).collect::<String>()
        ),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_numbers_inside_the_range() {
        let scale = Scale::of(Axis::new("y"), [0.3, 71.0].into_iter(), 0.0);
        assert_eq!(scale.ticks, [20.0, 40.0, 60.0]);
        let labels: Vec<String> = scale
            .ticks
            .iter()
            .map(|&t| scale.label(t, Axis::new("y")))
            .collect();
        assert_eq!(labels, ["20", "40", "60"]);
        let counts = Axis {
            counts: true,
            ..Axis::new("x")
        };
        let scale = Scale::of(counts, [1.0e7, 2.2e7].into_iter(), 0.0);
        assert_eq!(scale.label(1.5e7, counts), "15 M");
        let log = Axis {
            logarithmic: true,
            ..Axis::new("t")
        };
        let scale = Scale::of(log, [1.0, 1e4].into_iter(), 0.0);
        assert_eq!(scale.label(scale.ticks[4], log), "10.0 k");
    }

    #[test]
    fn a_point_lies_where_its_numbers_say() {
        let series = Series {
            index: 0,
            tip: "a <b>".into(),
            points: vec![(0.0, 0.0), (10.0, 100.0)],
            band: vec![],
        };
        let plot = lines("p", Axis::new("x"), Axis::new("y"), &[series]);
        // From the lower left corner, 4 % of the range above the axis, to the right edge, 4 % below the top.
        let span = HEIGHT - TOP - BOTTOM;
        let y = |share: f64| round(HEIGHT - BOTTOM - share * span);
        let expected = format!("M52 {}L408 {}", y(0.04 / 1.08), y(1.04 / 1.08));
        assert!(plot.body.contains(&expected), "{expected}: {}", plot.body);
        assert!(plot.body.contains("data-tip=\"a &lt;b&gt;\""));
    }

    #[test]
    fn gaps_and_single_values_do_no_harm() {
        let series = Series {
            index: 9,
            tip: String::new(),
            points: vec![(1.0, f64::NAN), (2.0, 5.0), (3.0, f64::NAN), (4.0, 5.0)],
            band: vec![],
        };
        let text = lines("p", Axis::new("x"), Axis::new("y"), &[series]).standalone();
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        assert!(text.contains("class=\"c1 d1\""), "{text}");
        let nothing = marks("p", Axis::new("x"), Axis::new("y"), &[]).element();
        assert!(!nothing.contains("NaN"), "{nothing}");
    }
}
