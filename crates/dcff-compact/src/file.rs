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
    file.write_all(bytes).map_err(fail)?;
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

/// Fills a temporary folder beside `path` and then puts it in the place of `path`.
///
/// # Errors
/// What `fill` returns, or [`Error::Io`]; an old folder at `path` is then still there.
pub fn write_folder<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let fail = |source| Error::io(path, source);
    let folder = tempfile::Builder::new()
        .prefix(".writing-")
        .tempdir_in(parent(path))
        .map_err(fail)?;
    fill(folder.path())?;
    set_default_permissions(folder.path()).map_err(fail)?;
    if path.exists() {
        let old = tempfile::Builder::new()
            .prefix(".replaced-")
            .tempdir_in(parent(path))
            .map_err(fail)?;
        std::fs::rename(path, old.path().join("old")).map_err(fail)?;
    }
    let kept = folder.keep();
    std::fs::rename(&kept, path).map_err(fail)?;
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
