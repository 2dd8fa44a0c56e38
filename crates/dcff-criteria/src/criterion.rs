//! What a criterion is.

use crate::error::Result;
use crate::evidence::{Evidence, LayerEvidence};
use crate::maps::Maps;

/// What to do with a layer for which a criterion returned NaN or an infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// Stop with an error that names the layer and the filter.
    Refuse,
    /// Keep the whole layer's last finite scores; an error if there are none yet.
    KeepLast,
}

/// A rule that scores the filters of one layer.
pub trait Criterion: Send + Sync {
    /// The name on the command line and in reports, in kebab case, unique among [`ALL`](crate::ALL).
    fn name(&self) -> &'static str;

    /// One line for the help text.
    fn about(&self) -> &'static str;

    /// Where the criterion comes from: authors, title, venue, link.
    fn source(&self) -> &'static str;

    /// The evidence the score reads.
    fn evidence(&self) -> Evidence;

    /// What to do with a layer whose scores are not all finite.
    fn non_finite(&self) -> NonFinite {
        NonFinite::Refuse
    }

    /// Whether the temperature enters the scores; where it does not, runs that differ only in it are one.
    fn reads_temperature(&self) -> bool {
        false
    }

    /// The degree `d` if scaling the layer (filters, batch-norm scales and shifts, feature maps) by `c > 0`, gradients
    /// unchanged, scales all scores by `c^d`, for every `c`; `None` if no such law holds.
    fn scale_degree(&self) -> Option<i32> {
        None
    }

    /// `λ` of the term `λ · Σ |γ|` over all batch-norm scales that the criterion wants in the loss of the training that
    /// precedes its scores; 0 for none.
    fn scale_penalty(&self) -> f64 {
        0.0
    }

    /// What the criterion sees in one image's feature maps: one number per channel.
    ///
    /// Called for each image where [`Criterion::evidence`] is [`Evidence::FeatureMaps`]; the mean over images comes back as
    /// [`LayerEvidence::observed`].
    fn observe(&self, maps: &Maps<'_>) -> Vec<f64> {
        vec![0.0; maps.dims()[0]]
    }

    /// One score per filter, `C_out` in all; high means "keep".
    ///
    /// # Errors
    /// If the evidence is missing or cannot be read.
    /// Scores that are not finite are returned as they are: the caller acts on [`Criterion::non_finite`].
    fn score(&self, layer: &LayerEvidence<'_>) -> Result<Vec<f64>>;
}

impl std::fmt::Debug for dyn Criterion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
