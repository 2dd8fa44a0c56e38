//! One image file of any size to a network's input: resize, crop, normalise.
//!
//! As timm and torchvision do it: the image is resized, in its own proportions, to the smallest size that covers the input's size
//! over `crop_pct`; the middle is cut out; bytes become `(b / 255 - mean) / std`. Reducing averages over all pixels that
//! fall together (PIL's and `antialias=True`'s filters), so no pixel is skipped.
//!
//! Wightman, *PyTorch Image Models*, `timm/data/transforms_factory.py`, <https://github.com/huggingface/pytorch-image-models>.

use std::path::Path;

use image::imageops::{self, FilterType};
use image::{ImageBuffer, Luma};

use crate::readers::{Decoded, MAX_FILE_BYTES, decode};
use crate::{Error, Normalisation, Result};

/// How an image file becomes a network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Channels (1 or 3), height and width of the input.
    pub input_size: [usize; 3],
    /// The share of the resized image's height and width that is kept, above 0 and at most 1.
    pub crop_pct: f64,
    /// `nearest`, `bilinear`, `bicubic` or `lanczos`.
    pub interpolation: String,
    /// Of bytes over 255.
    pub normalisation: Normalisation,
}

/// The longest side an image is enlarged to.
const LONGEST_SIDE: usize = 1 << 14;

impl Preprocess {
    /// Reads the PNG or JPEG at `path` as a normalised input, `[C, H, W]` in order. Grey images are repeated over three channels;
    /// for a network of one channel colours become grey (ITU-R BT.709 luma).
    ///
    /// # Errors
    /// When the file is missing or no image, or these settings are unsound.
    pub fn read(&self, path: &Path) -> Result<Vec<f32>> {
        let [channels, height, width] = self.input_size;
        let filter = self.filter()?;
        let tables = self.normalisation.tables(channels)?;
        let bytes = dcff_file::read(path, MAX_FILE_BYTES)?;
        let image = decode(&bytes, None).map_err(|detail| Error::image(path, detail))?;
        let image = with_channels(image, channels).map_err(|detail| Error::image(path, detail))?;

        let [_, h, w] = image.shape;
        let size = self.resized([h, w]);
        if size.iter().any(|&side| side == 0 || side > LONGEST_SIDE) {
            let detail =
                format!("expected proportions that fit {width}x{height} pixels, got {w}x{h}");
            return Err(Error::image(path, detail));
        }
        let [top, left] = [middle(size[0], height), middle(size[1], width)];
        let mut out = Vec::with_capacity(channels * height * width);
        for (plane, table) in image.pixels.chunks_exact(h * w).zip(&tables) {
            let resized;
            let plane = if size == [h, w] {
                plane
            } else {
                resized = resize(plane, [h, w], size, filter)
                    .ok_or_else(|| Error::image(path, "expected whole planes of pixels"))?;
                &resized
            };
            for row in plane.chunks_exact(size[1]).skip(top).take(height) {
                out.extend(row[left..left + width].iter().map(|&b| table[b as usize]));
            }
        }
        Ok(out)
    }

    fn filter(&self) -> Result<FilterType> {
        let known = [
            ("nearest", FilterType::Nearest),
            ("bilinear", FilterType::Triangle),
            ("bicubic", FilterType::CatmullRom),
            ("lanczos", FilterType::Lanczos3),
        ];
        if !(self.crop_pct > 0.0 && self.crop_pct <= 1.0) {
            let detail = format!("expected above 0 and at most 1, got {}", self.crop_pct);
            return Err(Error::invalid("crop_pct", detail));
        }
        let found = known.iter().find(|(name, _)| *name == self.interpolation);
        found.map(|(_, filter)| *filter).ok_or_else(|| {
            let names = known.map(|(name, _)| name).join(", ");
            let got = &self.interpolation;
            Error::invalid(
                "interpolation",
                format!("expected one of {names}, got '{got}'"),
            )
        })
    }

    /// The height and width that an image of `[h, w]` pixels is resized to.
    fn resized(&self, [h, w]: [usize; 2]) -> [usize; 2] {
        let [_, height, width] = self.input_size;
        // A crop_pct that would ask for more than can be is refused by its caller.
        let least = |side: usize| (side as f64 / self.crop_pct) as usize;
        let (least_h, least_w) = (least(height), least(width));
        let product = |a: usize, b: usize| a as u128 * b as u128;
        let fit =
            |a, b, by: usize| usize::try_from(product(a, b) / by as u128).unwrap_or(usize::MAX);
        if product(least_h, w) >= product(least_w, h) {
            [least_h, fit(w, least_h, h)]
        } else {
            [fit(h, least_w, w), least_w]
        }
    }
}

/// Where the middle `size` of `all` begins; halves go to the even number, as in torchvision.
fn middle(all: usize, size: usize) -> usize {
    ((all - size) as f64 / 2.0).round_ties_even() as usize
}

fn with_channels(image: Decoded, channels: usize) -> std::result::Result<Decoded, String> {
    let [from, height, width] = image.shape;
    let plane = height * width;
    let pixels = match (from, channels) {
        (from, to) if from == to => return Ok(image),
        (3, 1) => (0..plane)
            .map(|i| {
                let [r, g, b] = [0, 1, 2].map(|c| f32::from(image.pixels[c * plane + i]));
                (0.2126 * r + 0.7152 * g + 0.0722 * b).round() as u8
            })
            .collect(),
        _ => {
            let mut planes = vec![0; channels * plane];
            image.write_planes(channels, &mut planes)?;
            planes
        }
    };
    Ok(Decoded {
        shape: [channels, height, width],
        pixels,
    })
}

