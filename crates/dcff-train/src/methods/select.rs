//! Training from scratch with the kept filters as they are: filter selection by any criterion, anew in every epoch.
//!
//! What Dynamic-coded Filter Fusion is compared with: the same loop, widths and criteria, with nothing fused
//! (<https://arxiv.org/abs/2107.06916>, section 4.3).

use dcff_fusion::KeepMode;
use dcff_run::{MethodConfig, Published, Summary};

use super::dcff;
use crate::entry::{Context, Entry, Given};
use crate::error::Result;
use crate::method::Method;

/// Keeping filters as they are.
pub(super) struct Select;

impl Entry for Select {
    fn name(&self) -> &'static str {
        dcff::SELECT
    }

    fn about(&self) -> &'static str {
        "compact from the first step; kept filters stay as they are, chosen anew in every epoch"
    }

    fn keys(&self) -> &'static [&'static str] {
        dcff::KEYS
    }

    fn configure(&self, given: &Given<'_>) -> Result<MethodConfig> {
        dcff::configure(given, KeepMode::Select)
    }

    fn complete(&self, config: &MethodConfig) -> Result<MethodConfig> {
        dcff::complete(config)
    }

    fn published(&self, summary: &Summary) -> Option<Published> {
        dcff::published(summary)
    }

    fn build(&self, config: &MethodConfig, context: &Context) -> Result<Box<dyn Method>> {
        dcff::build(config, context)
    }
}
