//! The images of a folder as a set: all of one size in memory, or left in their files.

use std::path::Path;

use rayon::prelude::*;

use super::decode::{MAX_FILE_BYTES, decode, measure};
use super::folders::{Found, Item, find};
use crate::files::Files;
use crate::resize::Fit;
use crate::{Dataset, Error, Result, Splits, Wanted};

/// Images that all have one size are kept in memory up to so many bytes of pixels.
const MOST_BYTES: u64 = 1 << 30;
/// Images that are resized are kept in memory up to so many bytes; more are resized when they are needed.
const MOST_RESIZED_BYTES: u64 = 1 << 28;
/// Images of one size are used as they are up to so many times the sides of the network's own size.
const MOST_TIMES: usize = 2;
/// Bad images that an error names.
const NAMED: usize = 10;

/// A folder's images, and what a user is to be told about them.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) splits: Splits,
    /// Lines: what was left out, what was resized.
    pub(crate) notes: Vec<String>,
    /// Images left out since they cannot be read.
    pub(crate) skipped: usize,
}

/// Reads a dataset laid out as one folder per class; all images must have one size. Grey images are repeated over three channels if
/// any image has colour.
///
/// # Errors
/// If the layout is unknown, a class has no image, a test class is not a training class, an image does not
/// decode, or two images differ in size; the message names the file and both sizes.
pub fn read_class_folders(name: &str, root: &Path) -> Result<Splits> {
    Ok(read_folder(name, root, &Wanted::default())?.splits)
}

/// As [`read_class_folders`], as `wanted`.
///
/// # Errors
/// As there; images may differ in size where `wanted` says what becomes of them.
pub(crate) fn read_folder(name: &str, root: &Path, wanted: &Wanted) -> Result<Read> {
    let found = find(root, None)?;
    let mut notes: Vec<String> = found.left_out.line().into_iter().collect();
    if found.split {
        notes.push(format!(
            "{}: no folder of test images: {} of {} images are kept for testing",
            root.display(),
            found.test.len(),
            found.train.len() + found.test.len()
        ));
    }
    let (found, sizes, skipped) = sound(root, found, wanted, &mut notes)?;
    let how = How::of(&found, &sizes, wanted, &mut notes, root)?;
    let set =
        |part: &str, items: &[Item]| how.set(format!("{name} {part}"), root, items, &found.classes);
    let (train, test) = (set("train", &found.train)?, set("test", &found.test)?);
    let (train, test) = match how {
        How::Own(None) => same_channels(train, test)?,
        _ => (train, test),
    };
    Ok(Read {
        splits: Splits::new(train, test)?,
        notes,
        skipped,
    })
}

/// Reads only the test images, which must be of `classes`.
///
/// # Errors
/// As [`read_folder`].
pub(crate) fn read_test_folder(
    name: &str,
    root: &Path,
    classes: &[String],
    wanted: &Wanted,
) -> Result<(Dataset, Vec<String>)> {
    let found = find(root, Some(classes))?;
    let mut notes: Vec<String> = found.left_out.line().into_iter().collect();
    let (found, sizes, _) = sound(root, found, wanted, &mut notes)?;
    let how = How::of(&found, &sizes, wanted, &mut notes, root)?;
    let test = how.set(format!("{name} test"), root, &found.test, &found.classes)?;
    Ok((test, notes))
}

/// What keeps an image from being used.
type Bad = (std::path::PathBuf, String);

