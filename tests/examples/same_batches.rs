//! Trains VGG-16 on the weights and batches that `benches/pytorch/same_batches.py` wrote, for a comparison step by step.
//!
//! `cargo run --release -p dcff-tests --example same_batches FOLDER avx512|avx2|neon|portable fast|direct` writes
//! `dcff-ISA-ALGORITHM.csv` (step, loss, norm of the gradient) and the gradients of the first step beside them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor, safetensors};
use dcff_criteria::by_name;
use dcff_fusion::{Fuser, KeepMode, TemperatureSchedule};
use dcff_models::{Network, View, Views};
use dcff_nn::{Convolution, Isa};
use dcff_train::{Optimizer, Recipe, cross_entropy_step};

const EPOCHS: usize = 24;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, isa, algorithm] = arguments.as_slice() else {
        bail!("expected a folder, an instruction set and an algorithm, got {arguments:?}");
    };
    let chosen = match isa.as_str() {
        "avx512" => Isa::Avx512,
        "avx2" => Isa::Avx2,
        "neon" => Isa::Neon,
        "portable" => Isa::Portable,
        _ => bail!("expected avx512, avx2, neon or portable, got '{isa}'"),
    };
    let convolution = match algorithm.as_str() {
        "fast" => Convolution::Fast,
        "direct" => Convolution::Direct,
        _ => bail!("expected fast or direct, got '{algorithm}'"),
    };
    let name = format!("dcff-{isa}-{algorithm}");
    chosen
        .with(|| train(Path::new(folder), &name, convolution))
        .with_context(|| format!("this processor lacks {chosen}"))?
}

fn train(folder: &Path, name: &str, convolution: Convolution) -> Result<()> {
    let given = safetensors::load(folder.join("given.safetensors"), &Device::Cpu)?;
    let find = |name: String| given.get(&name).with_context(|| format!("{name}: missing"));
    let full = dcff_models::by_name("vgg16")?;
    let mut widths = full.widths();
    for (layer, conv) in full.convs() {
        let space = full.spaces.iter().position(|s| s.name == conv.space);
        widths[space.context("a space")?] = find(format!("ids.{}", layer.name))?.dims()[0];
    }
    let mut network = Network::new(&full, &full.narrowed(&widths)?, 0, &Device::Cpu)?;
    network.set_convolution(convolution);
    let initial = given.iter();
    let initial = initial.filter_map(|(n, t)| Some((n.strip_prefix("init.")?.into(), t.clone())));
    network.load(&initial.collect())?;

    let soft = find("soft".into())?.to_vec1::<i64>()?[0] as usize;
    let mut fuser = Fuser::new(by_name("kl-published")?, KeepMode::Fuse, 0);
    let recipe = Recipe::published_cifar();
    let mut optimizer = Optimizer::new(
        &network,
        &[],
        dcff_train::Group::all(network.parameters(), &recipe),
    )?;
    let mut views = Views::dense();
    let mut table = String::new();
    for step in (0..).take_while(|step| given.contains_key(&format!("x{step}"))) {
        if step == 0 || step == soft {
            views = Views::dense();
            let temperature = TemperatureSchedule::Published.at(usize::from(step > 0), EPOCHS);
            for (layer, _) in network.compact().scored_convs() {
                let filters = network.get(&format!("{}.weight", layer.name));
                let theirs = find(format!("ids.{}", layer.name))?.to_vec1::<i64>()?;
                let filters = filters.context("filters")?;
                let pass = fuser.pass(&layer.name, filters, theirs.len(), temperature)?;
                let ids = &pass.coefficients.ids;
                ensure!(
                    ids.iter().zip(&theirs).all(|(&a, &b)| a as i64 == b),
                    "{}: kept {ids:?}, PyTorch {theirs:?}",
                    layer.name
                );
                let view = match pass.coefficients.is_selection()? {
                    true => View::select(ids, &Device::Cpu)?,
                    false => View::Mix(pass.coefficients.p),
                };
                views.insert(&layer.name, view);
            }
        }
        let images = find(format!("x{step}"))?.to_dtype(DType::F32)?;
        let labels = find(format!("y{step}"))?.to_dtype(DType::U32)?;
        let output = cross_entropy_step(&mut network, &views, &images, &labels, 0.0)?;
        let gradients: HashMap<String, Tensor> = (0..network.parameters().len())
            .filter_map(|i| {
                let gradient = output.gradients.get(i)?.clone();
                Some((network.parameters()[i].name.clone(), gradient))
            })
            .collect();
        let mut square = 0.0;
        for gradient in gradients.values() {
            let gradient = gradient.to_dtype(DType::F64)?.sqr()?;
            square += gradient.sum_all()?.to_scalar::<f64>()?;
        }
        if step == 0 {
            safetensors::save(
                &gradients,
                folder.join(format!("{name}-gradients.safetensors")),
            )?;
        }
        let loss = output.loss.read()?.mean;
        table += &format!("{step},{loss:.9},{:.9e}\n", f64::sqrt(square));
        optimizer.step(&network, &output.gradients, recipe.learning_rate)?;
    }
    Ok(std::fs::write(folder.join(format!("{name}.csv")), table)?)
}
