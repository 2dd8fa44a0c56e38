//! A folder of images: which files it holds, of which class, to train on or to test on.
//!
//! ```text
//! train/CLASS/**/IMAGE and one of test, val, valid, validation      torchvision's ImageFolder, ILSVRC, imagenette
//! the same inside images/ or data/
//! val/images/IMAGE with val/val_annotations.txt                     Tiny ImageNet
//! train/CLASS/IMAGE or CLASS/IMAGE alone                            one image in five of every class is kept for testing
//! ```
//!
//! Classes are the sorted folder names, compared as bytes; files are taken in sorted order, so the set does not depend on the
//! file system. What is not used is counted and named ([`LeftOut`]).

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

use super::decode::EXTENSIONS;
use super::left_out::LeftOut;
use crate::random::Stream;
use crate::{Error, Result};

/// Where training images are.
const TRAIN: &str = "train";
/// Where the others are, in order of preference.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];
/// Folders that may stand between a folder and its parts.
const INNER: [&str; 2] = ["images", "data"];
/// The file that says what is in `val/images`: a tab after the file's name, then its class.
const ANNOTATIONS: &str = "val_annotations.txt";
/// The share of a set without test images that is kept for testing, and the seed of the choice.
const TEST_SHARE: (f64, u64) = (0.2, 0);
/// Deeper folders are a mistake or a circle of links.
const DEEPEST: usize = 16;
/// The most class names that an error lists.
const LISTED: usize = 20;

const EXPECTED: &str = "expected folders train/CLASS and test/CLASS (or val, valid, validation) of images, or CLASS alone";

/// An image file and its label.
pub(crate) type Item = (PathBuf, u32);

/// The images of a folder, found but not read.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) classes: Vec<String>,
    /// Empty where only test images were asked for.
    pub(crate) train: Vec<Item>,
    pub(crate) test: Vec<Item>,
    pub(crate) left_out: LeftOut,
    /// Whether the test images were taken from the others.
    pub(crate) split: bool,
}

/// Finds the images of `root`; only the test images, which must be of `classes`, where those are given.
///
/// # Errors
/// If the layout is none of those above, a class has no image or a name that is not UTF-8 or that another class has in other
/// bytes, or a test class is not a training class.
pub(crate) fn find(root: &Path, classes: Option<&[String]>) -> Result<Found> {
    let mut left_out = LeftOut::new(root);
    let base = base(root)?;
    let mut parts = Vec::new();
    for entry in entries(&base, &mut left_out)? {
        match entry.is_dir {
            true => parts.push(entry),
            false => left_out.add("files beside the class folders", &entry.path),
        }
    }
    let named = |name: &str| {
        let found = parts.iter().find(|part| part.is_called(name));
        found.map(|part| part.path.clone())
    };
    let train = named(TRAIN);
    if train.is_none() && TEST.iter().all(|name| named(name).is_none()) {
        return find_flat(root, &base, classes);
    }
    if train.is_none() && classes.is_none() {
        return Err(Error::damaged(root, EXPECTED));
    }
    let mut found = Found {
        classes: Vec::new(),
        train: Vec::new(),
        test: Vec::new(),
        left_out,
        split: false,
    };
    match (classes, &train) {
        (Some(classes), _) => found.classes = classes.to_vec(),
        (None, Some(train)) => {
            found.classes = class_names(train)?;
            found.train = labelled(train, &found.classes, &mut found.left_out)?;
        }
        (None, None) => {}
    }
    let mut unlabelled = None;
    let mut used = None;
    for folder in TEST.iter().filter_map(|name| named(name)) {
        if used.is_some() {
            found
                .left_out
                .add("folders beside the test images", &folder);
        } else if has_labels(&folder, &found.classes)? {
            found.test = labelled(&folder, &found.classes, &mut found.left_out)?;
            used = Some(folder);
        } else {
            found.left_out.add("folders without classes", &folder);
            unlabelled = Some(folder);
        }
    }
    let known: Vec<&str> = TEST.into_iter().chain([TRAIN]).collect();
    for part in &parts {
        if !known.iter().any(|name| part.is_called(name)) {
            found
                .left_out
                .add("folders beside train and test", &part.path);
        }
    }
    if used.is_none() {
        match (unlabelled, classes.is_some()) {
            (Some(folder), _) => {
                return Err(Error::damaged(
                    &folder,
                    "expected one folder of images per class, got none",
                ));
            }
            (None, true) => return Err(Error::damaged(root, EXPECTED)),
            (None, false) => found.keep_some_for_testing(root)?,
        }
    }
    Ok(found)
}

