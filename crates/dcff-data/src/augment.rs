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
use crate::resize::Window;
use crate::{Dataset, Error, Result};

/// Random changes of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augmentation {
    /// Black border in pixels on every side, from which a window of the original size is cropped; 0 crops nothing.
    pub pad: usize,
    /// Mirror left and right with probability one half.
    pub flip: bool,
    /// A random part of the whole image, resized to the set's size, comes first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area: Option<Area>,
}

/// A random part of an image, as torchvision's `RandomResizedCrop` draws it: a share of its area and a ratio of its sides; after ten
/// draws that do not fit, the middle of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Area {
    /// Least and greatest share of the area, drawn evenly.
    pub scale: [f64; 2],
    /// Least and greatest width over height, drawn evenly in their logarithm.
    pub ratio: [f64; 2],
}

impl Area {
    /// What networks for ImageNet are trained on (Szegedy et al., *Going Deeper with Convolutions*, section 6,
    /// <https://arxiv.org/abs/1409.4842>).
    pub const IMAGENET: Self = Self {
        scale: [0.08, 1.0],
        ratio: [3.0 / 4.0, 4.0 / 3.0],
    };

    /// Draws the part of an image of `[h, w]` pixels.
    pub(crate) fn draw(self, [h, w]: [usize; 2], stream: &mut Stream) -> Window {
        let area = (h * w) as f64;
        for _ in 0..10 {
            let mut between = |low: f64, high: f64| low + (high - low) * f64::from(stream.unit());
            let [least, greatest] = self.scale;
            let target = area * between(least, greatest);
            let [least, greatest] = self.ratio;
            let ratio = between(least.ln(), greatest.ln()).exp();
            let width = (target * ratio).sqrt().round() as usize;
            let height = (target / ratio).sqrt().round() as usize;
            if (1..=w).contains(&width) && (1..=h).contains(&height) {
                return Window {
                    top: stream.below(h - height + 1),
                    left: stream.below(w - width + 1),
                    height,
                    width,
                };
            }
        }
        let [least, greatest] = self.ratio;
        let (height, width) = match w as f64 / h as f64 {
            own if own < least => ((w as f64 / least).round() as usize, w),
            own if own > greatest => (h, (h as f64 * greatest).round() as usize),
            _ => (h, w),
        };
        Window {
            top: (h - height) / 2,
            left: (w - width) / 2,
            height,
            width,
        }
    }
}

impl Augmentation {
    /// The image as it is.
    pub const NONE: Self = Self {
        pad: 0,
        flip: false,
        area: None,
    };

    /// What the literature calls standard augmentation of CIFAR: pad by 4, crop, flip.
    pub const STANDARD: Self = Self {
        pad: 4,
        flip: true,
        area: None,
    };

    /// What networks for ImageNet are trained on: a random part of the image, flip.
    pub const IMAGENET: Self = Self {
        pad: 0,
        flip: true,
        area: Some(Area::IMAGENET),
    };

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
    /// ImageNet's, which are used for photographs of all kinds; for grey images, the mean over the colours.
    pub fn imagenet(channels: usize) -> Self {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        match channels {
            3 => Self {
                mean: mean.to_vec(),
                std: std.to_vec(),
            },
            _ => Self {
                mean: vec![mean.iter().sum::<f32>() / 3.0; channels],
                std: vec![std.iter().sum::<f32>() / 3.0; channels],
            },
        }
    }

    /// Measures a dataset: mean and population deviation over all pixels of each channel, exact integer sums.
    ///
    /// A channel that is constant gets deviation 1, so that it normalises to 0. A set whose images stay in their files is not
    /// measured but gets [`Normalisation::imagenet`].
    pub fn of(dataset: &Dataset) -> Self {
        if dataset.files().is_some() {
            return Self::imagenet(dataset.shape()[0]);
        }
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

    const PAD_2: Augmentation = Augmentation {
        pad: 2,
        ..Augmentation::STANDARD
    };

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
            let change = PAD_2.draw(&mut stream);
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
    fn parts_lie_inside_and_have_the_drawn_area_and_ratio() {
        let mut stream = Stream::new(2);
        let (h, w) = (300, 400);
        let (mut least, mut most) = (1.0f64, 0.0f64);
        for _ in 0..2_000 {
            let part = Area::IMAGENET.draw([h, w], &mut stream);
            assert!(part.top + part.height <= h, "{part:?}");
            assert!(part.left + part.width <= w, "{part:?}");
            let share = (part.height * part.width) as f64 / (h * w) as f64;
            // Rounding the sides moves both by less than a part in fifty.
            assert!((0.078..=1.0).contains(&share), "{part:?}");
            let ratio = part.width as f64 / part.height as f64;
            assert!((0.73..=1.36).contains(&ratio), "{part:?}");
            (least, most) = (least.min(share), most.max(share));
        }
        assert!(least < 0.1 && most > 0.95, "{least} {most}");
        // No part of a line has such a ratio: the middle is taken, as wide as may be.
        let middle = Area::IMAGENET.draw([9, 3000], &mut stream);
        let expected = Window {
            top: 0,
            left: 1494,
            height: 9,
            width: 12,
        };
        assert_eq!(middle, expected);
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
