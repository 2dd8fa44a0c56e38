//! Tables of cells, written once for every format: plain text, Markdown, HTML, CSV and LaTeX.

use crate::text::{escape_html, escape_latex};

/// How a column's cells are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// To the left: text.
    Left,
    /// To the right: numbers.
    Right,
}

/// A table of cells under a heading.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<'a>(columns: impl IntoIterator<Item = (&'a str, Align)>) -> Self {
        Self {
            columns: columns
                .into_iter()
                .map(|(name, align)| (name.to_owned(), align))
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, a cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Columns padded with blanks.
    pub fn text(&self) -> String {
        let heading = self.heading();
        let all = || std::iter::once(&heading).chain(&self.rows);
        let widths: Vec<usize> = (0..heading.len())
            .map(|i| {
                all()
                    .filter_map(|row| row.get(i))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in all() {
            let cells =
                row.iter()
                    .zip(&widths)
                    .zip(&self.columns)
                    .map(|((cell, &width), (_, align))| match align {
                        Align::Left => format!("{cell:<width$}"),
                        Align::Right => format!("{cell:>width$}"),
                    });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// A Markdown table.
    pub fn markdown(&self) -> String {
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        let mut text = line(self.columns.iter().map(|(name, _)| name.as_str()).collect());
        text.push_str(&line(
            self.columns
                .iter()
                .map(|(_, align)| if *align == Align::Left { "---" } else { "---:" })
                .collect(),
        ));
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
            text.push_str(&line(cells.iter().map(String::as_str).collect()));
        }
        text
    }

    /// An HTML table; `caption` is text.
    pub fn html(&self, caption: &str) -> String {
        let cells = |tag: &str, row: &[String]| {
            let mut text = String::from("<tr>");
            for (cell, (_, align)) in row.iter().zip(&self.columns) {
                let class = match align {
                    Align::Right => " class=\"n\"",
                    // Long text may break.
                    Align::Left if cell.chars().count() > 60 => " class=\"w\"",
                    Align::Left => "",
                };
                text.push_str(&format!("<{tag}{class}>{}</{tag}>", escape_html(cell)));
            }
            text + "</tr>\n"
        };
        let body: String = self.rows.iter().map(|row| cells("td", row)).collect();
        format!(
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption><span>{0}</span></caption>\n<thead>{1}</thead>\n<tbody>\n{body}</tbody></table></div>\n",
            escape_html(caption),
            cells("th", &self.heading())
        )
    }

    /// Comma-separated values with a heading, quoted where needed (RFC 4180, with line feeds).
    pub fn csv(&self) -> String {
        let field = |cell: &String| match cell.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", cell.replace('"', "\"\"")),
            false => cell.clone(),
        };
        let line = |row: &[String]| row.iter().map(field).collect::<Vec<_>>().join(",") + "\n";
        let mut text = line(&self.heading());
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }

    /// A LaTeX `tabular` in a `table`, in need of no package.
    pub fn latex(&self, caption: &str) -> String {
        let line = |row: &[String]| {
            let cells: Vec<String> = row.iter().map(|cell| escape_latex(cell)).collect();
            format!("{} \\\\\n", cells.join(" & "))
        };
        let columns: String = self
            .columns
            .iter()
            .map(|(_, align)| if *align == Align::Left { 'l' } else { 'r' })
            .collect();
        let body: String = self.rows.iter().map(|row| line(row)).collect();
        format!(
            "\\begin{{table}}\n\\centering\n\\caption{{{}}}\n\\begin{{tabular}}{{{columns}}}\n\\hline\n{}\\hline\n{body}\\hline\n\\end{{tabular}}\n\\end{{table}}\n",
            escape_latex(caption),
            line(&self.heading())
        )
    }

    fn heading(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// A count in millions or thousands, as papers print it.
pub fn count(n: u64) -> String {
    match n {
        1_000_000_000.. => format!("{:.2} B", n as f64 / 1e9),
        1_000_000.. => format!("{:.2} M", n as f64 / 1e6),
        1_000.. => format!("{:.1} k", n as f64 / 1e3),
        _ => n.to_string(),
    }
}

/// A number with so many decimals; what rounds to 0 has no sign.
pub fn fixed(value: f64, decimals: usize) -> String {
    without_sign_of_zero(format!("{value:.decimals$}"))
}

/// A difference with so many decimals: `+1.25`, `-0.50`, `0.00`.
pub fn signed(value: f64, decimals: usize) -> String {
    without_sign_of_zero(format!("{value:+.decimals$}"))
}

/// What became of a cost: `-76.83 %`, or `0.00 %` where it stayed.
pub fn change(full: u64, now: u64, decimals: usize) -> String {
    let percent = -dcff_run::reduction_percent(full, now);
    format!("{} %", signed(percent, decimals))
}

fn without_sign_of_zero(number: String) -> String {
    let zero = number.contains('0') && !number.contains(|c: char| ('1'..='9').contains(&c));
    match zero {
        true => number.trim_start_matches(['+', '-']).to_owned(),
        false => number,
    }
}

/// A duration for people.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..172_800 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{:.1} days", seconds as f64 / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new([("name", Align::Left), ("ops", Align::Right)]);
        table.row(["a".into(), "1000".into()]);
        assert_eq!(table.text(), "name   ops\na     1000\n");
        assert_eq!(
            table.markdown(),
            "| name | ops |\n| --- | ---: |\n| a | 1000 |\n"
        );
    }

    #[test]
    fn every_format_escapes_its_own_marks() {
        let mut table = Table::new([("a & b", Align::Left), ("n", Align::Right)]);
        table.row(["x_1 | <5 %, \"q\"".into(), "-1".into()]);
        assert!(table.markdown().contains("| x_1 \\| <5 %, \"q\" | -1 |"));
        let html = table.html("t < u");
        assert!(
            html.contains("<caption><span>t &lt; u</span></caption>"),
            "{html}"
        );
        assert!(
            html.contains("<th>a &amp; b</th>") && html.contains("<td class=\"n\">-1</td>"),
            "{html}"
        );
        assert_eq!(table.csv(), "a & b,n\n\"x_1 | <5 %, \"\"q\"\"\",-1\n");
        let latex = table.latex("50 %");
        assert!(latex.contains("\\begin{tabular}{lr}"), "{latex}");
        assert!(latex.contains("a \\& b & n \\\\"), "{latex}");
        assert!(latex.contains("x\\_1 | $<$5 \\%"), "{latex}");
    }

    #[test]
    fn zero_has_no_sign_and_a_change_only_one() {
        assert_eq!(
            [fixed(-0.0, 4), fixed(-0.00004, 4), fixed(-0.5, 1)],
            ["0.0000", "0.0000", "-0.5"]
        );
        assert_eq!(
            [signed(0.004, 2), signed(-0.004, 2), signed(0.005001, 2)],
            ["0.00", "0.00", "+0.01"]
        );
        assert_eq!(
            [
                change(200, 100, 1),
                change(200, 200, 2),
                change(10_000, 10_001, 2)
            ],
            ["-50.0 %", "0.00 %", "+0.01 %"]
        );
    }

    #[test]
    fn counts_and_durations_read_well() {
        assert_eq!(
            [count(72_771_956), count(650), count(4_111_414_272)],
            ["72.77 M", "650", "4.11 B"]
        );
        assert_eq!(
            [duration(59.4), duration(61.0), duration(7260.0)],
            ["59 s", "1 min 01 s", "2 h 01 min"]
        );
    }
}