/// `root`, or the one of its folders that holds the parts.
fn base(root: &Path) -> Result<PathBuf> {
    let mut ignored = LeftOut::default();
    let has_parts = |folder: &Path, ignored: &mut LeftOut| -> Result<bool> {
        let mut folders = entries(folder, ignored)?.into_iter().filter(|e| e.is_dir);
        Ok(folders.any(|part| part.is_called(TRAIN) || TEST.iter().any(|n| part.is_called(n))))
    };
    if has_parts(root, &mut ignored)? {
        return Ok(root.to_owned());
    }
    for inner in INNER.map(|name| root.join(name)) {
        if inner.is_dir() && has_parts(&inner, &mut ignored)? {
            return Ok(inner);
        }
    }
    Ok(root.to_owned())
}

/// Class folders without a folder for training or testing above them.
fn find_flat(root: &Path, base: &Path, classes: Option<&[String]>) -> Result<Found> {
    let mut ignored = LeftOut::default();
    let folders: Vec<Entry> = entries(base, &mut ignored)?
        .into_iter()
        .filter(|entry| entry.is_dir)
        .collect();
    // Folders of folders are some other layout: to take their names for classes would be a guess.
    for folder in &folders {
        if !entries(&folder.path, &mut ignored)?
            .iter()
            .any(Entry::is_image)
        {
            return Err(Error::damaged(root, EXPECTED));
        }
    }
    if folders.len() < 2 && classes.is_none() || folders.is_empty() {
        return Err(Error::damaged(root, EXPECTED));
    }
    let mut found = Found {
        classes: match classes {
            Some(classes) => classes.to_vec(),
            None => class_names(base)?,
        },
        train: Vec::new(),
        test: Vec::new(),
        left_out: LeftOut::new(root),
        split: false,
    };
    let images = labelled(base, &found.classes, &mut found.left_out)?;
    match classes {
        Some(_) => found.test = images,
        None => {
            found.train = images;
            found.keep_some_for_testing(root)?;
        }
    }
    Ok(found)
}

impl Found {
    /// Moves a share of every class from the training images to the test images, always the same.
    fn keep_some_for_testing(&mut self, root: &Path) -> Result<()> {
        let (share, seed) = TEST_SHARE;
        let mut kept = vec![false; self.train.len()];
        for class in 0..self.classes.len() {
            let mut members: Vec<usize> = (0..self.train.len())
                .filter(|&i| self.train[i].1 as usize == class)
                .collect();
            Stream::indexed(seed, class as u64).shuffle(&mut members);
            let count = (members.len() as f64 * share).round() as usize;
            let count = count.clamp(usize::from(members.len() > 1), members.len());
            members[..count]
                .iter()
                .for_each(|&index| kept[index] = true);
        }
        let mut test = Vec::new();
        let mut train = Vec::new();
        for (item, kept) in std::mem::take(&mut self.train).into_iter().zip(kept) {
            if kept { &mut test } else { &mut train }.push(item);
        }
        if test.is_empty() {
            let detail = "expected a folder of test images, or at least two images of a class";
            return Err(Error::damaged(root, detail));
        }
        (self.train, self.test, self.split) = (train, test, true);
        Ok(())
    }
}

/// Something inside a folder, links followed.
struct Entry {
    path: PathBuf,
    is_dir: bool,
}

