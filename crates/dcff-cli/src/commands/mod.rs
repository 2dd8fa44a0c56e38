//! One file per command.

pub(crate) mod bench;
pub(crate) mod bundle;
pub(crate) mod compact;
pub(crate) mod compare;
pub(crate) mod data;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod extract;
pub(crate) mod flops;
pub(crate) mod lists;
mod method;
mod opened;
pub(crate) mod predict;
pub(crate) mod publish;
pub(crate) mod pull;
pub(crate) mod report;
pub(crate) mod train;
