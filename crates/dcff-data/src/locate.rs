//! From what a user types to files on disk to images in memory.

use std::path::{Path, PathBuf};

use crate::manifest::{find, known_names};
use crate::readers::{CIFAR_TEST, CIFAR_TRAIN, read_folder, read_test_folder};
use crate::{
    Augmentation, Dataset, DatasetInfo, Error, Fit, Normalisation, Result, Splits, SyntheticConfig,
    Wanted, read_cifar_binary, read_cifar_python, read_cifar_tar, read_class_folders, read_parquet,
    synthetic,
};

/// Where the images of a dataset were found and how they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// Drawn when loaded; needs no files.
    Synthetic(SyntheticConfig),
    /// The Hub's layout: encoded images in parquet files, in reading order.
    Parquet {
        /// Files of the training set.
        train: Vec<PathBuf>,
        /// Files of the test set.
        test: Vec<PathBuf>,
    },
    /// A folder with `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`.
    CifarBinary(PathBuf),
    /// A folder with the pickled `data_batch_1` to `data_batch_5` and `test_batch`.
    CifarPython(PathBuf),
    /// `cifar-10-binary.tar.gz` or `cifar-10-python.tar.gz`.
    CifarTar(PathBuf),
    /// A folder with `train/CLASS/` and `test/CLASS/` (or `val/CLASS/`).
    ClassFolders(PathBuf),
}

impl std::fmt::Display for Source {
    /// The place in a few words, for a log line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Synthetic(config) => write!(f, "drawn from seed {}", config.seed),
            Self::Parquet { train, .. } => match train.first().and_then(|file| file.parent()) {
                Some(folder) => write!(f, "parquet files in {}", folder.display()),
                None => write!(f, "no files"),
            },
            Self::CifarBinary(folder) => write!(f, "binary batches in {}", folder.display()),
            Self::CifarPython(folder) => write!(f, "python batches in {}", folder.display()),
            Self::CifarTar(file) => write!(f, "{}", file.display()),
            Self::ClassFolders(folder) => write!(f, "class folders in {}", folder.display()),
        }
    }
}

/// A dataset that is there, but not read yet.
#[derive(Debug, Clone)]
pub struct Located {
    /// Its name: a known one, or that of a folder.
    pub name: String,
    /// Where it is.
    pub source: Source,
    /// Take only the first images of every class, (training, test), in file order.
    pub first_per_class: Option<(usize, usize)>,
}

/// A dataset in memory.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Shape, classes, normalisation, augmentation.
    pub info: DatasetInfo,
    /// The images.
    pub splits: Splits,
    /// What a user is to be told, a line each: what was left out, what was resized.
    pub notes: Vec<String>,
    /// Images left out since they cannot be read.
    pub skipped: usize,
}

/// Finds a dataset.
///
/// * `name`: a known name (see [`crate::known`]), `folder:PATH`, or the path of an existing folder of class folders.
/// * `dirs`: folders that may hold a known dataset, tried in order. A folder of the Hub's cache
///   (`datasets--OWNER--NAME/snapshots/COMMIT`) serves as well as one a user filled.
///
/// # Errors
/// If the name is unknown; if no folder holds the dataset (the message lists folders and files looked for); if a folder holds some of
/// its files only.
pub fn locate(name: &str, dirs: &[PathBuf]) -> Result<Located> {
    let located = |source, first_per_class| Located {
        name: name.to_owned(),
        source,
        first_per_class,
    };
    match name {
        "synthetic" => Ok(located(Source::Synthetic(SyntheticConfig::default()), None)),
        "cifar10" => Ok(located(locate_cifar10(name, dirs)?, None)),
        "cifar10-subset" => {
            if let Some(source) = search(name, dirs, &SUBSET_LAYOUTS)? {
                return Ok(located(source, None));
            }
            let info = find(name)?;
            let per_class = |images| images / info.classes.len();
            let first = (per_class(info.train_images), per_class(info.test_images));
            Ok(located(locate_cifar10(name, dirs)?, Some(first)))
        }
        _ => {
            let path = name.strip_prefix("folder:").unwrap_or(name);
            let path = Path::new(path);
            // A bare word is more likely a misspelt name than a folder, unless there is such a folder.
            if !name.starts_with("folder:") && !path.is_dir() {
                return Err(Error::UnknownDataset {
                    name: name.to_owned(),
                    known: known_names(),
                });
            }
            let label = path.file_name().unwrap_or(path.as_os_str());
            Ok(Located {
                name: label.to_string_lossy().into_owned(),
                source: Source::ClassFolders(path.to_owned()),
                first_per_class: None,
            })
        }
    }
}

