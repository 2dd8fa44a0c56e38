//! The examples do what they say: each is run as it stands.

#[path = "../examples/candle_nn_model.rs"]
mod candle_nn_model;
#[path = "../examples/own_criterion.rs"]
mod own_criterion;
#[path = "../examples/train_score_fuse_export.rs"]
mod train_score_fuse_export;

#[test]
fn the_filters_of_a_candle_nn_model_are_fused() {
    candle_nn_model::main().unwrap();
}

#[test]
fn a_criterion_of_ones_own_is_trained_with() {
    own_criterion::main().unwrap();
}

#[test]
fn a_run_ends_in_an_onnx_file() {
    train_score_fuse_export::main().unwrap();
}
