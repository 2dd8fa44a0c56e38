//! One folder per class: `ROOT/train/CLASS/*.png`, `ROOT/test/CLASS/*.png` (`val` is accepted for `test`; also `.jpg`, `.jpeg`).
//!
//! Classes are the sorted folder names of `train`; files are read in sorted order, so the set does not depend on the file system.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::decode::{Decoded, MAX_FILE_BYTES, decode};
use crate::{Dataset, Error, Result, Splits};

const EXTENSIONS: [&str; 3] = ["png", "jpg", "jpeg"];

/// Reads a dataset laid out as one folder per class; all images must have one size. Grey images are repeated over three channels if
/// any image has colour.
///
/// # Errors
/// If `train` or `test` (or `val`) is missing, a training class has no image, a test class is not a training class, an image does not
/// decode, or two images differ in size; the message names the file and both sizes.
pub fn read_class_folders(name: &str, root: &Path) -> Result<Splits> {
    let train = root.join("train");
    let test = ["test", "val"]
        .map(|split| root.join(split))
        .into_iter()
        .find(|folder| folder.is_dir());
    let (true, Some(test)) = (train.is_dir(), test) else {
        return Err(Error::damaged(
            root,
            "expected folders train/CLASS and test/CLASS (or val/CLASS) of .png, .jpg or .jpeg images",
        ));
    };

    let classes: Vec<String> = subfolders(&train)?
        .into_iter()
        .map(|(class, _)| class)
        .collect();
    if classes.len() < 2 {
        let detail = format!(
            "expected folders of at least 2 classes, got {}",
            classes.len()
        );
        return Err(Error::damaged(&train, detail));
    }
    let train_files = labelled_files(&train, &classes)?;
    let test_files = labelled_files(&test, &classes)?;
    let train_images = decode_all(&train_files)?;
    let test_images = decode_all(&test_files)?;

    let files = train_files.iter().chain(&test_files);
    let images = train_images.iter().chain(&test_images);
    let [_, height, width] = train_images[0].shape;
    for ((file, _), image) in files.zip(images.clone()) {
        let [_, h, w] = image.shape;
        if (h, w) != (height, width) {
            let first = train_files[0].0.display();
            let detail = format!("expected {width}x{height} pixels as in {first}, got {w}x{h}");
            return Err(Error::image(file, detail));
        }
    }
    let channels = images.map(|image| image.shape[0]).max().unwrap_or(3);
    let shape = [channels, height, width];
    let collect = |split, files: &[(PathBuf, u32)], images: &[Decoded]| {
        let len = shape.iter().product();
        let mut pixels = vec![0; images.len() * len];
        for ((image, out), (file, _)) in images.iter().zip(pixels.chunks_exact_mut(len)).zip(files)
        {
            image
                .write_planes(channels, out)
                .map_err(|detail| Error::image(file, detail))?;
        }
        let labels = files.iter().map(|(_, label)| *label).collect();
        Dataset::new(
            format!("{name} {split}"),
            shape,
            classes.clone(),
            labels,
            pixels,
        )
    };
    Splits::new(
        collect("train", &train_files, &train_images)?,
        collect("test", &test_files, &test_images)?,
    )
}

/// The folders inside `folder` with their names, sorted; hidden ones are skipped.
fn subfolders(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            let class = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !class.starts_with('.') {
                found.push((class, path));
            }
        }
    }
    Ok(found)
}

/// Everything inside `folder`, sorted by path.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| Error::io(folder, error))? {
        paths.push(entry.map_err(|error| Error::io(folder, error))?.path());
    }
    paths.sort();
    Ok(paths)
}

/// The image files of one split with their labels, class after class.
fn labelled_files(split: &Path, classes: &[String]) -> Result<Vec<(PathBuf, u32)>> {
    let mut files = Vec::new();
    for (class, folder) in subfolders(split)? {
        let Some(label) = classes.iter().position(|known| *known == class) else {
            let detail = format!(
                "expected a class of the training set ({})",
                classes.join(", ")
            );
            return Err(Error::damaged(&folder, detail));
        };
        let before = files.len();
        for path in entries(&folder)? {
            let extension = path
                .extension()
                .unwrap_or_default()
                .to_string_lossy()
                .to_lowercase();
            if path.is_file() && EXTENSIONS.contains(&extension.as_str()) {
                files.push((path, label as u32));
            }
        }
        if files.len() == before {
            return Err(Error::damaged(
                &folder,
                "expected .png, .jpg or .jpeg images, got none",
            ));
        }
    }
    if files.is_empty() {
        return Err(Error::damaged(
            split,
            "expected one folder of images per class, got none",
        ));
    }
    Ok(files)
}

fn decode_all(files: &[(PathBuf, u32)]) -> Result<Vec<Decoded>> {
    files
        .par_iter()
        .map(|(file, _)| {
            let bytes = dcff_file::read(file, MAX_FILE_BYTES)?;
            decode(&bytes, None).map_err(|detail| Error::image(file, detail))
        })
        // The first file in order, so that the message does not depend on the number of threads.
        .collect::<Vec<_>>()
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::decode::tests::png;

    /// Image `i` of 2 rows and 3 columns.
    fn planes(i: usize) -> Vec<u8> {
        (0..18).map(|p| (p * 11 + i * 5) as u8).collect()
    }

    fn put(root: &Path, file: &str, bytes: &[u8]) {
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
        put(folder.path(), "train/cat/notes.txt", b"not an image");
        folder
    }

    fn message(folder: &tempfile::TempDir) -> String {
        let error = read_class_folders("toy", folder.path())
            .unwrap_err()
            .to_string();
        error.replace(&folder.path().display().to_string(), "ROOT")
    }

    #[test]
    fn classes_and_files_are_sorted_and_pixels_untransposed() {
        let folder = toy();
        let splits = read_class_folders("toy", folder.path()).unwrap();
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
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let folder = toy();
        put(folder.path(), "val/bird/1.png", &png(&planes(0), 2, 3));
        assert_eq!(
            message(&folder),
            "ROOT/val/bird: expected a class of the training set (cat, dog)"
        );
        let folder = toy();
        put(folder.path(), "train/ant/readme", b"");
        assert_eq!(
            message(&folder),
            "ROOT/train/ant: expected .png, .jpg or .jpeg images, got none"
        );
        let folder = toy();
        put(folder.path(), "train/cat/c.jpg", b"damaged");
        assert!(
            message(&folder)
                .starts_with("ROOT/train/cat/c.jpg: expected a PNG or JPEG image, got 7 bytes")
        );
        let folder = toy();
        std::fs::remove_dir_all(folder.path().join("val")).unwrap();
        assert_eq!(
            message(&folder),
            "ROOT: expected folders train/CLASS and test/CLASS (or val/CLASS) of .png, .jpg or .jpeg images"
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
        put(folder.path(), "test/b/1.png", &png(&planes(0), 2, 3));
        let splits = read_class_folders("toy", folder.path()).unwrap();
        assert_eq!(splits.train.shape(), [3, 2, 3]);
        assert_eq!(&splits.train.image(0)[6..12], [1, 2, 3, 4, 5, 6]);
    }
}
