//! Hashes of files.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::Result;

/// SHA-256 of the file `path` of at most `limit` bytes, which is not kept in memory; `None` where there is none.
pub(crate) fn sha256_of(path: &Path, limit: u64) -> Result<Option<String>> {
    let mut hash = Sha256::new();
    let found = dcff_file::read_parts_if_any(path, limit, |part| hash.update(part))?;
    Ok(found.then(|| hex(&hash.finalize())))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