/// The images that can be read, with their sizes `[h, w]`: training images first. All bad ones are named at once, or left out where
/// `wanted` says so.
///
/// Only pixels of JPEGs are not looked at here: of these the markers are followed to the end.
fn sound(
    root: &Path,
    mut found: Found,
    wanted: &Wanted,
    notes: &mut Vec<String>,
) -> Result<(Found, Vec<[usize; 2]>, usize)> {
    let check = |(path, _): &Item| -> std::result::Result<[usize; 2], Bad> {
        let bytes = dcff_file::read(path, MAX_FILE_BYTES)
            .map_err(|error| (path.clone(), error.detail()))?;
        let bad = |detail| (path.clone(), detail);
        match bytes.starts_with(&super::jpeg::MAGIC) {
            true => measure(&bytes).map_err(bad),
            false => decode(&bytes, None).map(|image| image.size).map_err(bad),
        }
    };
    // In order, so that the message does not depend on the number of threads.
    let checked: Vec<_> = found
        .train
        .par_iter()
        .chain(&found.test)
        .map(check)
        .collect();
    let total = checked.len();
    let bad: Vec<&Bad> = checked.iter().filter_map(|c| c.as_ref().err()).collect();
    if bad.is_empty() {
        let sizes = checked.into_iter().flatten().collect();
        return Ok((found, sizes, 0));
    }
    let named: Vec<String> = bad
        .iter()
        .take(NAMED)
        .map(|(path, detail)| {
            let inside = path.strip_prefix(root).unwrap_or(path).display();
            format!("{inside}: {detail}")
        })
        .collect();
    let more = match bad.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    if !wanted.skip_bad {
        return Err(match &bad[..] {
            [(path, detail)] => Error::image(path, detail.clone()),
            _ => {
                let count = bad.len();
                let named = named.join("; ");
                let detail = format!("{count} of {total} images cannot be read: {named}{more}");
                Error::damaged(root, detail)
            }
        });
    }
    let skipped = bad.len();
    let names = named.join("; ");
    notes.push(format!(
        "{}: {skipped} of {total} images cannot be read and are left out: {names}{more}",
        root.display()
    ));
    let (train, test) = checked.split_at(found.train.len());
    let keep = |items: &mut Vec<Item>, checked: &[std::result::Result<[usize; 2], Bad>]| {
        let mut checked = checked.iter();
        items.retain(|_| checked.next().is_some_and(std::result::Result::is_ok));
    };
    keep(&mut found.train, train);
    keep(&mut found.test, test);
    let sizes = checked.into_iter().flatten().collect();
    Ok((found, sizes, skipped))
}

/// How the images of a folder become a set.
#[derive(Debug, PartialEq)]
enum How {
    /// As they are, in memory, with so many channels, or as many as they have.
    Own(Option<usize>),
    /// Resized, in memory.
    Resized(Fit),
    /// In their files.
    Files(Fit),
}

impl How {
    fn of(
        found: &Found,
        sizes: &[[usize; 2]],
        wanted: &Wanted,
        notes: &mut Vec<String>,
        root: &Path,
    ) -> Result<Self> {
        let items = || found.train.iter().chain(&found.test);
        let Some(&first) = sizes.first() else {
            return Err(Error::damaged(root, "expected at least 1 image, got 0"));
        };
        let odd = sizes.iter().position(|&size| size != first);
        let own = |[h, w]: [usize; 2]| match (wanted.input, wanted.network) {
            (Some([_, ih, iw]), _) => [ih, iw] == [h, w],
            (None, Some([_, nh, nw])) => h <= MOST_TIMES * nh && w <= MOST_TIMES * nw,
            (None, None) => true,
        };
        let channels = wanted
            .input
            .or(wanted.network)
            .map(|[channels, ..]| channels);
        let bytes = |[h, w]: [usize; 2]| {
            let pixels = (h * w) as u64 * channels.unwrap_or(3) as u64;
            pixels.saturating_mul(sizes.len() as u64)
        };
        let crops = wanted.area.is_some() || wanted.crop_pct.is_some_and(|share| share < 1.0);
        if odd.is_none() && own(first) && !crops && bytes(first) <= MOST_BYTES {
            return Ok(Self::Own(channels));
        }
        let target = match (wanted.input, odd, wanted.network) {
            (Some(input), ..) => input,
            (None, None, Some(network)) if !own(first) => {
                let ([h, w], [_, nh, nw]) = (first, network);
                notes.push(format!(
                    "{}: images of {w}x{h} are resized to the network's own {nw}x{nh}; --input-size names another size",
                    root.display()
                ));
                network
            }
            (None, None, _) => [channels.unwrap_or(3), first[0], first[1]],
            (None, Some(odd), Some(network)) => {
                let file = items()
                    .nth(odd)
                    .map(|(path, _)| path.clone())
                    .unwrap_or_default();
                let inside = file.strip_prefix(root).unwrap_or(&file).display();
                let ([h, w], [oh, ow], [_, nh, nw]) = (first, sizes[odd], network);
                notes.push(format!(
                    "{}: images of several sizes ({w}x{h}, {inside}: {ow}x{oh}, ...) are resized to the network's own {nw}x{nh}; \
                     --input-size names another",
                    root.display()
                ));
                network
            }
            (None, Some(odd), None) => {
                let mut items = items();
                let first_file = items.next().map(|(path, _)| path.display().to_string());
                let file = items.nth(odd - 1).map(|(path, _)| path.clone());
                let ([h, w], [oh, ow]) = (first, sizes[odd]);
                let as_in = first_file.unwrap_or_default();
                let detail = format!("expected {w}x{h} pixels as in {as_in}, got {ow}x{oh}");
                return Err(Error::image(&file.unwrap_or_default(), detail));
            }
        };
        let fit = wanted.fit(target)?;
        let [_, h, w] = target;
        Ok(
            match wanted.area.is_none() && bytes([h, w]) <= MOST_RESIZED_BYTES {
                true => Self::Resized(fit),
                false => Self::Files(fit),
            },
        )
    }

