//! From the stored bytes of one image to normalised floats, with a random crop and flip on the way.
//!
//! ```text
//! x[c, y, x] = (u8 / 255 - mean[c]) / std[c]
//! ```
//!
//! The order is torchvision's `RandomCrop(size, padding)`, `RandomHorizontalFlip`, `ToTensor`, `Normalize`: the border is black
//! *before* normalisation, so it becomes `-mean / std`, not 0.

use serde::{Deserialize, Serialize};

use crate::random::Stream;
use crate::{Dataset, Error, Result};

/// Random changes of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Black border in pixels on every side, from which a window of the original size is cropped; 0 crops nothing.
    pub pad: usize,
    /// Mirror left and right with probability one half.
    pub flip: bool,
}

impl Augmentation {
    /// The image as it is.
    pub const NONE: Self = Self {
        pad: 0,
        flip: false,
    };

    /// What the literature calls standard augmentation of CIFAR: pad by 4, crop, flip.
    pub const STANDARD: Self = Self { pad: 4, flip: true };

    /// Draws the change of one image. The draws do not depend on the image.
    pub(crate) fn draw(self, stream: &mut Stream) -> Change {
        let shift =
            |stream: &mut Stream| stream.below(2 * self.pad + 1) as isize - self.pad as isize;
        Change {
            down: shift(stream),
            right: shift(stream),
            flip: self.flip && stream.chance(0.5),
        }
    }
}

/// Where the crop window starts relative to the image (negative: in the border above or to the left), and whether it is mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) down: isize,
    pub(crate) right: isize,
    pub(crate) flip: bool,
}

impl Change {
    pub(crate) const NONE: Self = Self {
        down: 0,
        right: 0,
        flip: false,
    };
}

/// Mean and standard deviation per channel, in units of full intensity (255 is 1).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Normalisation {
    /// `C` means.
    pub mean: Vec<f32>,
    /// `C` standard deviations, each above 0.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// Measures a dataset: mean and population deviation over all pixels of each channel, exact integer sums.
    ///
    /// A channel that is constant gets deviation 1, so that it normalises to 0.
    pub fn of(dataset: &Dataset) -> Self {
        let [channels, height, width] = dataset.shape();
        let plane = height * width;
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for channel in 0..channels {
            let (mut sum, mut squares) = (0u64, 0u64);
            for index in 0..dataset.len() {
                for &pixel in &dataset.image(index)[channel * plane..(channel + 1) * plane] {
                    sum += u64::from(pixel);
                    squares += u64::from(pixel) * u64::from(pixel);
                }
            }
            let count = (dataset.len() * plane) as f64;
            let average = sum as f64 / count;
            let variance = (squares as f64 / count - average * average).max(0.0);
            let deviation = if variance > 0.0 {
                variance.sqrt() / 255.0
            } else {
                1.0
            };
            mean.push((average / 255.0) as f32);
            std.push(deviation as f32);
        }
        Self { mean, std }
    }

    /// One row of 256 values per channel: what each byte becomes.
    ///
    /// # Errors
    /// If there are not `channels` means and deviations, or a deviation is not above 0, or a value is not finite.
    pub(crate) fn tables(&self, channels: usize) -> Result<Vec<[f32; 256]>> {
        if self.mean.len() != channels || self.std.len() != channels {
            let detail = format!(
                "expected {channels} means and deviations, got {} and {}",
                self.mean.len(),
                self.std.len()
            );
            return Err(Error::invalid("normalisation", detail));
        }
        let table = |(&mean, &std): (&f32, &f32)| {
            if !(mean.is_finite() && std.is_finite() && std > 0.0) {
                let detail =
                    format!("expected finite means and deviations above 0, got {mean} and {std}");
                return Err(Error::invalid("normalisation", detail));
            }
            Ok(std::array::from_fn(|byte| {
                (byte as f32 / 255.0 - mean) / std
            }))
        };
        self.mean.iter().zip(&self.std).map(table).collect()
    }
}