impl Entry {
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }

    fn is_called(&self, name: &str) -> bool {
        self.name().eq_ignore_ascii_case(name)
    }

    fn is_image(&self) -> bool {
        !self.is_dir && EXTENSIONS.contains(&self.extension().as_str())
    }

    /// In lower case, without the dot.
    fn extension(&self) -> String {
        let extension = self.path.extension().unwrap_or_default();
        extension.to_string_lossy().to_lowercase()
    }
}

/// What is inside `folder`, sorted by name; hidden things and links that lead nowhere go to `left_out`.
fn entries(folder: &Path, left_out: &mut LeftOut) -> Result<Vec<Entry>> {
    let io = |error| Error::io(folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().map_err(io)?;
        let is_dir = match kind.is_symlink() {
            false => kind.is_dir(),
            true => match std::fs::metadata(&path) {
                Ok(target) => target.is_dir(),
                Err(_) => {
                    left_out.add("links that lead nowhere", &path);
                    continue;
                }
            },
        };
        if name.as_encoded_bytes().starts_with(b".") {
            let kind = if is_dir {
                "hidden folders"
            } else {
                "hidden files"
            };
            left_out.add(kind, &path);
        } else {
            found.push(Entry { path, is_dir });
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The names of the folders in `folder`, sorted, at least two.
fn class_names(folder: &Path) -> Result<Vec<String>> {
    // What is left out is counted where the images are listed.
    let mut ignored = LeftOut::default();
    let mut names: Vec<String> = Vec::new();
    let mut composed: HashMap<String, usize> = HashMap::new();
    for entry in entries(folder, &mut ignored)? {
        if !entry.is_dir {
            continue;
        }
        let name = utf8_name(&entry)?;
        if let Some(&other) = composed.get(&name.nfc().collect::<String>()) {
            let detail = format!(
                "expected class names that look different, got one name written as {} and as {}",
                spelt(&names[other]),
                spelt(name)
            );
            return Err(Error::damaged(folder, detail));
        }
        composed.insert(name.nfc().collect(), names.len());
        names.push(name.to_owned());
    }
    if names.len() < 2 {
        let detail = format!(
            "expected folders of at least 2 classes, got {}",
            names.len()
        );
        return Err(Error::damaged(folder, detail));
    }
    Ok(names)
}

fn utf8_name(entry: &Entry) -> Result<&str> {
    let name = entry.name();
    name.to_str().ok_or_else(|| {
        let bytes = name.as_encoded_bytes().escape_ascii();
        let parent = entry.path.parent().unwrap_or(&entry.path);
        let detail = format!("expected class folders named in UTF-8, got one named {bytes}");
        Error::damaged(parent, detail)
    })
}

/// The name with every character beyond ASCII as its number: two ways to write one name look different.
fn spelt(name: &str) -> String {
    name.chars()
        .flat_map(|c| match c.is_ascii() && !c.is_control() {
            true => vec![c],
            false => c.escape_unicode().collect(),
        })
        .collect()
}

/// Whether the folder says of which class its images are.
fn has_labels(folder: &Path, classes: &[String]) -> Result<bool> {
    let mut ignored = LeftOut::default();
    let inside = entries(folder, &mut ignored)?;
    if inside.iter().any(|entry| entry.is_called(ANNOTATIONS)) {
        return Ok(true);
    }
    let mut folders = inside.iter().filter(|entry| entry.is_dir);
    Ok(match (folders.next(), folders.next()) {
        (None, _) => false,
        // Tiny ImageNet's test images have no labels.
        (Some(only), None) if only.is_called(INNER[0]) => {
            classes.iter().any(|class| only.name() == OsStr::new(class))
        }
        _ => true,
    })
}

/// The image files of one part with their labels, class after class.
fn labelled(part: &Path, classes: &[String], left_out: &mut LeftOut) -> Result<Vec<Item>> {
    let labels: HashMap<&str, u32> = (0..).zip(classes).map(|(i, c)| (c.as_str(), i)).collect();
    let annotations = part.join(ANNOTATIONS);
    if annotations.is_file() {
        return annotated(part, &annotations, &labels, left_out);
    }
    let mut files = Vec::new();
    for entry in entries(part, left_out)? {
        if !entry.is_dir {
            left_out.add("files outside the class folders", &entry.path);
            continue;
        }
        let class = utf8_name(&entry)?;
        let label = *labels
            .get(class)
            .ok_or_else(|| unknown_class(&entry.path, class, classes))?;
        let before = files.len();
        let mut others = left_out.clone();
        images_below(&entry.path, label, 0, &mut files, &mut others)?;
        if files.len() == before {
            let mut here = LeftOut::new(&entry.path);
            images_below(&entry.path, label, 0, &mut files, &mut here)?;
            let got = here.summary();
            let detail = format!("expected {} images, got {got}", super::decode::FORMATS);
            return Err(Error::damaged(&entry.path, detail));
        }
        *left_out = others;
    }
    if files.is_empty() {
        return Err(Error::damaged(
            part,
            "expected one folder of images per class, got none",
        ));
    }
    Ok(files)
}

fn images_below(
    folder: &Path,
    label: u32,
    depth: usize,
    files: &mut Vec<Item>,
    left_out: &mut LeftOut,
) -> Result<()> {
    if depth > DEEPEST {
        let detail = format!("expected folders at most {DEEPEST} deep; a circle of links?");
        return Err(Error::damaged(folder, detail));
    }
    for entry in entries(folder, left_out)? {
        if entry.is_dir {
            images_below(&entry.path, label, depth + 1, files, left_out)?;
        } else if entry.is_image() {
            files.push((entry.path, label));
        } else {
            let kind = match entry.extension() {
                extension if extension.is_empty() => "files without an extension".to_owned(),
                extension => format!(".{extension} files, which are not read"),
            };
            left_out.add(kind, &entry.path);
        }
    }
    Ok(())
}

/// Tiny ImageNet's validation images: a flat folder, and a table that says which class each is of.
fn annotated(
    part: &Path,
    table: &Path,
    labels: &HashMap<&str, u32>,
    left_out: &mut LeftOut,
) -> Result<Vec<Item>> {
    let text = std::fs::read_to_string(table).map_err(|error| Error::io(table, error))?;
    let inner = part.join(INNER[0]);
    let folder = if inner.is_dir() {
        inner
    } else {
        part.to_owned()
    };
    let mut of_file = HashMap::new();
    for (row, line) in text.lines().enumerate() {
        let mut fields = line.split('\t');
        let label = match (fields.next(), fields.next()) {
            (Some(file), Some(class)) => labels.get(class).map(|label| (file, *label)),
            _ => None,
        };
        let (file, label) = label.ok_or_else(|| {
            let detail = format!("expected a file, a tab and a class, got '{line}'");
            Error::record(table, "line", row + 1, detail)
        })?;
        of_file.insert(file.to_owned(), label);
    }
    let mut files = Vec::new();
    for entry in entries(&folder, left_out)? {
        let label = entry.name().to_str().and_then(|name| of_file.get(name));
        match label {
            Some(&label) if entry.is_image() => files.push((entry.path, label)),
            _ if entry.is_called(ANNOTATIONS) => {}
            _ => left_out.add("files that the annotations do not name", &entry.path),
        }
    }
    if files.is_empty() {
        let detail = "expected the images that the annotations name, got none";
        return Err(Error::damaged(&folder, detail));
    }
    Ok(files)
}

fn unknown_class(folder: &Path, class: &str, classes: &[String]) -> Error {
    let look = class.nfc().collect::<String>();
    let detail = match classes.iter().find(|c| c.nfc().collect::<String>() == look) {
        Some(other) => format!(
            "expected the class {other} written as {}, got {}",
            spelt(other),
            spelt(class)
        ),
        None => {
            let more = match classes.len().saturating_sub(LISTED) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let names = &classes[..classes.len().min(LISTED)];
            format!("expected a known class ({}{more})", names.join(", "))
        }
    };
    Error::damaged(folder, detail)
}
