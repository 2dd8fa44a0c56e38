//! What reports and model cards say of a method.

use serde::{Deserialize, Serialize};

/// What reports and model cards say of a method.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// In a cell of a table: criterion, keep mode, temperature.
    pub label: String,
    /// Runs of one pipeline are compared with each other; none for the network as it is.
    #[serde(default)]
    pub pipeline: Option<String>,
    /// How the network came about, without the full stop.
    pub sentence: String,
    /// BibTeX.
    #[serde(default)]
    pub citation: Option<String>,
    /// The rates as text, where the figures in print for them were made by the same method.
    #[serde(default)]
    pub published: Option<String>,
}

impl Description {
    /// The pipeline of networks that are compact from the first step.
    pub const SCRATCH: &str = "scratch";
}
