//! Checks that span several crates: recorded reference numbers, and the built program as a user runs it.

pub mod fixtures;
pub mod program;

/// The README's Rust compiles and holds what it promises.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
