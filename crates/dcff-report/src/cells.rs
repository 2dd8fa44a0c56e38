//! A matrix of shares as a few paths, one for each shade, so that a large one stays small as text.

use std::fmt::Write;

/// How many shades there are besides the paper's.
const SHADES: usize = 12;

/// Values from 0 to 1 in rows and columns.
#[derive(Clone, Debug)]
pub struct Cells {
    columns: usize,
    shades: Vec<u8>,
}

impl Cells {
    /// The cells of `rows`, each of the same length; darkness grows with the square root, so that small values show.
    pub fn new<R: AsRef<[f32]>>(rows: &[R]) -> Self {
        let columns = rows.iter().map(|row| row.as_ref().len()).max().unwrap_or(0);
        let mut shades = Vec::with_capacity(rows.len() * columns);
        for row in rows {
            let row = row.as_ref();
            shades.extend((0..columns).map(|c| shade(row.get(c).copied().unwrap_or(0.0))));
        }
        Self { columns, shades }
    }

    /// The number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.shades.len() / self.columns.max(1)
    }

    /// A path for each shade that occurs, a unit square for each cell.
    pub(crate) fn paths(&self) -> String {
        let mut text = String::new();
        for shade in 1..=SHADES as u8 {
            let mut d = String::new();
            for (y, row) in self.shades.chunks(self.columns.max(1)).enumerate() {
                let mut x = 0;
                while x < row.len() {
                    let run = row[x..].iter().take_while(|&&cell| cell == shade).count();
                    if run > 0 {
                        let _ = write!(d, "M{x} {y}.5h{run}");
                    }
                    x += run.max(1);
                }
            }
            if !d.is_empty() {
                let opacity = (f64::from(shade) / SHADES as f64 * 100.0).round() / 100.0;
                let _ = writeln!(
                    text,
                    "<path class=\"cell\" opacity=\"{opacity}\" d=\"{d}\"/>"
                );
            }
        }
        text
    }
}

fn shade(value: f32) -> u8 {
    if value.is_nan() {
        return 0;
    }
    (f64::from(value.clamp(0.0, 1.0)).sqrt() * SHADES as f64).round() as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_neighbours_are_one_stroke() {
        let cells = Cells::new(&[vec![1.0, 1.0, 0.0], vec![0.0, f32::NAN, 0.25]]);
        assert_eq!((cells.rows(), cells.columns()), (2, 3));
        // sqrt(0.25) is half of the shades.
        assert_eq!(
            cells.paths(),
            "<path class=\"cell\" opacity=\"0.5\" d=\"M2 1.5h1\"/>\n<path class=\"cell\" opacity=\"1\" d=\"M0 0.5h2\"/>\n"
        );
    }
}
