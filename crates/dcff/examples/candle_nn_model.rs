//! The filters of a plain candle-nn model: scored, fused, and put back as a layer whose gradient reaches all filters.
//!
//! ```sh
//! cargo run --release -p dcff --example candle_nn_model
//! ```

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Conv2dConfig, VarBuilder, VarMap, conv2d_no_bias};
use dcff::fusion::{FusedConv2d, Fuser, KeepMode};

#[allow(unreachable_pub, missing_docs, reason = "the tests run it, too")]
pub fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (vars, device) = (VarMap::new(), Device::Cpu);
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &device);
    let config = Conv2dConfig {
        padding: 1,
        ..Conv2dConfig::default()
    };
    let conv = conv2d_no_bias(3, 8, 3, config, vb.pp("conv"))?;
    let images = Tensor::randn(0f32, 1f32, (2, 3, 8, 8), &device)?;

    // Half of the filters stay, each of them mixed of all eight.
    let mut fuser = Fuser::new(dcff::criteria::by_name("kl")?, KeepMode::Fuse, 0);
    let pass = fuser.pass("conv", conv.weight(), 4, 1.0)?;
    println!("kept: {:?}", pass.coefficients.ids);
    let fused = FusedConv2d::new(
        conv.weight().clone(),
        None,
        pass.coefficients,
        config.padding,
        1,
    )?;

    let y = fused.forward(&images)?;
    assert_eq!(y.dims(), [2, 4, 8, 8]);
    let gradients = y.sqr()?.mean_all()?.backward()?;
    let vars = vars.data().lock().map_err(|_| "poisoned")?;
    let gradient = gradients.get(&vars["conv.weight"]).ok_or("no gradient")?;
    // Also the filters that were not kept: candle's tape runs through the product with P.
    let rows = gradient.abs()?.sum((1, 2, 3))?.to_vec1::<f32>()?;
    assert!(rows.iter().all(|&sum| sum > 0.0), "{rows:?}");
    Ok(())
}
