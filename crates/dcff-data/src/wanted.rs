//! What a caller wants of images that may have any size.

use crate::resize::Fit;
use crate::{Area, Result};

/// How the images of a data set are to be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Channels, height and width that every image gets.
    pub input: Option<[usize; 3]>,
    /// The network's own channels, height and width: its channels always, its size where the images have several.
    pub network: Option<[usize; 3]>,
    /// The share of the resized image that is kept, where `input` asks for resizing; all of it unless given.
    pub crop_pct: Option<f64>,
    /// The filter of resizing; `bilinear` unless given.
    pub interpolation: Option<String>,
    /// Random parts of the whole images are trained on, so these are needed as they are.
    pub area: Option<Area>,
    /// Leave out images that cannot be read, instead of refusing the set.
    pub skip_bad: bool,
}

impl Wanted {
    /// How an image becomes one of `input_size`.
    pub(crate) fn fit(&self, input_size: [usize; 3]) -> Result<Fit> {
        let whole = Fit::whole(input_size);
        let fit = Fit {
            crop_pct: self.crop_pct.unwrap_or(whole.crop_pct),
            interpolation: self.interpolation.clone().unwrap_or(whole.interpolation),
            ..whole
        };
        fit.check()?;
        Ok(fit)
    }
}
