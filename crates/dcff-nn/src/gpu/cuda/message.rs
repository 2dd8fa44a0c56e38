//! What CUDA says, as an error.

use crate::args::first_line;

pub(super) fn message(what: &str, error: &dyn std::fmt::Display) -> candle_core::Error {
    candle_core::Error::Msg(format!("{what}: {}", first_line(error)))
}
