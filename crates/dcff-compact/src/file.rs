//! Files and folders that appear whole or not at all, and files that may be larger than they should be.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Writes `bytes` to `path` by way of a temporary file beside it, so that a reader sees the old content or the new.
///
/// # Errors
/// [`Error::Io`] with the path; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let fail = |source| Error::io(path, source);
    let mut file = tempfile::NamedTempFile::new_in(parent(path)).map_err(fail)?;
    // To the file itself: an error would name the temporary one besides.
    file.as_file_mut().write_all(bytes).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    set_default_permissions(file.path()).map_err(fail)?;
    file.persist(path).map_err(|error| fail(error.error))?;
    Ok(())
}

/// Reads the file at `path`, of at most `limit` bytes, and never takes memory for more.
///
/// # Errors
/// [`Error::Io`]; [`Error::Content`] when it is larger, or no file but a folder or a device.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let io = |error| Error::io(path, error);
    let large = |size: u64| {
        let message = format!("expected at most {limit} bytes, got {size}");
        Error::content(path, message)
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::content(path, "expected a file"));
    }
    if metadata.len() > limit {
        return Err(large(metadata.len()));
    }
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // A file may grow while it is read.
    let mut bounded = file.take(limit.saturating_add(1));
    bounded.read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 {
        size if size > limit => Err(large(size)),
        _ => Ok(bytes),
    }
}

/// What folders are called while they are written.
const WRITING: &str = ".writing-";

/// Fills a temporary folder beside `path` and then puts it in the place of `path`: at every moment, whatever ends the
/// program, `path` is the old folder or the new one, where the system can exchange two folders (Linux, macOS).
/// Elsewhere the old one steps aside for an instant.
///
/// # Errors
/// What `fill` returns, or [`Error::Io`]; an old folder at `path` is then still there.
pub fn write_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let fail = |source| Error::io(path, source);
    let folder = tempfile::Builder::new()
        .prefix(WRITING)
        .tempdir_in(parent(path))
        .map_err(fail)?;
    fill(folder.path())?;
    set_default_permissions(folder.path()).map_err(fail)?;
    if !path.exists() {
        std::fs::rename(folder.path(), path).map_err(fail)?;
        // It is no longer where its owner would delete it.
        let _ = folder.keep();
    } else if exchange(folder.path(), path).is_err() {
        replace(folder.path(), path).map_err(fail)?;
    }
    // What was exchanged is deleted as `folder` goes.
    Ok(())
}

/// Removes what a program that was killed left half written in `folder`, where nobody else writes.
///
/// # Errors
/// [`Error::Io`].
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let entry = entry.map_err(|source| Error::io(folder, source))?;
        if entry.file_name().to_string_lossy().starts_with(WRITING) {
            let path = entry.path();
            std::fs::remove_dir_all(&path).map_err(|source| Error::io(&path, source))?;
        }
    }
    Ok(())
}

/// Exchanges two folders at once.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Puts `new` in the place of `path`, whose folder is then where `new` was; also where the file system cannot exchange.
fn replace(new: &Path, path: &Path) -> std::io::Result<()> {
    let aside = tempfile::Builder::new()
        .prefix(WRITING)
        .tempdir_in(parent(path))?;
    let old = aside.path().join("old");
    std::fs::rename(path, &old)?;
    if let Err(error) = std::fs::rename(new, path) {
        // Where even that fails the old folder is better aside than deleted.
        if std::fs::rename(&old, path).is_err() {
            let _ = aside.keep();
        }
        return Err(error);
    }
    Ok(())
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Temporary files are private; artefacts are for others to read.
fn set_default_permissions(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_may_be() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a");
        write(&path, b"1234").unwrap();
        assert_eq!(read(&path, 4).unwrap(), b"1234");
        let large = read(&path, 3).unwrap_err().to_string();
        assert!(
            large.ends_with("a: expected at most 3 bytes, got 4"),
            "{large}"
        );
        let folder = read(root.path(), 4).unwrap_err().to_string();
        assert!(folder.ends_with(": expected a file"), "{folder}");
        assert!(matches!(
            read(&root.path().join("b"), 4),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn a_folder_that_cannot_be_put_there_leaves_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        let (target, new) = (root.path().join("out"), root.path().join("new"));
        std::fs::create_dir(&target).unwrap();
        write(&target.join("a"), b"1").unwrap();
        // `new` is missing, so that the second of the two renames fails.
        assert!(replace(&new, &target).is_err());
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        std::fs::create_dir(&new).unwrap();
        write(&new.join("b"), b"2").unwrap();
        replace(&new, &target).unwrap();
        assert!(target.join("b").exists() && !target.join("a").exists());
    }

    #[cfg(any(target_os = "linux", target_os = "macos"))]
    #[test]
    fn two_folders_change_places_at_once() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("a"), root.path().join("b"));
        for folder in [&a, &b] {
            std::fs::create_dir(folder).unwrap();
        }
        write(&a.join("of a"), b"").unwrap();
        exchange(&a, &b).unwrap();
        assert!(b.join("of a").exists() && a.exists());
    }

    #[test]
    fn what_was_left_half_written_is_swept_away() {
        let root = tempfile::tempdir().unwrap();
        let left = root.path().join(format!("{WRITING}abc"));
        std::fs::create_dir_all(left.join("deep")).unwrap();
        write(&root.path().join("a"), b"1").unwrap();
        sweep(root.path()).unwrap();
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_fill_leaves_the_old_folder() {
        let root = tempfile::tempdir().unwrap();
        let target = root.path().join("out");
        write_folder::<Error>(&target, |dir| write(&dir.join("a"), b"1")).unwrap();
        let failed = write_folder(&target, |dir| {
            write(&dir.join("a"), b"2")?;
            Err(Error::content(dir, "stop"))
        });
        assert!(failed.is_err());
        assert_eq!(std::fs::read(target.join("a")).unwrap(), b"1");
        write_folder::<Error>(&target, |dir| write(&dir.join("b"), b"3")).unwrap();
        assert!(!target.join("a").exists());
        // Nothing but the target is left behind.
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