/// One way to store a dataset inside a folder.
struct Layout {
    /// What is looked for, relative to the folder, as error messages say it.
    looks_for: &'static str,
    /// Looks for it: nothing, all of it, or an error that says what is missing.
    find: fn(name: &str, base: &Path) -> Result<Option<Source>>,
}

const CIFAR10_LAYOUTS: [Layout; 7] = [
    Layout {
        looks_for: "plain_text/{train,test}-*.parquet",
        find: |name, base| find_shards(name, &base.join("plain_text")),
    },
    Layout {
        looks_for: "cifar-10-batches-bin/data_batch_1.bin",
        find: |name, base| find_batches(name, &base.join("cifar-10-batches-bin"), ".bin"),
    },
    Layout {
        looks_for: "data_batch_1.bin",
        find: |name, base| find_batches(name, base, ".bin"),
    },
    Layout {
        looks_for: "cifar-10-batches-py/data_batch_1",
        find: |name, base| find_batches(name, &base.join("cifar-10-batches-py"), ""),
    },
    Layout {
        looks_for: "data_batch_1",
        find: |name, base| find_batches(name, base, ""),
    },
    Layout {
        looks_for: "cifar-10-binary.tar.gz",
        find: |_, base| Ok(find_archive(base.join("cifar-10-binary.tar.gz"))),
    },
    Layout {
        looks_for: "cifar-10-python.tar.gz",
        find: |_, base| Ok(find_archive(base.join("cifar-10-python.tar.gz"))),
    },
];

const SUBSET_LAYOUTS: [Layout; 1] = [Layout {
    looks_for: "subset/{train,test}.parquet",
    find: |name, base| {
        let folder = base.join("subset");
        let files = [folder.join("train.parquet"), folder.join("test.parquet")];
        let Some([train, test]) = complete(name, &folder, files)? else {
            return Ok(None);
        };
        Ok(Some(Source::Parquet {
            train: vec![train],
            test: vec![test],
        }))
    },
}];

fn locate_cifar10(name: &str, dirs: &[PathBuf]) -> Result<Source> {
    if let Some(source) = search(name, dirs, &CIFAR10_LAYOUTS)? {
        return Ok(source);
    }
    let subset: &[Layout] = if name == "cifar10" {
        &[]
    } else {
        &SUBSET_LAYOUTS
    };
    let looked_for: Vec<&str> = subset
        .iter()
        .chain(&CIFAR10_LAYOUTS)
        .map(|l| l.looks_for)
        .collect();
    let dirs: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    Err(Error::NotFound {
        name: name.to_owned(),
        dirs: if dirs.is_empty() {
            "any folder (none given)".to_owned()
        } else {
            dirs.join(", ")
        },
        looked_for: format!("{}, each also under cifar10/", looked_for.join(", ")),
    })
}

/// The first layout that the first of `dirs` (or its subfolder `cifar10`) holds.
fn search(name: &str, dirs: &[PathBuf], layouts: &[Layout]) -> Result<Option<Source>> {
    for dir in dirs {
        for base in [dir.clone(), dir.join("cifar10")] {
            for layout in layouts {
                if let Some(source) = (layout.find)(name, &base)? {
                    return Ok(Some(source));
                }
            }
        }
    }
    Ok(None)
}