    fn set(
        &self,
        name: String,
        root: &Path,
        items: &[Item],
        classes: &[String],
    ) -> Result<Dataset> {
        let labels: Vec<u32> = items.iter().map(|(_, label)| *label).collect();
        let classes = classes.to_vec();
        let read = |(path, _): &Item| {
            let bytes = dcff_file::read(path, MAX_FILE_BYTES)?;
            decode(&bytes, None).map_err(|detail| Error::image(path, detail))
        };
        match self {
            Self::Files(fit) => {
                Dataset::of_files(name, classes, labels, Files::new(root, items, fit.clone())?)
            }
            Self::Resized(fit) => {
                let len: usize = fit.input_size.iter().product();
                let mut pixels = vec![0; items.len() * len];
                in_order(
                    pixels
                        .par_chunks_exact_mut(len)
                        .zip(items)
                        .map(|(out, item)| {
                            let image = fit.apply(read(item)?);
                            image
                                .map_err(|detail| Error::image(&item.0, detail))?
                                .write_planes(out);
                            Ok(())
                        }),
                )?;
                Dataset::new(name, fit.input_size, classes, labels, pixels)
            }
            Self::Own(channels) => {
                let images: Vec<_> = items.par_iter().map(read).collect();
                let images = images.into_iter().collect::<Result<Vec<_>>>()?;
                let most = images.iter().map(|image| image.channels).max();
                let channels = channels.or(most).unwrap_or(3);
                let [h, w] = images.first().map_or([0, 0], |image| image.size);
                let len = channels * h * w;
                let mut pixels = vec![0; images.len() * len];
                for ((image, out), (path, _)) in images
                    .into_iter()
                    .zip(pixels.chunks_exact_mut(len.max(1)))
                    .zip(items)
                {
                    let image = image.with_channels(channels);
                    image
                        .map_err(|detail| Error::image(path, detail))?
                        .write_planes(out);
                }
                Dataset::new(name, [channels, h, w], classes, labels, pixels)
            }
        }
    }
}

/// The first error in order, so that the message does not depend on the number of threads.
fn in_order(results: impl IndexedParallelIterator<Item = Result<()>>) -> Result<()> {
    let results: Vec<Result<()>> = results.collect();
    results.into_iter().collect()
}

