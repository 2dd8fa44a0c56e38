//! What the program prints. Nobody may read it, or the disk may be full: neither stops the work.
//!
//! In this crate `println!`, `print!` and `eprintln!` are these macros, not the standard library's, which panic.
//! What cannot be shown on standard error is dropped. The first failure to write to standard output is kept for the end:
//! a reader who has seen enough, as in `dcff criteria | head -1`, is no error; anything else is told then, after the work
//! is saved.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::OnceLock;

/// Why standard output takes no more.
static FAILED: OnceLock<io::Error> = OnceLock::new();

/// Prints to standard output.
macro_rules! print {
    ($($text:tt)*) => { $crate::out::result(format_args!($($text)*)) };
}

/// Prints a line to standard output.
macro_rules! println {
    () => { $crate::out::result(format_args!("\n")) };
    ($($text:tt)*) => { $crate::out::result(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prints a line to standard error.
macro_rules! eprintln {
    ($($text:tt)*) => { $crate::out::message(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes to standard output, unless that has failed before.
pub(crate) fn result(text: Arguments<'_>) {
    if FAILED.get().is_none() {
        let mut out = io::stdout().lock();
        keep(out.write_all(text.to_string().as_bytes()));
    }
}

/// Writes to standard error; in one piece, so that lines of several processes do not mix.
pub(crate) fn message(text: Arguments<'_>) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}

/// Remembers how writing to standard output by other means ended.
pub(crate) fn keep(written: io::Result<()>) {
    if let Err(error) = written {
        let _ = FAILED.set(error);
    }
}

/// Ends standard output.
///
/// # Errors
/// When not all of it was written, though somebody wanted it.
pub(crate) fn end() -> anyhow::Result<()> {
    keep(io::stdout().flush());
    match FAILED.get() {
        Some(error) if error.kind() != ErrorKind::BrokenPipe => {
            anyhow::bail!("standard output: {error}")
        }
        _ => Ok(()),
    }
}
