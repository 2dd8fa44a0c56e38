//! One encoded image to rows of bytes: PNG, JPEG, WebP, BMP, GIF (its first frame), TIFF, PNM.
//!
//! The format is told by the first bytes, not by the file's name. A picture that EXIF says lies on its side is turned.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, GrayImage, ImageDecoder, ImageReader, Limits, RgbImage};

use super::decoded::Decoded;
use super::jpeg;

/// Files larger than this are not photographs.
pub(crate) const MAX_FILE_BYTES: u64 = 256 << 20;

/// The most pixels that are decoded, as in Pillow (`Image.MAX_IMAGE_PIXELS` twice): bounds the memory that a header can ask for.
/// At three bytes each they take half a GiB; a progressive JPEG takes 1.5 GiB while it is decoded.
const MOST_PIXELS: u64 = 178_956_970;

/// Bytes of a pixel in the largest format, RGBA of 16 bits.
const MOST_BYTES_PER_PIXEL: u64 = 8;

/// Extensions of the formats that are read, in lower case.
pub(crate) const EXTENSIONS: [&str; 14] = [
    "png", "jpg", "jpeg", "jpe", "jfif", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm", "pbm",
    "pnm",
];

/// What is read, in words.
pub(crate) const FORMATS: &str = "PNG, JPEG, WebP, BMP, GIF, TIFF or PNM";

/// Decodes an image and turns it upright. 16-bit samples are reduced to 8; an alpha channel is dropped.
///
/// With `size = Some((height, width))` an image of another size is refused before its pixels are decoded.
pub(crate) fn decode(bytes: &[u8], size: Option<(usize, usize)>) -> Result<Decoded, String> {
    guarded(|| decode_unguarded(bytes, size))
}

/// Height and width of the upright image, and whether it is grey for certain (of a JPEG that is not known), without decoding
/// its pixels; a JPEG that is cut off is refused all the same.
pub(crate) fn measure(bytes: &[u8]) -> Result<[usize; 2], String> {
    guarded(|| {
        if bytes.starts_with(&jpeg::MAGIC) {
            let outline = jpeg::outline(bytes)?;
            check_size(outline.size)?;
            return Ok(turned(outline.size, outline.orientation));
        }
        let mut decoder = open(bytes)?;
        let size = stored_size(&decoder);
        check_size(size)?;
        Ok(turned(size, orientation(&mut decoder)))
    })
}

/// The decoders aim not to panic on damaged input; should one do so, it is an error like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err("the image decoder failed".to_owned()))
}

fn decode_unguarded(bytes: &[u8], size: Option<(usize, usize)>) -> Result<Decoded, String> {
    if bytes.starts_with(&jpeg::MAGIC) {
        let outline = jpeg::outline(bytes)?;
        check_size(outline.size)?;
        check_expected(turned(outline.size, outline.orientation), size)?;
        return turn(jpeg::decode(bytes)?, outline.orientation);
    }
    let mut decoder = open(bytes)?;
    let stored = stored_size(&decoder);
    check_size(stored)?;
    let orientation = orientation(&mut decoder);
    check_expected(turned(stored, orientation), size)?;
    let grey = matches!(
        decoder.color_type(),
        ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16
    );
    let image = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(bytes, &error))?;
    let (channels, pixels) = if grey {
        (1, image.into_luma8().into_raw())
    } else {
        (3, image.into_rgb8().into_raw())
    };
    let decoded = Decoded {
        size: stored,
        channels,
        pixels,
    };
    turn(decoded, orientation)
}

fn open(bytes: &[u8]) -> Result<impl ImageDecoder + '_, String> {
    let reader = ImageReader::new(Cursor::new(bytes));
    let mut reader = reader
        .with_guessed_format()
        .map_err(|error| undecodable(bytes, &error.into()))?;
    if reader.format().is_none() {
        return Err(format!(
            "expected a {FORMATS} image, got {} bytes that are none",
            bytes.len()
        ));
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MOST_PIXELS * MOST_BYTES_PER_PIXEL);
    reader.limits(limits);
    reader
        .into_decoder()
        .map_err(|error| undecodable(bytes, &error))
}

fn undecodable(bytes: &[u8], error: &image::ImageError) -> String {
    format!(
        "expected a {FORMATS} image, got {} bytes that do not decode: {error}",
        bytes.len()
    )
}

fn stored_size(decoder: &impl ImageDecoder) -> [usize; 2] {
    let (width, height) = decoder.dimensions();
    [height as usize, width as usize]
}

