//! A window of an image to another size, and an image of any size to a network's input.
//!
//! `bilinear`, `bicubic` and `lanczos` widen their filters where the image gets smaller, so that every pixel counts, as Pillow
//! does and torchvision with `antialias=True`; sums are integers, so one image gives the same bytes on every processor.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::{U8, U8x3};
use fast_image_resize::{FilterType, PixelTrait, ResizeAlg, ResizeOptions, Resizer};

use crate::readers::Decoded;
use crate::{Error, Result};

/// The longest side an image is enlarged to.
const LONGEST_SIDE: usize = 1 << 14;

/// How an image of any size becomes one of a network's size.
///
/// As timm and torchvision do it: the image is resized, in its own proportions, to the smallest size that covers the input's size
/// over `crop_pct`, and the middle is cut out.
///
/// Wightman, *PyTorch Image Models*, `timm/data/transforms_factory.py`, <https://github.com/huggingface/pytorch-image-models>.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Channels (1 or 3), height and width of the input.
    pub input_size: [usize; 3],
    /// The share of the resized image's height and width that is kept, above 0 and at most 1.
    pub crop_pct: f64,
    /// `nearest`, `bilinear`, `bicubic` or `lanczos`.
    pub interpolation: String,
}

/// A part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) top: usize,
    pub(crate) left: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Window {
    /// All of an image of `[h, w]` pixels.
    pub(crate) fn whole([height, width]: [usize; 2]) -> Self {
        Self {
            top: 0,
            left: 0,
            height,
            width,
        }
    }
}

/// How values between pixels are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Filter(ResizeAlg);

impl Filter {
    /// What training uses.
    pub(crate) const BILINEAR: Self = Self(ResizeAlg::Convolution(FilterType::Bilinear));

    fn named(name: &str) -> Result<Self> {
        let known = [
            ("nearest", ResizeAlg::Nearest),
            ("bilinear", Self::BILINEAR.0),
            ("bicubic", ResizeAlg::Convolution(FilterType::CatmullRom)),
            ("lanczos", ResizeAlg::Convolution(FilterType::Lanczos3)),
        ];
        let found = known.iter().find(|(known, _)| *known == name);
        found.map(|(_, algorithm)| Self(*algorithm)).ok_or_else(|| {
            let names = known.map(|(name, _)| name).join(", ");
            let detail = format!("expected one of {names}, got '{name}'");
            Error::invalid("interpolation", detail)
        })
    }
}

