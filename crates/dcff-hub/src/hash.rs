//! The names that the Hub gives to files: SHA-256 of large ones, git's SHA-1 of the others.
//!
//! Chacon and Straub, *Pro Git*, section 10.2: a blob's name is `sha1("blob " + size + "\\0" + content)`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// SHA-256 of a file, in hex.
pub(crate) fn sha256(path: &Path) -> std::io::Result<String> {
    feed(path, Sha256::new())
}

/// Git's name of a file, in hex.
pub(crate) fn git_blob(path: &Path) -> std::io::Result<String> {
    let size = std::fs::metadata(path)?.len();
    feed(path, Sha1::new_with_prefix(format!("blob {size}\0")))
}

/// Both names of `bytes`, in hex: SHA-256, git's.
pub(crate) fn names(bytes: &[u8]) -> [String; 2] {
    let git = Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes);
    [hex(&Sha256::digest(bytes)), hex(&git.finalize())]
}

fn feed(path: &Path, mut hash: impl Digest) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_git_and_sha256sum() {
        // printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(names(b"hello\n"), [sha, git]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hello\n").unwrap();
        assert_eq!(git_blob(file.path()).unwrap(), git);
        assert_eq!(sha256(file.path()).unwrap(), sha);
    }
}