/// How the stored picture is to be turned; as it is where the file does not say so soundly.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    decoder.orientation().unwrap_or(Orientation::NoTransforms)
}

fn check_size([height, width]: [usize; 2]) -> Result<(), String> {
    let fits = (height as u64)
        .checked_mul(width as u64)
        .is_some_and(|pixels| (1..=MOST_PIXELS).contains(&pixels));
    match fits {
        true => Ok(()),
        false => Err(format!(
            "expected 1 to {MOST_PIXELS} pixels, got {width}x{height}"
        )),
    }
}

fn check_expected(
    [height, width]: [usize; 2],
    expected: Option<(usize, usize)>,
) -> Result<(), String> {
    match expected {
        Some((h, w)) if (h, w) != (height, width) => {
            Err(format!("expected {w}x{h} pixels, got {width}x{height}"))
        }
        _ => Ok(()),
    }
}

fn turned([height, width]: [usize; 2], orientation: Orientation) -> [usize; 2] {
    match orientation {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => [width, height],
        _ => [height, width],
    }
}

fn turn(decoded: Decoded, orientation: Orientation) -> Result<Decoded, String> {
    if orientation == Orientation::NoTransforms {
        return Ok(decoded);
    }
    let ([height, width], channels) = (decoded.size, decoded.channels);
    let image = match channels {
        1 => GrayImage::from_raw(width as u32, height as u32, decoded.pixels)
            .map(DynamicImage::ImageLuma8),
        _ => RgbImage::from_raw(width as u32, height as u32, decoded.pixels)
            .map(DynamicImage::ImageRgb8),
    };
    let mut image = image.ok_or("expected whole rows of pixels")?;
    image.apply_orientation(orientation);
    Ok(Decoded {
        size: turned([height, width], orientation),
        channels,
        pixels: image.into_bytes(),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use image::{ExtendedColorType, ImageFormat};

    use super::*;

    /// A PNG of an RGB image given as planes `[3, H, W]`.
    pub(crate) fn png(planes: &[u8], height: usize, width: usize) -> Vec<u8> {
        let image = Decoded::from_planes(planes, [3, height, width]);
        encoded(&image, ImageFormat::Png)
    }

    fn encoded(image: &Decoded, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let ([h, w], color) = (image.size, [ExtendedColorType::L8, ExtendedColorType::Rgb8]);
        let color = color[usize::from(image.channels == 3)];
        image::write_buffer_with_format(
            &mut bytes,
            &image.pixels,
            w as u32,
            h as u32,
            color,
            format,
        )
        .unwrap();
        bytes.into_inner()
    }

    fn planes(decoded: &Decoded) -> Vec<u8> {
        let mut out = vec![0; decoded.pixels.len()];
        decoded.write_planes(&mut out);
        out
    }

    /// A picture that JPEG keeps nearly as it is.
    fn smooth() -> Decoded {
        let pixels = (0..48usize)
            .flat_map(|y| (0..32usize).map(move |x| (x, y)))
            .flat_map(|(x, y)| [x as u8 * 8, y as u8 * 5, 99])
            .collect();
        Decoded {
            size: [48, 32],
            channels: 3,
            pixels,
        }
    }

    #[test]
    fn planes_keep_rows_and_columns() {
        // Two rows of three columns, so a transposed image could not even have this shape.
        let expected: Vec<u8> = (0..18).map(|i| i * 10).collect();
        let decoded = decode(&png(&expected, 2, 3), Some((2, 3))).unwrap();
        assert_eq!((decoded.size, decoded.channels), ([2, 3], 3));
        assert_eq!(planes(&decoded), expected);
    }

    #[test]
    fn every_lossless_format_gives_the_same_pixels() {
        let image = Decoded::from_planes(&(0..18).map(|i| i * 14).collect::<Vec<u8>>(), [3, 2, 3]);
        for format in [
            ImageFormat::Png,
            ImageFormat::Bmp,
            ImageFormat::Tiff,
            ImageFormat::WebP,
            ImageFormat::Pnm,
        ] {
            let bytes = encoded(&image, format);
            assert_eq!(decode(&bytes, None).as_ref(), Ok(&image), "{format:?}");
            assert_eq!(measure(&bytes), Ok([2, 3]), "{format:?}");
        }
        // A GIF has a palette of at most 256 colours.
        let two = Decoded::from_planes(&[255, 0, 0, 255, 255, 0], [3, 1, 2]);
        let gif = encoded(&two, ImageFormat::Gif);
        assert_eq!(decode(&gif, None).unwrap(), two);
    }

    #[test]
    fn refuses_other_sizes_and_other_bytes() {
        let bytes = png(&[0; 18], 2, 3);
        let refused = |bytes: &[u8], size| decode(bytes, size).err().unwrap();
        assert_eq!(
            refused(&bytes, Some((3, 2))),
            "expected 2x3 pixels, got 3x2"
        );
        assert_eq!(
            refused(b"no image", None),
            "expected a PNG, JPEG, WebP, BMP, GIF, TIFF or PNM image, got 8 bytes that are none"
        );
        for length in 0..bytes.len() - 12 {
            // The last twelve bytes are the empty end marker, which a decoder may do without.
            assert!(decode(&bytes[..length], None).is_err(), "{length}");
        }
    }

    #[test]
    fn damaged_jpegs_never_panic() {
        let bytes = encoded(&smooth(), ImageFormat::Jpeg);
        for position in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[position] ^= 0x5a;
            // Either outcome is fine: JPEG has no checksums.
            let _ = decode_unguarded(&damaged, None);
        }
    }

    #[test]
    fn a_jpeg_that_was_cut_is_refused_wherever_it_was_cut() {
        let bytes = encoded(&smooth(), ImageFormat::Jpeg);
        assert_eq!(decode(&bytes, None).unwrap().size, [48, 32]);
        for length in MAGIC_END..bytes.len() {
            let error = decode(&bytes[..length], None).err();
            let expected = format!("cut off: the file ends after {length} bytes");
            assert!(
                error.as_ref().is_some_and(|e| e.starts_with(&expected)),
                "{length}: {error:?}"
            );
            assert!(measure(&bytes[..length]).is_err());
        }
    }

    const MAGIC_END: usize = jpeg::MAGIC.len();

    #[test]
    fn bytes_behind_or_between_do_no_harm() {
        let bytes = encoded(&smooth(), ImageFormat::Jpeg);
        let expected = decode(&bytes, None).unwrap();
        let mut behind = bytes.clone();
        behind.extend(b"\0\0trailing\xff\xd8\xff");
        assert_eq!(decode(&behind, None).unwrap(), expected);
        // Stray bytes before the first segment, as some cameras leave them.
        let mut between = bytes[..2].to_vec();
        between.extend([7; 9]);
        between.extend(&bytes[2..]);
        // Then the third byte is no longer FF, so such a file begins with a segment first.
        let first = 4 + usize::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        let mut between = bytes[..first].to_vec();
        between.extend([7; 9]);
        between.extend(&bytes[first..]);
        assert_eq!(decode(&between, None).unwrap(), expected);
    }

    /// The JPEG with an EXIF segment that says `orientation`.
    fn oriented(bytes: &[u8], orientation: u8) -> Vec<u8> {
        let exif = [
            &b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"[..],
            &[orientation, 0, 0, 0, 0, 0, 0],
        ]
        .concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        [&bytes[..2], &[0xff, 0xe1], &length, &exif, &bytes[2..]].concat()
    }

    #[test]
    fn pictures_are_turned_as_exif_says() {
        let bytes = encoded(&smooth(), ImageFormat::Jpeg);
        let stored = decode(&bytes, None).unwrap();
        let at = |image: &Decoded, y: usize, x: usize| {
            let start = (y * image.size[1] + x) * 3;
            [0, 1, 2].map(|c| image.pixels[start + c])
        };
        let (h, w) = (48, 32);
        for orientation in 1..=8 {
            let bytes = oriented(&bytes, orientation);
            let image = decode(&bytes, None).unwrap();
            assert_eq!(measure(&bytes), Ok(image.size));
            let swapped = orientation >= 5;
            assert_eq!(image.size, if swapped { [w, h] } else { [h, w] });
            // Where the stored pixel (y, x) = (2, 3) belongs, by the table of the EXIF standard.
            let (y, x) = (2, 3);
            let place = match orientation {
                1 => (y, x),
                2 => (y, w - 1 - x),
                3 => (h - 1 - y, w - 1 - x),
                4 => (h - 1 - y, x),
                5 => (x, y),
                6 => (x, h - 1 - y),
                7 => (w - 1 - x, h - 1 - y),
                _ => (w - 1 - x, y),
            };
            assert_eq!(
                at(&image, place.0, place.1),
                at(&stored, y, x),
                "{orientation}"
            );
        }
    }

    #[test]
    fn more_pixels_than_memory_is_promised_for_are_refused_by_the_header() {
        let bytes = encoded(&smooth(), ImageFormat::Jpeg);
        let frame = bytes.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        let mut huge = bytes.clone();
        huge[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        let expected = "expected 1 to 178956970 pixels, got 65535x65535";
        assert_eq!(decode(&huge, None).unwrap_err(), expected);
        assert_eq!(measure(&huge).unwrap_err(), expected);
    }

    #[test]
    fn channels_are_repeated_or_weighted() {
        let grey = Decoded {
            size: [1, 2],
            channels: 1,
            pixels: vec![7, 9],
        };
        let colour = grey.clone().with_channels(3).unwrap();
        assert_eq!(colour.pixels, [7, 7, 7, 9, 9, 9]);
        assert_eq!(planes(&colour), [7, 9, 7, 9, 7, 9]);
        assert_eq!(colour.with_channels(1).unwrap(), grey);
        assert_eq!(
            grey.with_channels(2).unwrap_err(),
            "expected 2 channels, got 1"
        );
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digit = |i: usize| u8::from_str_radix(&hex[i..i + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(digit).collect()
    }

    /// 16x16 pixels, written by Pillow with `progressive=True, quality=60`.
    const PROGRESSIVE: &str = "ffd8ffe000104a46494600010100000100010000ffdb0043000d090a0b0a080d0b0a0b0e0e0d0f13201513121213271c1e17\
        202e2931302e292d2c333a4a3e333646372c2d405741464c4e525352323e5a615a50604a51524fffdb0043010e0e0e131113\
        261515264f352d354f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f\
        4f4f4f4f4f4f4f4fffc20011080010001003012200021101031101ffc4001500010100000000000000000000000000000405\
        ffc4001501010100000000000000000000000000000204ffda000c030100021003100000010561d071ff00ffc40018100003\
        01010000000000000000000000000001030212ffda00080101000105029a2689a3a53c7fffc4001711010003000000000000\
        0000000000000001000211ffda0008010301013f012cae13ffc4001811000203000000000000000000000000000001021121\
        ffda0008010201013f0152bc3fffc40017100003010000000000000000000000000000011012ffda0008010100063f02ba67\
        ffc400191001000203000000000000000000000000010011103151ffda0008010100013f21cfea6575a3acffda000c030100\
        020003000000101bffc400161101010100000000000000000000000000010031ffda0008010301013f1035a37fffc4001611\
        01010100000000000000000000000000010031ffda0008010201013f10440d6fffc4001a1000030100030000000000000000\
        000000000131211141f0ffda0008010100013f108e11c2384390b9526c8bdd267fffd9";

    /// 8x8 pixels of CMYK (200, 40, 10, 30), written by Pillow with Adobe's segment.
    const CMYK: &str = "ffd8ffee000e41646f626500640000000000ffdb0043000302020302020303030304030304050805050404050a070706080c\
        0a0c0c0b0a0b0b0d0e12100d0e110e0b0b1016101113141515150c0f171816141812141514ffc00014080008000804431100\
        4d11005911004b1100ffc4001500010100000000000000000000000000000809ffc400141001000000000000000000000000\
        00000000ffda000e0443004d0059004b00003f001e1d0a70a06fffd9";

    #[test]
    fn progressive_jpegs_are_read_whole_or_not_at_all() {
        let bytes = bytes(PROGRESSIVE);
        let image = decode(&bytes, None).unwrap();
        // What Pillow reads at (0, 0), (7, 8) and (15, 15).
        for (at, expected) in [
            (0, [12, 37, 93]),
            (7 * 16 + 8, [72, 162, 163]),
            (15 * 16 + 15, [117, 47, 195]),
        ] {
            let got = &image.pixels[at * 3..at * 3 + 3];
            let near = |(a, b): (&u8, u8)| a.abs_diff(b) <= 2;
            assert!(got.iter().zip(expected).all(near), "{got:?} {expected:?}");
        }
        for length in MAGIC_END..bytes.len() {
            let error = decode(&bytes[..length], None).err().unwrap();
            assert!(error.starts_with("cut off: "), "{length}: {error}");
        }
    }

    #[test]
    fn inks_become_colours() {
        let image = decode(&bytes(CMYK), None).unwrap();
        assert_eq!((image.size, image.channels), ([8, 8], 3));
        // (255 - 200) (255 - 30) / 255 and so on, as Pillow converts.
        for (got, expected) in image.pixels[..3].iter().zip([49u8, 190, 216]) {
            assert!(got.abs_diff(expected) <= 2, "{:?}", &image.pixels[..3]);
        }
    }
}