/// All of `files`, or `None` if there is none of them.
fn complete<const N: usize>(
    name: &str,
    folder: &Path,
    files: [PathBuf; N],
) -> Result<Option<[PathBuf; N]>> {
    let missing: Vec<&PathBuf> = files.iter().filter(|file| !file.is_file()).collect();
    if missing.len() == N {
        return Ok(None);
    }
    if missing.is_empty() {
        return Ok(Some(files));
    }
    let missing: Vec<String> = missing
        .iter()
        .map(|file| {
            file.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    Err(Error::Incomplete {
        name: name.to_owned(),
        dir: folder.to_owned(),
        missing: missing.join(", "),
    })
}

fn find_batches(name: &str, folder: &Path, extension: &str) -> Result<Option<Source>> {
    let files = batch_files(folder, extension);
    let found = complete(name, folder, files)?;
    Ok(found.map(|_| {
        if extension.is_empty() {
            Source::CifarPython(folder.to_owned())
        } else {
            Source::CifarBinary(folder.to_owned())
        }
    }))
}

/// The five training batches and the test batch.
fn batch_files(folder: &Path, extension: &str) -> [PathBuf; 6] {
    std::array::from_fn(|i| {
        let stem = CIFAR_TRAIN.get(i).copied().unwrap_or(CIFAR_TEST);
        folder.join(format!("{stem}{extension}"))
    })
}

fn find_archive(file: PathBuf) -> Option<Source> {
    file.is_file().then_some(Source::CifarTar(file))
}

/// The Hub's shards `SPLIT-00000-of-00002.parquet` of both splits.
fn find_shards(name: &str, folder: &Path) -> Result<Option<Source>> {
    let train = shards(name, folder, "train")?;
    let test = shards(name, folder, "test")?;
    let missing = match (train.is_empty(), test.is_empty()) {
        (true, true) => return Ok(None),
        (false, false) => return Ok(Some(Source::Parquet { train, test })),
        (true, false) => "train-*.parquet",
        (false, true) => "test-*.parquet",
    };
    Err(Error::Incomplete {
        name: name.to_owned(),
        dir: folder.to_owned(),
        missing: missing.to_owned(),
    })
}

/// The shards of one split in order. Each name says how many there are, so a missing one is noticed.
fn shards(name: &str, folder: &Path, split: &str) -> Result<Vec<PathBuf>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| Error::io(folder, error))?.file_name();
        let file = file.to_string_lossy().into_owned();
        if file.starts_with(&format!("{split}-")) && file.ends_with(".parquet") {
            files.push(file);
        }
    }
    files.sort();
    let total = files
        .first()
        .and_then(|file| file.strip_suffix(".parquet")?.rsplit_once("-of-"))
        .and_then(|(_, total)| total.parse::<usize>().ok());
    if let Some(total) = total {
        let expected = |i: usize| format!("{split}-{i:05}-of-{total:05}.parquet");
        // A damaged name could claim any number of shards: only the first missing one is looked for.
        if let Some(missing) = (0..total).map(expected).find(|file| !files.contains(file)) {
            return Err(Error::Incomplete {
                name: name.to_owned(),
                dir: folder.to_owned(),
                missing,
            });
        }
    }
    Ok(files.into_iter().map(|file| folder.join(file)).collect())
}

impl Located {
    /// Reads (or draws) the images.
    ///
    /// # Errors
    /// If a file is damaged, or a known dataset has another number of images than its manifest says.
    pub fn load(&self) -> Result<Loaded> {
        self.load_as(&Wanted::default())
    }

    /// As [`Located::load`], with images as `wanted`.
    ///
    /// # Errors
    /// As there, and if `wanted` is unsound.
    pub fn load_as(&self, wanted: &Wanted) -> Result<Loaded> {
        if let Source::ClassFolders(root) = &self.source {
            let read = read_folder(&self.name, root, wanted)?;
            return Ok(Loaded {
                info: folder_info(&self.name, root, &read.splits),
                splits: read.splits,
                notes: read.notes,
                skipped: read.skipped,
            });
        }
        let mut loaded = self.load_known()?;
        if let Some(input) = wanted.input {
            let fit = Fit::whole(input);
            let Splits { train, test } = loaded.splits;
            loaded.splits = Splits::new(train.fitted(&fit)?, test.fitted(&fit)?)?;
            loaded.info.shape = input;
            if loaded.info.normalisation.mean.len() != input[0] {
                loaded.info.normalisation = Normalisation::of(&loaded.splits.train);
            }
        }
        Ok(loaded)
    }

    /// Reads only the images to test on, for a network that knows `classes`; and the notes of [`Loaded`].
    ///
    /// # Errors
    /// As [`Located::load_as`], and if the classes of a known dataset are others.
    pub fn load_test(&self, classes: &[String], wanted: &Wanted) -> Result<(Dataset, Vec<String>)> {
        if let Source::ClassFolders(root) = &self.source {
            return read_test_folder(&self.name, root, classes, wanted);
        }
        let loaded = self.load_as(wanted)?;
        Ok((loaded.splits.test, loaded.notes))
    }

