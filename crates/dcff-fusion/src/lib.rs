//! From filter scores to kept filters and fusion coefficients.
//!
//! Once per epoch and layer a [`Fuser`] takes the filters, has a criterion of `dcff-criteria` score them, keeps the best and
//! computes the [`Coefficients`] `P` whose product with all filters is the compact layer's kernel.
//! How many stay is said by [`Rates`], how sharply filters are told apart by a [`TemperatureSchedule`], and what becomes of
//! the others by a [`KeepMode`].
//!
//! Lin et al., *Training Compact CNNs for Image Classification using Dynamic-coded Filter Fusion*, TPAMI 2023,
//! <https://arxiv.org/abs/2107.06916>.
//!
//! This crate deliberately knows no networks: which rate belongs to which layer is the business of `dcff-models`.
//!
//! # Example
//! ```
//! use candle_core::{Device, Tensor};
//! use dcff_fusion::{Fuser, KeepMode, TemperatureSchedule};
//!
//! let filters = Tensor::rand(-1f32, 1f32, (8, 3, 3, 3), &Device::Cpu)?;
//! let rate = dcff_fusion::CompressionRate::new(0.5)?;
//! let temperature = TemperatureSchedule::Published.at(0, 300);
//!
//! let mut fuser = Fuser::new(dcff_criteria::by_name("kl")?, KeepMode::Fuse, 0);
//! let pass = fuser.pass("conv1", &filters, rate.kept(8), temperature)?;
//! assert_eq!(pass.coefficients.p.dims(), [4, 8]);
//! assert_eq!(pass.coefficients.fused(&filters)?.dims(), [4, 3, 3, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod coefficients;
mod conv;
mod error;
mod fuser;
mod keep;
mod rank;
mod rate;
mod rates;
pub mod recorded;
mod settings;
mod temperature;

pub use coefficients::{Coefficients, NEGLIGIBLE};
pub use conv::FusedConv2d;
pub use error::{Error, Result};
pub use fuser::{Diagnostics, Fuser, LayerPass, Memory};
pub use keep::{KeepMode, Reselect, select_top};
pub use rank::rank_correlation;
pub use rate::CompressionRate;
pub use rates::Rates;
pub use settings::{PUBLISHED, PublishedSetting, rates_for};
pub use temperature::TemperatureSchedule;
