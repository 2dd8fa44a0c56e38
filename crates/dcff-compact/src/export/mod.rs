//! Other programs' forms of an artefact: a PyTorch module and an ONNX file.

mod onnx;
mod protobuf;
mod pytorch;

pub use onnx::{ONNX, OPSET, onnx};
pub use pytorch::{MODELING, modeling};