    fn load_known(&self) -> Result<Loaded> {
        let info = find(&self.name)?;
        let splits = self.read(info)?;
        let splits = match self.first_per_class {
            Some((train, test)) => Splits::new(
                splits.train.first_per_class(train)?,
                splits.test.first_per_class(test)?,
            )?,
            None => splits,
        };
        let expect = |set: &Dataset, expected: usize| {
            if set.len() == expected {
                return Ok(());
            }
            let detail = format!(
                "expected {expected} images, got {} ({})",
                set.len(),
                self.source
            );
            Err(Error::invalid(set.name(), detail))
        };
        // Built-in data has the size it was asked for.
        if !matches!(self.source, Source::Synthetic(_)) {
            expect(&splits.train, info.train_images)?;
            expect(&splits.test, info.test_images)?;
        }
        let info = DatasetInfo {
            train_images: splits.train.len(),
            test_images: splits.test.len(),
            ..info.clone()
        };
        Ok(Loaded {
            info,
            splits,
            notes: Vec::new(),
            skipped: 0,
        })
    }

    fn read(&self, info: &DatasetInfo) -> Result<Splits> {
        let (train_name, test_name) = (
            format!("{} train", self.name),
            format!("{} test", self.name),
        );
        let classes = &info.classes;
        // A part of another data set may be cut out of the whole.
        let most = match (&info.subset_of, self.first_per_class) {
            (Some(whole), Some(_)) => find(whole)?,
            _ => info,
        };
        let (train, test) = match &self.source {
            Source::Synthetic(config) => return synthetic(config),
            Source::CifarTar(archive) => return read_cifar_tar(&self.name, archive, classes),
            Source::ClassFolders(root) => return read_class_folders(&self.name, root),
            Source::Parquet { train, test } => (
                read_parquet(&train_name, train, info.shape, classes, most.train_images)?,
                read_parquet(&test_name, test, info.shape, classes, most.test_images)?,
            ),
            Source::CifarBinary(folder) => {
                let files = batch_files(folder, ".bin");
                (
                    read_cifar_binary(&train_name, &files[..5], classes)?,
                    read_cifar_binary(&test_name, &files[5..], classes)?,
                )
            }
            Source::CifarPython(folder) => {
                let files = batch_files(folder, "");
                (
                    read_cifar_python(&train_name, &files[..5], classes)?,
                    read_cifar_python(&test_name, &files[5..], classes)?,
                )
            }
        };
        Splits::new(train, test)
    }
}

