//! The PyTorch form: the artefact as it is, and a module that builds the network from its `config.json`.
//!
//! One file serves every network, since an [`Architecture`](dcff_models::Architecture) is data: the module walks through
//! the layers of `config.json`, takes all widths from there, and gives parameters the names that `model.safetensors` has.

/// The name of the module's file.
pub const MODELING: &str = "modeling_dcff.py";

/// The module's text: Python, needs PyTorch, and `safetensors` for loading.
pub fn modeling() -> &'static str {
    include_str!("modeling_dcff.py")
}
