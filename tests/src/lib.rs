//! Checks that span several crates: recorded reference numbers, and the built program as a user runs it.

pub mod fixtures;
pub mod program;
