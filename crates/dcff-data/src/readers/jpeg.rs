//! JPEG: what the headers say, whether the file is whole, and its pixels.
//!
//! A decoder fills what is missing from a file that was cut off with grey and says nothing. So the markers are followed to the end of
//! the image first, and the pixels are then decoded strictly; oddities in the headers, and bytes behind the image, harm nothing.
//!
//! ITU-T T.81, *Digital compression and coding of continuous-tone still images*, annex B.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::decoded::Decoded;

/// The first bytes of every JPEG.
pub(crate) const MAGIC: [u8; 3] = [0xff, 0xd8, 0xff];

/// What the markers of a whole file say.
#[derive(Debug, PartialEq)]
pub(crate) struct Outline {
    /// Height and width in pixels, as stored.
    pub(crate) size: [usize; 2],
    /// How the stored picture is to be turned, by EXIF.
    pub(crate) orientation: Orientation,
}

/// Follows the markers from the start of the image to its end.
///
/// # Errors
/// When the file ends before the image does, or has no picture.
pub(crate) fn outline(bytes: &[u8]) -> Result<Outline, String> {
    let cut = || {
        format!(
            "cut off: the file ends after {} bytes, before the JPEG's end marker",
            bytes.len()
        )
    };
    let (mut size, mut orientation) = (None, Orientation::NoTransforms);
    let (mut at, mut scans) = (MAGIC.len() - 1, 0);
    loop {
        // In a scan, bytes are data and FF 00 stands for the byte FF; between segments some programs leave stray bytes.
        at += bytes[at..]
            .iter()
            .position(|&b| b == 0xff)
            .ok_or_else(cut)?;
        at += bytes[at..]
            .iter()
            .position(|&b| b != 0xff)
            .ok_or_else(cut)?;
        let marker = bytes[at];
        at += 1;
        match marker {
            // Stuffing, TEM, restarts and a second start have no length.
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 if scans > 0 => break,
            0xd9 => return Err("expected a picture before the JPEG's end marker, got none".into()),
            _ => {}
        }
        let length = bytes.get(at..at + 2).ok_or_else(cut)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let segment = bytes.get(at + 2..at + length.max(2)).ok_or_else(cut)?;
        match marker {
            0xda => scans += 1,
            0xe1 if scans == 0 => {
                if let Some(exif) = segment.strip_prefix(b"Exif\0\0") {
                    orientation = Orientation::from_exif_chunk(exif).unwrap_or(orientation);
                }
            }
            // Start of frame; C4, C8 and CC are something else.
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                if let (None, [_, h1, h0, w1, w0, ..]) = (size, segment) {
                    let side = |high, low| usize::from(u16::from_be_bytes([high, low]));
                    size = Some([side(*h1, *h0), side(*w1, *w0)]);
                }
            }
            _ => {}
        }
        at += length.max(2);
    }
    let size = size.ok_or("expected a JPEG with a frame, got none")?;
    Ok(Outline { size, orientation })
}

/// Decodes a whole file, not turned yet: grey stays grey, everything else becomes RGB.
///
/// # Errors
/// What the decoder says of damaged data.
pub(crate) fn decode(bytes: &[u8]) -> Result<Decoded, String> {
    let failed = |error| {
        format!(
            "expected an image, got {} bytes that do not decode: {error}",
            bytes.len()
        )
    };
    // Neither bounds memory; the caller has looked at the size.
    let options = DecoderOptions::default()
        .set_strict_mode(false)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|e| failed(e.to_string()))?;
    let (channels, space) = match decoder.input_colorspace() {
        Some(ColorSpace::Luma) => (1, ColorSpace::Luma),
        _ => (3, ColorSpace::RGB),
    };
    let strict = options.set_strict_mode(true).jpeg_set_out_colorspace(space);
    decoder.set_options(strict);
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| failed("no size".into()))?;
    let mut pixels = vec![0; width * height * channels];
    decoder
        .decode_into(&mut pixels)
        .map_err(|e| failed(e.to_string()))?;
    Ok(Decoded {
        size: [height, width],
        channels,
        pixels,
    })
}
