//! One image file of any size to a network's input: resized, cut, normalised.
//!
//! Bytes become `(b / 255 - mean) / std`; what comes before is said at [`Fit`].

use std::path::Path;

use crate::readers::{MAX_FILE_BYTES, decode};
use crate::{Error, Fit, Normalisation, Result};

/// How an image file becomes a network's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The input's size, and how images of other sizes get it.
    pub fit: Fit,
    /// Of bytes over 255.
    pub normalisation: Normalisation,
}

impl Preprocess {
    /// Reads the image at `path` as a normalised input, `[C, H, W]` in order, turned upright as EXIF says. Grey images are repeated
    /// over three channels; for a network of one channel colours become grey (ITU-R BT.709 luma).
    ///
    /// # Errors
    /// When the file is missing or no image, or these settings are unsound.
    pub fn read(&self, path: &Path) -> Result<Vec<f32>> {
        self.fit.check()?;
        let [channels, height, width] = self.fit.input_size;
        let tables = self.normalisation.tables(channels)?;
        let bytes = dcff_file::read(path, MAX_FILE_BYTES)?;
        let image = decode(&bytes, None)
            .and_then(|image| self.fit.apply(image))
            .map_err(|detail| Error::image(path, detail))?;
        let mut planes = vec![0; channels * height * width];
        image.write_planes(&mut planes);
        let planes = planes.chunks_exact(height * width).zip(&tables);
        Ok(planes
            .flat_map(|(plane, table)| plane.iter().map(|&b| table[b as usize]))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::png;

    fn preprocess(input_size: [usize; 3], crop_pct: f64) -> Preprocess {
        Preprocess {
            fit: Fit {
                crop_pct,
                ..Fit::whole(input_size)
            },
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
        settings.fit.interpolation = "cubic".into();
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
        assert!(text.contains("expected a PNG, JPEG, WebP"), "{text}");
        let thin = read(&settings, &[0; 3 * 600], 600, 1).unwrap_err();
        let expected = "expected proportions that fit 32x32 pixels, got 1x600";
        assert!(thin.to_string().ends_with(expected), "{thin}");
        let mut bad = settings;
        bad.fit.crop_pct = 0.0;
        assert!(bad.read(file.path()).is_err());
    }
}
