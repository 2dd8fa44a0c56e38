//! Files and folders that appear whole or not at all, and files that may be larger than they should be.
//!
//! ```text
//! write:        temporary file --write, sync--> its own name --rename--> the target's --sync--> the folder
//! write_folder: temporary folder --fill, sync--> rename or exchange --sync--> the folder above
//! ```
//!
//! What is written is on the disk when the call returns, the name included: it survives a loss of power, not only a kill.
//! Temporary names begin with [`TEMPORARY`] and tell which target they are for; while a program writes one it holds a lock on
//! it. What a killed program left is swept by the next that writes the same target, and by [`sweep`].
//!
//! This crate deliberately does not know what is in a file.

mod error;

use std::ffi::OsStr;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

pub use error::{Error, Result};

/// Writes `bytes` to `path` by way of a temporary file beside it, so that a reader sees the old content or the new.
///
/// # Errors
/// [`Error::Io`] with the path; the old file is then untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = temporary_file(path, bytes)?;
    file.persist(path)
        .map_err(|error| Error::io(path, error.error))?;
    sync_folder(&parent(path)).map_err(|reason| Error::io(path, reason))
}

/// As [`write()`], to a file that must not be there yet: of two programs that create it, one fails.
///
/// # Errors
/// [`Error::Io`] with the path, of the kind [`ErrorKind::AlreadyExists`] where there is a file.
pub fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let file = temporary_file(path, bytes)?;
    file.persist_noclobber(path)
        .map_err(|error| Error::io(path, error.error))?;
    sync_folder(&parent(path)).map_err(|reason| Error::io(path, reason))
}

/// A temporary file with all of `bytes`, on the disk.
fn temporary_file(path: &Path, bytes: &[u8]) -> Result<tempfile::NamedTempFile> {
    let fail = |reason| Error::io(path, reason);
    sweep_leftovers_of(path);
    let mut file = loop {
        let file = tempfile::Builder::new()
            .prefix(&prefix(path))
            .tempfile_in(parent(path))
            .map_err(fail)?;
        if claimed(file.as_file(), file.path()) {
            break file;
        }
    };
    // To the file itself: an error would name the temporary one besides.
    file.as_file_mut().write_all(bytes).map_err(fail)?;
    set_default_permissions(file.path()).map_err(fail)?;
    sync(file.as_file(), path).map_err(fail)?;
    Ok(file)
}

/// Reads the file at `path`, of at most `limit` bytes, and never takes memory for more.
///
/// # Errors
/// [`Error::Io`]; [`Error::Content`] when it is larger, or no file but a folder or a device.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let (mut file, size) = open(path, limit)?;
    let mut bytes = Vec::new();
    let expected = usize::try_from(size).unwrap_or(usize::MAX);
    bytes
        .try_reserve_exact(expected)
        .map_err(|_| Error::content(path, format!("no memory for {size} bytes")))?;
    file.read_to_end(&mut bytes)
        .map_err(|error| Error::io(path, error))?;
    match bytes.len() as u64 {
        size if size > limit => Err(large(path, limit, size)),
        _ => Ok(bytes),
    }
}

/// The file at `path`, opened to read one byte more than `limit` at most, and its size, which is no more than that.
fn open(path: &Path, limit: u64) -> Result<(std::io::Take<File>, u64)> {
    let io = |error| Error::io(path, error);
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(Error::content(path, "expected a file"));
    }
    if metadata.len() > limit {
        return Err(large(path, limit, metadata.len()));
    }
    let file = File::open(path).map_err(io)?;
    // A file may grow while it is read.
    Ok((file.take(limit.saturating_add(1)), metadata.len()))
}

fn large(path: &Path, limit: u64, size: u64) -> Error {
    let message = format!("expected at most {limit} bytes, got {size}");
    Error::content(path, message)
}

/// Hands the file at `path`, of at most `limit` bytes, part by part to `each`, in memory that does not grow with it; `false` where
/// there is nothing at `path`.
///
/// # Errors
/// Those of [`read`].
pub fn read_parts_if_any(path: &Path, limit: u64, mut each: impl FnMut(&[u8])) -> Result<bool> {
    let (mut file, _) = match open(path, limit) {
        Err(error) if error.is_absence() => return Ok(false),
        open => open?,
    };
    let (mut part, mut size) = (vec![0; 64 << 10], 0);
    loop {
        let read = match file.read(&mut part) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.map_err(|error| Error::io(path, error))?,
        };
        size += read as u64;
        match read {
            _ if size > limit => return Err(large(path, limit, size)),
            0 => return Ok(true),
            read => each(&part[..read]),
        }
    }
}

/// As [`read`]; `None` where there is nothing at `path`.
///
/// # Errors
/// Those of [`read`].
pub fn read_if_any(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match read(path, limit) {
        Err(error) if error.is_absence() => Ok(None),
        read => read.map(Some),
    }
}

/// As [`read`], for text.
///
/// # Errors
/// Those of [`read`], and bytes that are no UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    text(path, read(path, limit)?)
}

/// As [`read_if_any`], for text.
///
/// # Errors
/// Those of [`read_text`].
pub fn read_text_if_any(path: &Path, limit: u64) -> Result<Option<String>> {
    let bytes = read_if_any(path, limit)?;
    bytes.map(|bytes| text(path, bytes)).transpose()
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::content(path, format!("expected UTF-8, got other bytes at {at}"))
    })
}