impl Fit {
    /// All of the image, bilinear: what a network is trained on unless said otherwise.
    pub fn whole(input_size: [usize; 3]) -> Self {
        Self {
            input_size,
            crop_pct: 1.0,
            interpolation: "bilinear".to_owned(),
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When a side is 0 or too long, the number of channels is not 1 or 3, or a setting is out of its range.
    pub fn check(&self) -> Result<()> {
        let [channels, height, width] = self.input_size;
        let side = |n: usize| (1..=LONGEST_SIDE).contains(&n);
        if !(channels == 1 || channels == 3) || !side(height) || !side(width) {
            let detail = format!(
                "expected 1 or 3 channels and sides of 1 to {LONGEST_SIDE}, got {channels},{height},{width}"
            );
            return Err(Error::invalid("input size", detail));
        }
        if !(self.crop_pct > 0.0 && self.crop_pct <= 1.0) {
            let detail = format!("expected above 0 and at most 1, got {}", self.crop_pct);
            return Err(Error::invalid("crop_pct", detail));
        }
        Filter::named(&self.interpolation).map(drop)
    }

    /// `image` with the input's channels and size.
    ///
    /// # Errors
    /// What does not fit, for an error that names the file.
    pub(crate) fn apply(&self, image: Decoded) -> std::result::Result<Decoded, String> {
        let [channels, height, width] = self.input_size;
        let image = image.with_channels(channels)?;
        if image.size == [height, width] && self.crop_pct == 1.0 {
            return Ok(image);
        }
        let filter = Filter::named(&self.interpolation).map_err(|error| error.to_string())?;
        let size = self.resized(image.size);
        if size.iter().any(|&side| side == 0 || side > LONGEST_SIDE) {
            let [h, w] = image.size;
            return Err(format!(
                "expected proportions that fit {width}x{height} pixels, got {w}x{h}"
            ));
        }
        let image = match size == image.size {
            true => image,
            false => resize(&image, Window::whole(image.size), size, filter)?,
        };
        let [top, left] = [middle(size[0], height), middle(size[1], width)];
        Ok(cut(&image, top, left, [height, width]))
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

/// The `size` `[h, w]` pixels of `image` from row `top` and column `left` on.
fn cut(image: &Decoded, top: usize, left: usize, [h, w]: [usize; 2]) -> Decoded {
    let channels = image.channels;
    let rows = image.pixels.chunks_exact(image.size[1] * channels);
    let pixels = rows
        .skip(top)
        .take(h)
        .flat_map(|row| &row[left * channels..(left + w) * channels])
        .copied()
        .collect();
    Decoded {
        size: [h, w],
        channels,
        pixels,
    }
}

/// `window` of `image`, resized to `to` `[h, w]` pixels.
///
/// # Errors
/// When the window does not lie inside the image.
pub(crate) fn resize(
    image: &Decoded,
    window: Window,
    to: [usize; 2],
    filter: Filter,
) -> std::result::Result<Decoded, String> {
    match image.channels {
        1 => resize_typed::<U8>(image, window, to, filter),
        _ => resize_typed::<U8x3>(image, window, to, filter),
    }
}

// The typed call: the one for any type of pixel instantiates every filter for every type and costs minutes of compilation.
fn resize_typed<P: PixelTrait>(
    image: &Decoded,
    window: Window,
    [h, w]: [usize; 2],
    filter: Filter,
) -> std::result::Result<Decoded, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot be resized to {w}x{h}: {error}");
    let [from_h, from_w] = image.size;
    let source = TypedImageRef::<P>::from_buffer(from_w as u32, from_h as u32, &image.pixels)
        .map_err(|error| failed(&error))?;
    let mut pixels = vec![0; h * w * image.channels];
    let mut target = TypedImage::<P>::from_buffer(w as u32, h as u32, &mut pixels)
        .map_err(|error| failed(&error))?;
    // The filter sees nothing beyond the window, as torchvision's crop before its resizing.
    let [left, top, width, height] =
        [window.left, window.top, window.width, window.height].map(|n| n as u32);
    let source = TypedCroppedImage::from_ref(&source, left, top, width, height)
        .map_err(|error| failed(&error))?;
    let options = ResizeOptions::new().resize_alg(filter.0).use_alpha(false);
    Resizer::new()
        .resize_typed::<P>(&source, &mut target, &options)
        .map_err(|error| failed(&error))?;
    Ok(Decoded {
        size: [h, w],
        channels: image.channels,
        pixels,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_sizes_keep_their_proportions_and_their_middle() {
        let size = |input, crop, image| {
            Fit {
                crop_pct: crop,
                ..Fit::whole(input)
            }
            .resized(image)
        };
        // torchvision's Resize(256) and CenterCrop(224) of a photograph: 224 / 0.875 = 256.
        assert_eq!(size([3, 224, 224], 0.875, [480, 640]), [256, 341]);
        assert_eq!(size([3, 224, 224], 0.875, [640, 480]), [341, 256]);
        assert_eq!(size([3, 32, 32], 1.0, [16, 16]), [32, 32]);
        // The shorter side relative to the input decides.
        assert_eq!(size([3, 10, 40], 1.0, [100, 100]), [40, 40]);
        assert_eq!([middle(341, 224), middle(35, 32), middle(4, 2)], [58, 2, 1]);
    }

    /// A picture that changes from pixel to pixel: 64 and half of `x² 3 + y² 5 + x y (c + 2) + 77 c`, modulo 256. Between the
    /// passes over rows and columns, whose order is not Pillow's, nothing is then cut to 0 or 255.
    fn busy() -> Decoded {
        let [h, w] = [37usize, 53];
        let pixels = (0..h * w * 3)
            .map(|i| (i % 3, i / 3 % w, i / 3 / w))
            .map(|(c, x, y)| 64 + (x * x * 3 + y * y * 5 + x * y * (c + 2) + c * 77) as u8 / 2)
            .collect();
        Decoded {
            size: [h, w],
            channels: 3,
            pixels,
        }
    }

    // Pillow 9.4: `image.crop((5, 3, 5 + w, 3 + h)).resize((W, H), filter)`, 40x30 to 4x3, and of 6x5 to 9x8 every third row.
    const BILINEAR_SMALL: [u8; 36] = [
        126, 128, 127, 128, 125, 129, 127, 127, 130, 132, 128, 132, 128, 125, 126, 128, 127, 127,
        129, 127, 132, 136, 126, 129, 130, 124, 123, 128, 125, 129, 126, 128, 131, 129, 126, 129,
    ];
    const BILINEAR_LARGE: [u8; 81] = [
        139, 185, 103, 149, 132, 114, 162, 82, 129, 177, 98, 147, 130, 116, 165, 83, 134, 163, 102,
        154, 99, 123, 112, 100, 138, 64, 117, 180, 103, 153, 147, 114, 166, 110, 131, 169, 101,
        148, 129, 112, 123, 115, 130, 100, 117, 150, 121, 140, 128, 124, 121, 100, 122, 96, 114,
        170, 96, 126, 147, 111, 142, 119, 131, 159, 102, 153, 143, 114, 140, 117, 135, 119, 100,
        159, 107, 115, 148, 126, 132, 131, 146,
    ];
    const BICUBIC_SMALL: [u8; 36] = [
        126, 128, 127, 128, 125, 129, 127, 127, 130, 132, 129, 132, 128, 125, 126, 128, 127, 127,
        130, 126, 132, 137, 126, 129, 130, 123, 122, 128, 124, 130, 125, 128, 132, 129, 126, 129,
    ];
    const BICUBIC_LARGE: [u8; 81] = [
        136, 200, 100, 145, 136, 110, 162, 72, 127, 191, 94, 144, 132, 113, 176, 73, 133, 175, 99,
        159, 92, 123, 108, 92, 138, 56, 116, 195, 96, 160, 151, 109, 178, 101, 132, 180, 92, 162,
        123, 105, 126, 103, 131, 88, 112, 163, 116, 153, 130, 123, 123, 90, 121, 86, 109, 176, 91,
        123, 151, 105, 146, 115, 130, 167, 95, 161, 146, 110, 145, 113, 140, 116, 94, 167, 102,
        114, 150, 127, 138, 127, 154,
    ];
    const LANCZOS_SMALL: [u8; 36] = [
        125, 129, 128, 128, 125, 129, 127, 127, 130, 132, 128, 133, 128, 125, 126, 127, 128, 127,
        131, 126, 132, 137, 125, 129, 130, 123, 122, 128, 124, 130, 125, 128, 132, 129, 126, 128,
    ];
    const LANCZOS_LARGE: [u8; 81] = [
        138, 209, 100, 138, 140, 110, 164, 66, 126, 198, 91, 137, 136, 112, 182, 68, 132, 178, 94,
        159, 94, 125, 105, 85, 134, 52, 116, 203, 91, 164, 160, 100, 187, 95, 135, 188, 85, 171,
        129, 97, 130, 87, 134, 86, 108, 173, 115, 161, 133, 125, 130, 87, 118, 83, 105, 178, 88,
        120, 155, 98, 153, 110, 131, 170, 90, 165, 149, 107, 152, 108, 148, 111, 86, 175, 94, 116,
        152, 129, 144, 124, 161,
    ];

    #[test]
    fn windows_are_resized_as_by_pillow() {
        let cases: [(&str, &[u8], &[u8]); 3] = [
            ("bilinear", &BILINEAR_SMALL, &BILINEAR_LARGE),
            ("bicubic", &BICUBIC_SMALL, &BICUBIC_LARGE),
            ("lanczos", &LANCZOS_SMALL, &LANCZOS_LARGE),
        ];
        for (name, small, large) in cases {
            let filter = Filter::named(name).unwrap();
            let window = |height, width| Window {
                top: 3,
                left: 5,
                height,
                width,
            };
            let got = resize(&busy(), window(30, 40), [3, 4], filter).unwrap();
            near(&got.pixels, small, name);
            let got = resize(&busy(), window(5, 6), [8, 9], filter).unwrap();
            let rows: Vec<u8> = got
                .pixels
                .chunks(27)
                .step_by(3)
                .flatten()
                .copied()
                .collect();
            near(&rows, large, name);
        }
        assert!(
            resize(
                &busy(),
                Window {
                    top: 30,
                    ..Window::whole([8, 9])
                },
                [1, 1],
                Filter::BILINEAR
            )
            .is_err()
        );
    }

    /// Within a grey level: both round sums of integers, of which Pillow keeps a bit more.
    fn near(got: &[u8], expected: &[u8], name: &str) {
        assert_eq!(got.len(), expected.len());
        for (at, (a, b)) in got.iter().zip(expected).enumerate() {
            assert!(a.abs_diff(*b) <= 1, "{name}, {at}: {a} {b}");
        }
    }

    #[test]
    fn every_processor_gives_the_same_bytes() {
        use fast_image_resize::CpuExtensions;
        let source = busy();
        let source = TypedImageRef::<U8x3>::from_buffer(53, 37, &source.pixels).unwrap();
        for algorithm in [
            FilterType::Bilinear,
            FilterType::CatmullRom,
            FilterType::Lanczos3,
        ] {
            let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(algorithm));
            let resized = |plain: bool| {
                let mut resizer = Resizer::new();
                if plain {
                    #[expect(
                        unsafe_code,
                        reason = "the resizer marks any choice of instructions so"
                    )]
                    // SAFETY: it asks for no instructions at all.
                    unsafe {
                        resizer.set_cpu_extensions(CpuExtensions::None);
                    }
                }
                let mut out = TypedImage::<U8x3>::new(21, 29);
                resizer.resize_typed(&source, &mut out, &options).unwrap();
                out.pixels().iter().map(|p| p.0).collect::<Vec<_>>()
            };
            assert_eq!(resized(true), resized(false));
        }
    }
}
