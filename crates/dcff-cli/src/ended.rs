//! How a command ended.

/// What a command that did not fail ended with.
pub(crate) enum Ended {
    /// It did what it was asked for.
    Done,
    /// It was carried out, but a part of it failed and is marked.
    Partly,
    /// It was interrupted and can be continued.
    Interrupted,
}