/// Grey images are repeated over three channels where the other part has colour.
fn same_channels(train: Dataset, test: Dataset) -> Result<(Dataset, Dataset)> {
    let channels = train.shape()[0].max(test.shape()[0]);
    Ok((
        train.with_channels(channels)?,
        test.with_channels(channels)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::decode::tests::png;

    /// Image `i` of 2 rows and 3 columns.
    fn planes(i: usize) -> Vec<u8> {
        (0..18).map(|p| (p * 11 + i * 5) as u8).collect()
    }

    fn put(root: &Path, file: impl AsRef<Path>, bytes: &[u8]) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn toy() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (i, file) in [
            "train/dog/1.png",
            "train/cat/b.PNG",
            "train/cat/a.png",
            "val/dog/9.png",
        ]
        .into_iter()
        .enumerate()
        {
            put(folder.path(), file, &png(&planes(i), 2, 3));
        }
        folder
    }

    fn shown(folder: &tempfile::TempDir, text: &str) -> String {
        text.replace(&folder.path().display().to_string(), "ROOT")
    }

    fn message(folder: &tempfile::TempDir) -> String {
        let error = read_class_folders("toy", folder.path()).unwrap_err();
        shown(folder, &error.to_string())
    }

    fn read(folder: &tempfile::TempDir, wanted: &Wanted) -> (Read, Vec<String>) {
        let read = read_folder("toy", folder.path(), wanted).unwrap();
        let notes = read.notes.iter().map(|note| shown(folder, note)).collect();
        (read, notes)
    }

    #[test]
    fn classes_and_files_are_sorted_and_pixels_untransposed() {
        let folder = toy();
        let (Read { splits, .. }, notes) = read(&folder, &Wanted::default());
        assert_eq!(notes, [""; 0]);
        assert_eq!(splits.train.classes(), ["cat", "dog"]);
        assert_eq!(splits.train.labels(), [0, 0, 1]);
        assert_eq!(splits.train.shape(), [3, 2, 3]);
        assert_eq!(splits.train.image(0), planes(2));
        assert_eq!(splits.train.image(1), planes(1));
        assert_eq!(splits.train.image(2), planes(0));
        assert_eq!(
            (splits.test.labels(), splits.test.image(0)),
            (&[1][..], &planes(3)[..])
        );
    }

    #[test]
    fn an_image_of_another_size_names_the_file_and_both_sizes() {
        let folder = toy();
        put(folder.path(), "val/cat/7.png", &png(&[0; 12], 2, 2));
        assert_eq!(
            message(&folder),
            "ROOT/val/cat/7.png: expected 3x2 pixels as in ROOT/train/cat/a.png, got 2x2"
        );
        // A network says what becomes of such images.
        let wanted = Wanted {
            network: Some([3, 2, 2]),
            ..Wanted::default()
        };
        let (Read { splits, .. }, notes) = read(&folder, &wanted);
        assert_eq!(splits.test.shape(), [3, 2, 2]);
        assert_eq!(splits.test.image(0), [0; 12]);
        assert_eq!(
            notes,
            [
                "ROOT: images of several sizes (3x2, val/cat/7.png: 2x2, ...) are resized to the network's own 2x2; \
              --input-size names another"
            ]
        );
        // Its middle two columns of three: round(0.5) is 0.
        let first: Vec<u8> = planes(2)
            .chunks(3)
            .flat_map(|row| &row[..2])
            .copied()
            .collect();
        assert_eq!(splits.train.image(0), first);
    }

    #[test]
    fn what_is_left_out_is_counted_and_named() {
        let folder = toy();
        let (clean, _) = read(&folder, &Wanted::default());
        for file in [
            "train/cat/notes.txt",
            "train/cat/more.txt",
            "train/cat/photo.heic",
            "train/cat/README",
            "train/cat/._a.png",
            "train/.DS_Store",
            "train/.git/x.png",
            "train/stray.png",
            "valid/cat/1.png",
            "words.txt",
            "extra/1.png",
        ] {
            put(folder.path(), file, b"x");
        }
        #[cfg(unix)]
        std::os::unix::fs::symlink("nowhere", folder.path().join("train/dog/link.png")).unwrap();
        let (Read { splits, .. }, notes) = read(&folder, &Wanted::default());
        assert_eq!(splits.train.fingerprint(), clean.splits.train.fingerprint());
        let links = if cfg!(unix) {
            "; links that lead nowhere: 1 (train/dog/link.png)"
        } else {
            ""
        };
        let expected = format!(
            "ROOT: left out: .heic files, which are not read: 1 (train/cat/photo.heic); \
             .txt files, which are not read: 2 (train/cat/more.txt, ...); \
             files beside the class folders: 1 (words.txt); files outside the class folders: 1 (train/stray.png); \
             files without an extension: 1 (train/cat/README); folders beside the test images: 1 (valid); \
             folders beside train and test: 1 (extra); hidden files: 2 (train/.DS_Store, ...); \
             hidden folders: 1 (train/.git){links}"
        );
        assert_eq!(notes, [expected]);
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let folder = toy();
        put(folder.path(), "val/bird/1.png", &png(&planes(0), 2, 3));
        assert_eq!(
            message(&folder),
            "ROOT/val/bird: expected a known class (cat, dog)"
        );
        let folder = toy();
        put(folder.path(), "train/ant/readme", b"");
        assert_eq!(
            message(&folder),
            "ROOT/train/ant: expected PNG, JPEG, WebP, BMP, GIF, TIFF or PNM images, \
             got files without an extension: 1 (readme)"
        );
        let folder = toy();
        put(folder.path(), "train/cat/c.jpg", b"damaged");
        assert_eq!(
            message(&folder),
            "ROOT/train/cat/c.jpg: expected a PNG, JPEG, WebP, BMP, GIF, TIFF or PNM image, got 7 bytes that are none"
        );
        let folder = tempfile::tempdir().unwrap();
        let expected = format!("ROOT: {}", "expected folders train/CLASS and test/CLASS");
        assert!(message(&folder).starts_with(&expected));
        put(folder.path(), "a/b/1.png", &png(&planes(0), 2, 3));
        put(folder.path(), "c/b/1.png", &png(&planes(0), 2, 3));
        assert!(
            message(&folder).starts_with(&expected),
            "{}",
            message(&folder)
        );
    }

    #[test]
    fn all_bad_images_are_named_at_once_or_left_out() {
        let folder = toy();
        let (clean, _) = read(&folder, &Wanted::default());
        for i in 10..22 {
            put(folder.path(), format!("train/cat/{i}.png"), b"x");
        }
        put(folder.path(), "val/cat/0.jpg", b"\xff\xd8\xff\xe0");
        let all = message(&folder);
        assert!(
            all.starts_with(
                "ROOT: 13 of 17 images cannot be read: train/cat/10.png: expected a PNG"
            ),
            "{all}"
        );
        assert!(
            all.ends_with("; and 3 more") && !all.contains("20.png"),
            "{all}"
        );
        let wanted = Wanted {
            skip_bad: true,
            ..Wanted::default()
        };
        let (got, notes) = read(&folder, &wanted);
        assert_eq!(got.skipped, 13);
        assert!(
            notes[0].contains("13 of 17 images cannot be read and are left out"),
            "{notes:?}"
        );
        assert_eq!(
            got.splits.train.fingerprint(),
            clean.splits.train.fingerprint()
        );
    }

    #[test]
    fn every_usual_layout_holds_the_same_images() {
        let clean = toy();
        let (clean, _) = read(&clean, &Wanted::default());
        let hash = |set: &Dataset| set.fingerprint().to_owned();
        let image = |i| png(&planes(i), 2, 3);
        let layouts: [&[(&str, usize)]; 4] = [
            // Another name and case for the test images, folders inside class folders.
            &[
                ("Train/dog/1.png", 0),
                ("Train/cat/inner/b.png", 1),
                ("Train/cat/a.png", 2),
                ("validation/dog/9.png", 3),
            ],
            &[
                ("images/train/dog/1.png", 0),
                ("images/train/cat/b.png", 1),
                ("images/train/cat/a.png", 2),
                ("images/valid/dog/9.png", 3),
            ],
            // Test images without labels beside validation images with some.
            &[
                ("train/dog/1.png", 0),
                ("train/cat/b.png", 1),
                ("train/cat/a.png", 2),
                ("val/dog/9.png", 3),
                ("test/1.png", 0),
            ],
            &[
                ("train/dog/images/1.png", 0),
                ("train/cat/images/b.png", 1),
                ("train/cat/images/a.png", 2),
                ("val/images/val_0.png", 3),
                ("test/images/test_0.png", 0),
            ],
        ];
        for files in layouts {
            let folder = tempfile::tempdir().unwrap();
            for &(file, i) in files {
                put(folder.path(), file, &image(i));
            }
            if files[3].0 == "val/images/val_0.png" {
                let table = "val_0.png\tdog\t0\t0\t1\t1\n";
                put(folder.path(), "val/val_annotations.txt", table.as_bytes());
            }
            let (Read { splits, .. }, _) = read(&folder, &Wanted::default());
            assert_eq!(hash(&splits.train), hash(&clean.splits.train), "{files:?}");
            assert_eq!(hash(&splits.test), hash(&clean.splits.test), "{files:?}");
        }
    }

    #[test]
    fn without_a_test_folder_one_image_in_five_of_every_class_is_kept() {
        for prefix in ["", "train/"] {
            let folder = tempfile::tempdir().unwrap();
            for i in 0..20 {
                let class = if i < 10 { "cat" } else { "dog" };
                let file = format!("{prefix}{class}/{i}.png");
                put(folder.path(), file, &png(&planes(i), 2, 3));
            }
            let (Read { splits, .. }, notes) = read(&folder, &Wanted::default());
            assert_eq!(
                notes,
                ["ROOT: no folder of test images: 4 of 20 images are kept for testing"]
            );
            assert_eq!(splits.test.labels(), [0, 0, 1, 1]);
            assert_eq!(splits.train.len(), 16);
        }
    }

    #[test]
    fn test_images_alone_are_enough_to_measure_on() {
        let folder = toy();
        let classes = ["cat", "dog", "emu"].map(str::to_owned);
        let root = folder.path();
        std::fs::remove_dir_all(root.join("train")).unwrap();
        let wanted = Wanted::default();
        for root in [root.to_owned(), root.join("val")] {
            let (test, _) = read_test_folder("toy", &root, &classes, &wanted).unwrap();
            assert_eq!((test.labels(), test.image(0)), (&[1][..], &planes(3)[..]));
            assert_eq!(test.classes(), classes);
        }
        assert!(message(&folder).starts_with("ROOT: expected folders train/CLASS"));
    }

    #[cfg(unix)]
    #[test]
    fn names_are_bytes_and_two_ways_to_write_one_name_are_told_apart() {
        use std::os::unix::ffi::OsStrExt;
        let folder = toy();
        let latin = std::ffi::OsStr::from_bytes(b"caf\xe9");
        let path = folder.path().join("train").join(latin);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("1.png"), png(&planes(0), 2, 3)).unwrap();
        assert_eq!(
            message(&folder),
            "ROOT/train: expected class folders named in UTF-8, got one named caf\\xe9"
        );
        let folder = toy();
        put(
            folder.path(),
            "train/caf\u{e9}/1.png",
            &png(&planes(0), 2, 3),
        );
        put(
            folder.path(),
            "val/cafe\u{301}/1.png",
            &png(&planes(0), 2, 3),
        );
        assert_eq!(
            message(&folder),
            "ROOT/val/cafe\u{301}: expected the class caf\u{e9} written as caf\\u{e9}, got cafe\\u{301}"
        );
        put(
            folder.path(),
            "train/cafe\u{301}/1.png",
            &png(&planes(0), 2, 3),
        );
        assert_eq!(
            message(&folder),
            "ROOT/train: expected class names that look different, got one name written as cafe\\u{301} and as caf\\u{e9}"
        );
    }

    #[test]
    fn grey_images_make_one_channel_unless_one_has_colour() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = std::io::Cursor::new(Vec::new());
        let grey = image::GrayImage::from_raw(3, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        grey.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        for file in ["train/a/1.png", "train/b/1.png", "test/a/1.png"] {
            put(folder.path(), file, bytes.get_ref());
        }
        let splits = read_class_folders("toy", folder.path()).unwrap();
        assert_eq!(splits.train.shape(), [1, 2, 3]);
        assert_eq!(splits.train.image(0), [1, 2, 3, 4, 5, 6]);
        let wanted = Wanted {
            network: Some([3, 32, 32]),
            ..Wanted::default()
        };
        let (colour, _) = read(&folder, &wanted);
        assert_eq!(colour.splits.train.shape(), [3, 2, 3]);
        put(folder.path(), "test/b/1.png", &png(&planes(0), 2, 3));
        let splits = read_class_folders("toy", folder.path()).unwrap();
        assert_eq!(splits.train.shape(), [3, 2, 3]);
        assert_eq!(&splits.train.image(0)[6..12], [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn large_or_whole_images_stay_in_their_files() {
        let folder = toy();
        let wanted = Wanted {
            input: Some([3, 2, 2]),
            area: Some(crate::Area::IMAGENET),
            ..Wanted::default()
        };
        let (Read { splits, .. }, _) = read(&folder, &wanted);
        assert!(splits.train.pixels().is_empty());
        assert_eq!((splits.train.len(), splits.train.shape()), (3, [3, 2, 2]));
        let memory = Wanted {
            area: None,
            ..wanted.clone()
        };
        let (in_memory, _) = read(&folder, &memory);
        for index in 0..3 {
            let image = splits.train.read(index).unwrap();
            assert_eq!(*image, *in_memory.splits.train.image(index));
        }
        // Another name is another set; so is another label or size.
        let before = splits.train.fingerprint().to_owned();
        assert_eq!(read(&folder, &wanted).0.splits.train.fingerprint(), before);
        std::fs::rename(
            folder.path().join("train/cat/a.png"),
            folder.path().join("train/cat/c.png"),
        )
        .unwrap();
        assert_ne!(read(&folder, &wanted).0.splits.train.fingerprint(), before);
    }
}