/// How the names of files and folders begin while they are written.
pub const TEMPORARY: &str = ".writing-";
/// How earlier versions called files.
const TEMPORARY_BEFORE: &str = ".tmp";

/// Characters at the end of a temporary name that are drawn at random.
const DRAWN: usize = 6;

/// Whether the name `name` is that of something half written.
pub fn is_temporary(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let before = name.strip_prefix(TEMPORARY_BEFORE);
    name.starts_with(TEMPORARY) || before.is_some_and(|drawn| drawn.len() == DRAWN)
}

/// Locks `file`, just made at `path`, against being swept; `false` where another program was quicker and sweeps it.
fn claimed(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => false,
        // Swept only under the lock: what is still there stays.
        Ok(()) => path.exists(),
        // Some file systems know no locks, and nothing is swept there.
        Err(TryLockError::Error(_)) => true,
    }
}

/// How the temporary names for `path` begin.
fn prefix(path: &Path) -> String {
    /// Most systems allow names of 255 bytes; a character has at most four.
    const LONGEST: usize = 48;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name.chars().take(LONGEST).collect();
    format!("{TEMPORARY}{name}-")
}

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
    sweep_leftovers_of(path);
    let (folder, _lock) = loop {
        let folder = tempfile::Builder::new()
            .prefix(&prefix(path))
            .tempdir_in(parent(path))
            .map_err(fail)?;
        // Not every system opens folders; where it does not, none is swept.
        let lock = File::open(folder.path()).ok();
        let mine = |lock: &File| claimed(lock, folder.path());
        if lock.as_ref().is_none_or(mine) {
            break (folder, lock);
        }
    };
    fill(folder.path())?;
    set_default_permissions(folder.path()).map_err(fail)?;
    sync_folder(folder.path()).map_err(fail)?;
    if !path.exists() {
        std::fs::rename(folder.path(), path).map_err(fail)?;
        // It is no longer where its owner would delete it.
        let _ = folder.keep();
    } else if exchange(folder.path(), path).is_err() {
        replace(folder.path(), path).map_err(fail)?;
    }
    // What was exchanged is deleted as `folder` goes.
    Ok(sync_folder(&parent(path)).map_err(fail)?)
}

/// Removes what a program that was killed left half written in `folder`, where nobody else writes.
///
/// # Errors
/// [`Error::Io`].
pub fn sweep(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(|source| Error::io(folder, source))? {
        let entry = entry.map_err(|source| Error::io(folder, source))?;
        if is_temporary(&entry.file_name()) {
            let path = entry.path();
            remove(&path).map_err(|source| Error::io(&path, source))?;
        }
    }
    Ok(())
}

/// Removes what programs that were killed left of `path` beside it. What another program still writes is locked and stays; so
/// does what cannot be removed, since nobody asked for that.
fn sweep_leftovers_of(path: &Path) {
    let prefix = prefix(path);
    let Ok(entries) = std::fs::read_dir(parent(path)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let drawn = name.to_str().and_then(|name| name.strip_prefix(&prefix));
        if drawn.is_some_and(|drawn| drawn.len() == DRAWN)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = remove(&entry.path());
        }
    }
}

fn remove(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path)?.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    }
}

/// A folder in which one program writes.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held, not read")] File);

/// The file in a locked folder. It is never replaced or removed: a lock belongs to a file, not to its name.
pub const LOCK: &str = ".lock";

impl FolderLock {
    /// Keeps other programs from taking the lock of `folder`, which must exist, until what comes back is dropped; `None` where
    /// another has it. Nobody has it where the file system knows no locks.
    ///
    /// # Errors
    /// When the lock's file cannot be made.
    pub fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|reason| Error::io(&path, reason))?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Some(Self(file))),
        }
    }
}

/// Whether `folder` holds nothing, or only what programs that were killed left half written; so does one that is not there.
///
/// # Errors
/// When it is no folder or cannot be read.
pub fn is_vacant(folder: &Path) -> Result<bool> {
    let fail = |reason| Error::io(folder, reason);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(fail(error)),
    };
    for entry in entries {
        let name = entry.map_err(fail)?.file_name();
        if name != LOCK && !is_temporary(&name) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Exchanges two folders at once.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Puts `new` in the place of `path`, whose folder is then where `new` was; also where the file system cannot exchange.
fn replace(new: &Path, path: &Path) -> std::io::Result<()> {
    let aside = tempfile::Builder::new()
        .prefix(&prefix(path))
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

/// Puts what was written to `file`, which will be called `path`, on the disk.
fn sync(file: &File, path: &Path) -> std::io::Result<()> {
    told(path);
    file.sync_all()
}

/// Puts the names in `folder` on the disk: without that a loss of power may take back a rename.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    told(folder);
    #[cfg(unix)]
    match File::open(folder)?.sync_all() {
        // Some file systems cannot, and write names through.
        Err(error)
            if !matches!(
                error.kind(),
                ErrorKind::InvalidInput | ErrorKind::Unsupported
            ) =>
        {
            return Err(error);
        }
        _ => {}
    }
    Ok(())
}

/// Tells tests what is put on the disk, and when.
#[cfg(test)]
fn told(path: &Path) {
    tests::SYNCED.with_borrow_mut(|synced| {
        synced.push((path.to_owned(), path.is_file() || path.join("a").exists()));
    });
}

#[cfg(not(test))]
fn told(_: &Path) {}

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
mod tests;