/// Writes one image, changed and normalised.
///
/// `image` and `out` are `[C, H, W]` with `shape = [C, H, W]`; `tables` has `C` rows.
pub(crate) fn write_image(
    image: &[u8],
    shape: [usize; 3],
    change: Change,
    tables: &[[f32; 256]],
    out: &mut [f32],
) {
    let [_, height, width] = shape;
    let plane = height * width;
    // Columns of the output (before mirroring) whose source lies inside the image.
    let inside_from = (-change.right).clamp(0, width as isize) as usize;
    let inside_to = (width as isize - change.right).clamp(0, width as isize) as usize;
    for ((source, target), table) in image
        .chunks_exact(plane)
        .zip(out.chunks_exact_mut(plane))
        .zip(tables)
    {
        let border = table[0];
        for (y, row) in target.chunks_exact_mut(width).enumerate() {
            let from = y as isize + change.down;
            if from < 0 || from >= height as isize || inside_from >= inside_to {
                row.fill(border);
                continue;
            }
            let start = from as usize * width + (inside_from as isize + change.right) as usize;
            let pixels = &source[start..start + inside_to - inside_from];
            row[..inside_from].fill(border);
            row[inside_to..].fill(border);
            for (value, &byte) in row[inside_from..inside_to].iter_mut().zip(pixels) {
                *value = table[usize::from(byte)];
            }
            if change.flip {
                row.reverse();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes pass through unchanged, so that expectations are readable.
    fn identity() -> Vec<[f32; 256]> {
        vec![std::array::from_fn(|byte| byte as f32)]
    }

    fn changed(down: isize, right: isize, flip: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; 6];
        let change = Change { down, right, flip };
        write_image(
            &[1, 2, 3, 4, 5, 6],
            [1, 2, 3],
            change,
            &identity(),
            &mut out,
        );
        out
    }

    #[test]
    fn crops_and_flips_as_written_by_hand() {
        assert_eq!(changed(0, 0, false), [1., 2., 3., 4., 5., 6.]);
        assert_eq!(changed(0, 0, true), [3., 2., 1., 6., 5., 4.]);
        assert_eq!(changed(1, 0, false), [4., 5., 6., 0., 0., 0.]);
        assert_eq!(changed(-1, 1, false), [0., 0., 0., 2., 3., 0.]);
        assert_eq!(changed(0, -2, false), [0., 0., 1., 0., 0., 4.]);
        // The crop comes first, then the mirror: the border moves to the other side.
        assert_eq!(changed(0, -2, true), [1., 0., 0., 4., 0., 0.]);
        assert_eq!(changed(0, 5, false), [0.; 6]);
    }

    #[test]
    fn normalises_each_channel_and_the_border_is_black() {
        let normalisation = Normalisation {
            mean: vec![0.5, 0.25],
            std: vec![0.5, 0.25],
        };
        let tables = normalisation.tables(2).unwrap();
        let mut out = [0.0; 4];
        let change = Change {
            down: 0,
            right: 1,
            flip: false,
        };
        write_image(&[0, 255, 0, 51], [2, 1, 2], change, &tables, &mut out);
        assert_eq!(out, [1.0, -1.0, (0.2 - 0.25) / 0.25, -1.0]);
    }

    #[test]
    fn draws_reach_every_shift_and_no_other() {
        let mut stream = Stream::new(1);
        let mut seen = [[0; 5]; 5];
        let mut flips = 0;
        for _ in 0..2_500 {
            let change = Augmentation { pad: 2, flip: true }.draw(&mut stream);
            seen[(change.down + 2) as usize][(change.right + 2) as usize] += 1;
            flips += usize::from(change.flip);
        }
        assert!(
            seen.as_flattened()
                .iter()
                .all(|&count| (50..150).contains(&count)),
            "{seen:?}"
        );
        assert!((1_125..1_375).contains(&flips), "{flips}");
        assert_eq!(Augmentation::NONE.draw(&mut stream), Change::NONE);
    }

    #[test]
    fn measures_mean_and_deviation() {
        let classes = vec!["a".to_owned()];
        let pixels = vec![0, 255, 51, 51, 0, 255, 51, 51];
        let set = Dataset::new("toy", [2, 1, 2], classes, vec![0, 0], pixels).unwrap();
        let measured = Normalisation::of(&set);
        assert_eq!(measured.mean, [0.5, 0.2]);
        assert_eq!(measured.std, [0.5, 1.0]);
    }

    #[test]
    fn refuses_tables_that_would_divide_by_zero() {
        let normalisation = |std| Normalisation {
            mean: vec![0.5],
            std: vec![std],
        };
        assert!(normalisation(0.0).tables(1).is_err());
        assert!(normalisation(f32::NAN).tables(1).is_err());
        assert_eq!(
            normalisation(1.0).tables(3).unwrap_err().to_string(),
            "normalisation: expected 3 means and deviations, got 1 and 1"
        );
    }
}