/// `None` when `plane` does not hold `h * w` bytes. Sides are at most `LONGEST_SIDE` or what the decoder lets through.
fn resize(plane: &[u8], [h, w]: [usize; 2], to: [usize; 2], filter: FilterType) -> Option<Vec<u8>> {
    let image: ImageBuffer<Luma<u8>, &[u8]> = ImageBuffer::from_raw(w as u32, h as u32, plane)?;
    Some(imageops::resize(&image, to[1] as u32, to[0] as u32, filter).into_raw())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::png;

    fn preprocess(input_size: [usize; 3], crop_pct: f64) -> Preprocess {
        Preprocess {
            input_size,
            crop_pct,
            interpolation: "bilinear".into(),
            normalisation: Normalisation {
                mean: vec![0.0; input_size[0]],
                std: vec![1.0 / 255.0; input_size[0]],
            },
        }
    }

    fn read(preprocess: &Preprocess, planes: &[u8], h: usize, w: usize) -> Result<Vec<f32>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), png(planes, h, w)).unwrap();
        preprocess.read(file.path())
    }

    fn rounded(values: &[f32]) -> Vec<i32> {
        values.iter().map(|v| v.round() as i32).collect()
    }

    #[test]
    fn an_image_of_the_right_size_is_only_normalised() {
        let planes: Vec<u8> = (0..12).map(|i| i * 20).collect();
        let mut settings = preprocess([3, 2, 2], 1.0);
        let expected: Vec<i32> = planes.iter().map(|&b| i32::from(b)).collect();
        assert_eq!(rounded(&read(&settings, &planes, 2, 2).unwrap()), expected);
        settings.normalisation = Normalisation {
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
        };
        let values = read(&settings, &[0, 255, 51, 102, 0, 0, 0, 0, 0, 0, 0, 0], 2, 2).unwrap();
        for (got, expected) in values.iter().zip([-2.0, 2.0, -1.2, -0.4]) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn other_sizes_keep_their_proportions_and_their_middle() {
        let size = |input, crop, image| preprocess(input, crop).resized(image);
        // torchvision's Resize(256) and CenterCrop(224) of a photograph: 224 / 0.875 = 256.
        assert_eq!(size([3, 224, 224], 0.875, [480, 640]), [256, 341]);
        assert_eq!(size([3, 224, 224], 0.875, [640, 480]), [341, 256]);
        assert_eq!(size([3, 32, 32], 1.0, [16, 16]), [32, 32]);
        // The shorter side relative to the input decides.
        assert_eq!(size([3, 10, 40], 1.0, [100, 100]), [40, 40]);
        assert_eq!([middle(341, 224), middle(35, 32), middle(4, 2)], [58, 2, 1]);
    }

    #[test]
    fn reducing_averages_as_pillow_does() {
        // One row of eight columns, and what Pillow makes of it: Image.fromarray(a).resize((4, 1), BILINEAR).
        let row = [0u8, 80, 160, 240, 200, 120, 40, 0];
        let planes: Vec<u8> = row.repeat(3);
        let mut settings = preprocess([3, 1, 4], 1.0);
        let values = read(&settings, &planes, 1, 8).unwrap();
        assert_eq!(values.len(), 12);
        // The image is 8 wide and 1 high; 4 columns of one row need no reducing but a crop.
        assert_eq!(rounded(&values[..4]), [160, 240, 200, 120]);
        // Two equal rows, so that both sides halve.
        let planes: Vec<u8> = (0..3).flat_map(|_| row.repeat(2)).collect();
        let values = read(&settings, &planes, 2, 8).unwrap();
        for (got, expected) in values[..4].iter().zip([57.0, 185.0, 155.0, 34.0]) {
            assert!((got - expected).abs() <= 1.01, "{values:?}");
        }
        settings.interpolation = "cubic".into();
        assert_eq!(
            read(&settings, &planes, 2, 8).unwrap_err().to_string(),
            "interpolation: expected one of nearest, bilinear, bicubic, lanczos, got 'cubic'"
        );
    }

    #[test]
    fn colours_become_grey_where_one_channel_is_asked_for() {
        let planes = [255, 0, 0, 0, 0, 255, 0, 0, 0, 0, 255, 0];
        let values = read(&preprocess([1, 2, 2], 1.0), &planes, 2, 2).unwrap();
        assert_eq!(rounded(&values), [54, 182, 18, 0]);
    }

    #[test]
    fn what_is_no_image_or_cannot_fit_is_refused() {
        let settings = preprocess([3, 32, 32], 1.0);
        let missing = settings.read(Path::new("no/such.png")).unwrap_err();
        assert!(missing.to_string().starts_with("no/such.png: "));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "text").unwrap();
        let text = settings.read(file.path()).unwrap_err().to_string();
        assert!(text.contains("expected a PNG or JPEG image"), "{text}");
        let thin = read(&settings, &[0; 3 * 600], 600, 1).unwrap_err();
        let expected = "expected proportions that fit 32x32 pixels, got 1x600";
        assert!(thin.to_string().ends_with(expected), "{thin}");
        let mut bad = settings;
        bad.crop_pct = 0.0;
        assert!(bad.read(file.path()).is_err());
    }
}
