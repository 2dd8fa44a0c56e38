//! The methods: each is one file that implements [`Method`](crate::Method).

mod dense;
mod filter_fusion;

pub use dense::Dense;
pub use filter_fusion::{FilterFusion, FilterFusionConfig};
