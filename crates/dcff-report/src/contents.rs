//! What a report says, before it becomes a page, Markdown or LaTeX.

use crate::figures::Figures;
use crate::table::Table;

/// Before what differs when the same runs are made again.
pub const TIMES_BEGIN: &str = "<!-- times: they differ from one making of the runs to the next -->";
/// After it.
pub const TIMES_END: &str = "<!-- end of times -->";

/// A section with everything that is said about it.
pub(crate) struct Chapter {
    pub(crate) title: String,
    pub(crate) id: String,
    pub(crate) reading: Vec<String>,
    /// Tables with their captions.
    pub(crate) tables: Vec<(String, Table)>,
    /// The groups' labels, in the order of their colours.
    pub(crate) groups: Vec<String>,
    pub(crate) figures: Figures,
}

/// The report's contents, before they become a page or Markdown.
pub(crate) struct Contents {
    pub(crate) title: String,
    pub(crate) notes: Vec<String>,
    pub(crate) chapters: Vec<Chapter>,
    pub(crate) runs: (String, Table),
    pub(crate) times: (String, Table),
}