/// What can be said about a folder of images once it is read.
fn folder_info(name: &str, root: &Path, splits: &Splits) -> DatasetInfo {
    let shape = splits.train.shape();
    DatasetInfo {
        name: name.to_owned(),
        about: format!(
            "images of {} classes in {}",
            splits.train.classes().len(),
            root.display()
        ),
        shape,
        classes: splits.train.classes().to_vec(),
        train_images: splits.train.len(),
        test_images: splits.test.len(),
        source: root.display().to_string(),
        licence: "as its owner says".to_owned(),
        comparable: "other runs on the same fingerprints".to_owned(),
        normalisation: Normalisation::of(&splits.train),
        // CIFAR's 4 pixels of 32, in proportion.
        augmentation: Augmentation {
            pad: shape[1].min(shape[2]) / 8,
            flip: true,
            area: None,
        },
        subset_of: None,
        hub: None,
        generator: None,
        fingerprints: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, file: &str) {
        let path = root.join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
    }

    fn found(name: &str, dirs: &[&Path]) -> String {
        let dirs: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
        match locate(name, &dirs) {
            Ok(located) => located.source.to_string(),
            Err(error) => error.to_string(),
        }
        .replace(&dirs[0].display().to_string(), "DIR")
    }

    #[test]
    fn every_layout_is_found_in_the_folder_and_under_cifar10() {
        let batches = |extension: &str| {
            batch_files(Path::new(""), extension).map(|file| file.display().to_string())
        };
        let inside = |folder: &str, files: [String; 6]| files.map(|f| format!("{folder}/{f}"));
        let cases: [(Vec<String>, &str); 7] = [
            (
                [
                    "train-00000-of-00002",
                    "train-00001-of-00002",
                    "test-00000-of-00001",
                ]
                .map(|f| format!("plain_text/{f}.parquet"))
                .to_vec(),
                "parquet files in BASE/plain_text",
            ),
            (
                inside("cifar-10-batches-bin", batches(".bin")).to_vec(),
                "binary batches in BASE/cifar-10-batches-bin",
            ),
            (batches(".bin").to_vec(), "binary batches in BASE"),
            (
                inside("cifar-10-batches-py", batches("")).to_vec(),
                "python batches in BASE/cifar-10-batches-py",
            ),
            (batches("").to_vec(), "python batches in BASE"),
            (
                vec!["cifar-10-binary.tar.gz".to_owned()],
                "BASE/cifar-10-binary.tar.gz",
            ),
            (
                vec!["cifar-10-python.tar.gz".to_owned()],
                "BASE/cifar-10-python.tar.gz",
            ),
        ];
        for (files, expected) in cases {
            for (prefix, base) in [("", "DIR"), ("cifar10/", "DIR/cifar10")] {
                let folder = tempfile::tempdir().unwrap();
                for file in &files {
                    touch(folder.path(), &format!("{prefix}{file}"));
                }
                assert_eq!(
                    found("cifar10", &[folder.path()]),
                    expected.replace("BASE", base)
                );
            }
        }
    }

    #[test]
    fn earlier_folders_win_and_the_subset_prefers_its_own_files() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        touch(first.path(), "cifar-10-python.tar.gz");
        touch(second.path(), "cifar-10-binary.tar.gz");
        let dirs = [first.path(), second.path()];
        assert_eq!(found("cifar10", &dirs), "DIR/cifar-10-python.tar.gz");

        let dirs: Vec<PathBuf> = dirs.iter().map(|d| d.to_path_buf()).collect();
        let located = locate("cifar10-subset", &dirs).unwrap();
        assert_eq!(located.first_per_class, Some((500, 100)));
        touch(second.path(), "cifar10/subset/train.parquet");
        touch(second.path(), "cifar10/subset/test.parquet");
        let located = locate("cifar10-subset", &dirs).unwrap();
        assert_eq!(located.first_per_class, None);
        assert!(matches!(located.source, Source::Parquet { .. }));
    }

    #[test]
    fn what_is_missing_is_listed() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            found("cifar10", &[folder.path()]),
            "cifar10: no data in DIR; looked for plain_text/{train,test}-*.parquet, \
             cifar-10-batches-bin/data_batch_1.bin, data_batch_1.bin, cifar-10-batches-py/data_batch_1, data_batch_1, \
             cifar-10-binary.tar.gz, cifar-10-python.tar.gz, each also under cifar10/"
        );
        assert!(
            found("cifar10-subset", &[folder.path()])
                .contains("looked for subset/{train,test}.parquet, plain_text/")
        );
        touch(folder.path(), "plain_text/train-00001-of-00002.parquet");
        assert_eq!(
            found("cifar10", &[folder.path()]),
            "cifar10: DIR/plain_text is incomplete: missing train-00000-of-00002.parquet"
        );
        touch(folder.path(), "plain_text/train-00000-of-00002.parquet");
        assert_eq!(
            found("cifar10", &[folder.path()]),
            "cifar10: DIR/plain_text is incomplete: missing test-*.parquet"
        );
        let folder = tempfile::tempdir().unwrap();
        touch(folder.path(), "data_batch_1.bin");
        touch(folder.path(), "test_batch.bin");
        assert_eq!(
            found("cifar10", &[folder.path()]),
            "cifar10: DIR is incomplete: missing data_batch_2.bin, data_batch_3.bin, data_batch_4.bin, data_batch_5.bin"
        );
    }

    #[test]
    fn names_and_paths() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pets")).unwrap();
        let path = folder.path().join("pets").display().to_string();
        for name in [path.clone(), format!("folder:{path}")] {
            let located = locate(&name, &[]).unwrap();
            assert_eq!(located.name, "pets");
            assert_eq!(located.source, Source::ClassFolders(PathBuf::from(&path)));
        }
        assert!(
            locate("cifar", &[])
                .unwrap_err()
                .to_string()
                .starts_with("unknown dataset `cifar`")
        );
        assert!(matches!(
            locate("synthetic", &[]).unwrap().source,
            Source::Synthetic(_)
        ));
        assert!(
            locate("cifar10", &[])
                .unwrap_err()
                .to_string()
                .contains("no data in any folder (none given);")
        );
    }

    #[test]
    fn a_known_dataset_must_have_all_its_images() {
        let folder = tempfile::tempdir().unwrap();
        for file in batch_files(folder.path(), ".bin") {
            std::fs::write(file, vec![0; 2 * 3073]).unwrap();
        }
        let error = locate("cifar10", &[folder.path().to_owned()])
            .unwrap()
            .load()
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cifar10 train: expected 50000 images, got 10 (binary batches in")
        );
    }
}
