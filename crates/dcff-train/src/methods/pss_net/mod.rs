//! PSS-Net: one network whose slices serve many budgets; for every budget the subnets that do best are remembered and trained more often.
//!
//! Chen et al., *Prioritized Subnet Sampling for Resource-Adaptive Supernet Training*, 2021, <https://arxiv.org/abs/2109.05432>.
//!
//! A step trains the whole network on labels, then a subnet and the smallest one on the whole network's logits; the three gradients
//! are added. The subnet is new or a remembered one of a target that is drawn:
//!
//! ```text
//! explore  with probability p(e), or while the target's pool has room: size and widths drawn from what is known of the target
//! exploit  otherwise: a member of the pool, by softmax(score / t(e))
//! score    minus the cross-entropy of the subnet on the batch, averaged over its visits
//! ```
//!
//! The subnet is scored by the very pass that trains it: the authors' program runs it twice, with the same weights, batch and result; what a
//! second pass would do to the running statistics is done. These statistics are those of no network, so whatever is evaluated
//! or written has its own measured ([`Method::recalibration`](crate::Method::recalibration)).

mod entry;
mod latency;
mod map;
mod method;
mod pool;
mod programs;
mod settings;
mod space;

pub use crate::random::Random;
pub(super) use entry::Entrance;
pub use latency::{Block, LatencyTable, blocks};
pub use map::{Counts, Coverage, Drawing, Map, even_step, targets};
pub use method::{Passes, PssNet};
pub use pool::{Member, Pool, decayed, explores};
pub use settings::PssNetConfig;
pub use space::{Draw, Space, Subnet, divisible, target_of, thousandths};
