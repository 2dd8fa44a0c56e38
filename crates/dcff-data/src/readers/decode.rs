//! One encoded image (PNG or JPEG) to planar bytes.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::{ColorType, DynamicImage, ImageDecoder, ImageReader, Limits};

/// Longest side in pixels that is decoded: bounds the memory a damaged header can ask for.
const LONGEST_SIDE: u32 = 8192;

/// Files larger than this are not photographs.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// A decoded image: `pixels` is `[C, H, W]`, `C` is 1 (grey) or 3.
pub(crate) struct Decoded {
    pub(crate) shape: [usize; 3],
    pub(crate) pixels: Vec<u8>,
}

/// Decodes a PNG or a JPEG. 16-bit samples are reduced to 8; an alpha channel is dropped.
///
/// With `size = Some((height, width))` an image of another size is refused before its pixels are decoded.
pub(crate) fn decode(bytes: &[u8], size: Option<(usize, usize)>) -> Result<Decoded, String> {
    // The decoders aim not to panic on damaged input; should one do so, it is an error like any other.
    catch_unwind(AssertUnwindSafe(|| decode_unguarded(bytes, size)))
        .unwrap_or_else(|_| Err("the image decoder failed".to_owned()))
}

fn decode_unguarded(bytes: &[u8], size: Option<(usize, usize)>) -> Result<Decoded, String> {
    let undecodable = |error: image::ImageError| {
        format!(
            "expected a PNG or JPEG image, got {} bytes that do not decode: {error}",
            bytes.len()
        )
    };
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|error| undecodable(error.into()))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(LONGEST_SIDE);
    limits.max_image_height = Some(LONGEST_SIDE);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (width as usize, height as usize);
    if let Some((expected_height, expected_width)) = size
        && (height, width) != (expected_height, expected_width)
    {
        return Err(format!(
            "expected {expected_width}x{expected_height} pixels, got {width}x{height}"
        ));
    }
    let grey = matches!(
        decoder.color_type(),
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16
    );
    let image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    Ok(if grey {
        Decoded {
            shape: [1, height, width],
            pixels: image.into_luma8().into_raw(),
        }
    } else {
        // Interleaved rows of RGB become three planes; rows and columns keep their places.
        let interleaved = image.into_rgb8().into_raw();
        let pixels = (0..3)
            .flat_map(|channel| interleaved.iter().skip(channel).step_by(3).copied())
            .collect();
        Decoded {
            shape: [3, height, width],
            pixels,
        }
    })
}

impl Decoded {
    /// Writes the image as `channels` planes: grey is repeated over three.
    pub(crate) fn write_planes(&self, channels: usize, out: &mut [u8]) -> Result<(), String> {
        match (self.shape[0], channels) {
            (from, to) if from == to => out.copy_from_slice(&self.pixels),
            (1, 3) => {
                for plane in out.chunks_exact_mut(self.pixels.len()) {
                    plane.copy_from_slice(&self.pixels);
                }
            }
            (from, to) => return Err(format!("expected {to} channels, got {from}")),
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A PNG of an RGB image given as planes `[3, H, W]`.
    pub(crate) fn png(planes: &[u8], height: usize, width: usize) -> Vec<u8> {
        let plane = height * width;
        let interleaved = (0..plane)
            .flat_map(|i| [planes[i], planes[plane + i], planes[2 * plane + i]])
            .collect();
        let image = image::RgbImage::from_raw(width as u32, height as u32, interleaved).unwrap();
        let mut bytes = Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn planes_keep_rows_and_columns() {
        // Two rows of three columns, so a transposed image could not even have this shape.
        let planes: Vec<u8> = (0..18).map(|i| i * 10).collect();
        let decoded = decode(&png(&planes, 2, 3), Some((2, 3))).unwrap();
        assert_eq!(decoded.shape, [3, 2, 3]);
        assert_eq!(decoded.pixels, planes);
    }

    #[test]
    fn refuses_other_sizes_and_other_bytes() {
        let bytes = png(&[0; 18], 2, 3);
        let refused = |bytes: &[u8], size| decode(bytes, size).err().unwrap();
        assert_eq!(
            refused(&bytes, Some((3, 2))),
            "expected 2x3 pixels, got 3x2"
        );
        assert!(
            refused(b"no image", None).starts_with("expected a PNG or JPEG image, got 8 bytes")
        );
        for length in 0..bytes.len() - 12 {
            // The last twelve bytes are the empty end marker, which a decoder may do without.
            assert!(decode(&bytes[..length], None).is_err(), "{length}");
        }
    }

    #[test]
    fn damaged_jpegs_never_panic() {
        let mut bytes = Cursor::new(Vec::new());
        let image =
            image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 8, 99]));
        image
            .write_to(&mut bytes, image::ImageFormat::Jpeg)
            .unwrap();
        let bytes = bytes.into_inner();
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x5a;
            // Either outcome is fine: JPEG has no checksums.
            let _ = decode_unguarded(&damaged, None);
            let _ = decode_unguarded(&bytes[..position], None);
        }
    }

    #[test]
    fn grey_spreads_over_three_channels() {
        let decoded = Decoded {
            shape: [1, 1, 2],
            pixels: vec![7, 9],
        };
        let mut out = [0; 6];
        decoded.write_planes(3, &mut out).unwrap();
        assert_eq!(out, [7, 9, 7, 9, 7, 9]);
        assert_eq!(
            decoded.write_planes(2, &mut out).unwrap_err(),
            "expected 2 channels, got 1"
        );
    }
}
