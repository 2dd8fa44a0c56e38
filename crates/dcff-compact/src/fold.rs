//! Batch norm folded into the convolution before it.
//!
//! At inference batch norm is an affine map of each channel, so it is one with the convolution it reads; the arithmetic is
//! [`dcff_models::fold_norm`]'s.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use dcff_models::{LayerKind, Norm, fold_norm};

use crate::{Artefact, CONFIG, Error, Result, WEIGHTS};

impl Artefact {
    /// The same function with every batch norm that alone reads a convolution folded into it: those norms are gone, and
    /// their convolutions have a bias. Other norms stay.
    ///
    /// # Errors
    /// When a folded weight is not finite.
    pub fn fold_batch_norm(&self) -> Result<Self> {
        let mut architecture = self.config.architecture.clone();
        let wiring = architecture.wiring()?;
        let mut readers = vec![0usize; architecture.layers.len()];
        wiring
            .iter()
            .flatten()
            .flatten()
            .for_each(|&input| readers[input] += 1);

        let mut tensors = self.tensors().clone();
        // The folded norms by name, and the convolution that stands in for each.
        let mut folded: HashMap<String, String> = HashMap::new();
        for (position, inputs) in wiring.iter().enumerate() {
            let (LayerKind::Norm(norm), [Some(input)]) =
                (&architecture.layers[position].kind, inputs.as_slice())
            else {
                continue;
            };
            let (name, eps) = (
                architecture.layers[position].name.clone(),
                Norm::clone(norm).eps,
            );
            let conv = &mut architecture.layers[*input];
            if let LayerKind::Conv(settings) = &mut conv.kind
                && readers[*input] == 1
            {
                settings.bias = true;
                fold(&mut tensors, &conv.name, &name, eps)?;
                folded.insert(name, conv.name.clone());
            }
        }
        architecture
            .layers
            .retain(|layer| !folded.contains_key(&layer.name));
        for input in architecture.layers.iter_mut().flat_map(|l| &mut l.inputs) {
            if let Some(conv) = folded.get(input) {
                input.clone_from(conv);
            }
        }
        let mut config = self.config.clone();
        config.architecture = architecture;
        Self::from_parts(config, tensors, Path::new(CONFIG))
    }
}

/// Replaces the tensors of `conv` and `norm` by those of the folded convolution.
fn fold(tensors: &mut BTreeMap<String, Tensor>, conv: &str, norm: &str, eps: f64) -> Result<()> {
    let mut take = |layer: &str, suffix: &str| -> Result<Option<(Vec<usize>, Vec<f32>)>> {
        let Some(tensor) = tensors.remove(&format!("{layer}.{suffix}")) else {
            return Ok(None);
        };
        let values = tensor
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .map_err(|error| Error::Model(error.into()))?;
        Ok(Some((tensor.dims().to_vec(), values)))
    };
    let missing = |layer: &str, suffix: &str| {
        Error::content(Path::new(WEIGHTS), format!("{layer}.{suffix}: missing"))
    };
    let (shape, weight) = take(conv, "weight")?.ok_or_else(|| missing(conv, "weight"))?;
    let bias = take(conv, "bias")?.map(|(_, bias)| bias);
    let mut of_norm = |suffix: &str| -> Result<Vec<f32>> {
        Ok(take(norm, suffix)?.ok_or_else(|| missing(norm, suffix))?.1)
    };
    let parts = [
        of_norm("weight")?,
        of_norm("bias")?,
        of_norm("running_mean")?,
        of_norm("running_var")?,
    ];
    tensors.remove(&format!("{norm}.num_batches_tracked"));

    let (weight, bias) = fold_norm(&weight, bias.as_deref(), &parts, eps);
    for (suffix, shape, values) in [
        ("weight", shape.clone(), weight),
        ("bias", vec![shape[0]], bias),
    ] {
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)
            .map_err(|error| Error::Model(error.into()))?;
        tensors.insert(format!("{conv}.{suffix}"), tensor);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{difference, logits, networks};

    #[test]
    fn one_filter_by_hand() {
        let tensor = |values: &[f32], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap()
        };
        let mut tensors = BTreeMap::from([
            ("c.weight".to_owned(), tensor(&[2.0, -4.0], &[1, 2, 1, 1])),
            ("c.bias".to_owned(), tensor(&[1.0], &[1])),
            ("n.weight".to_owned(), tensor(&[3.0], &[1])),
            ("n.bias".to_owned(), tensor(&[0.5], &[1])),
            ("n.running_mean".to_owned(), tensor(&[5.0], &[1])),
            ("n.running_var".to_owned(), tensor(&[3.75], &[1])),
            (
                "n.num_batches_tracked".to_owned(),
                Tensor::new(3i64, &Device::Cpu).unwrap(),
            ),
        ]);
        // s = 3 / sqrt(3.75 + 0.25) = 1.5; W' = 1.5 W; b' = 0.5 + 1.5 (1 - 5) = -5.5.
        fold(&mut tensors, "c", "n", 0.25).unwrap();
        let values = |name: &str| {
            let flat = tensors[name].flatten_all().unwrap();
            flat.to_vec1::<f32>().unwrap()
        };
        assert_eq!(tensors.len(), 2);
        assert_eq!(values("c.weight"), [3.0, -6.0]);
        assert_eq!(values("c.bias"), [-5.5]);
    }

    #[test]
    fn folded_networks_give_the_same_logits() {
        for artefact in networks() {
            let folded = artefact.fold_batch_norm().unwrap();
            let kinds = &folded.config.architecture.layers;
            assert!(!kinds.iter().any(|l| matches!(l.kind, LayerKind::Norm(_))));
            let worst = difference(&logits(&artefact, 3), &logits(&folded, 3));
            assert!(
                worst < 1e-5,
                "{}: {worst}",
                artefact.config.architecture.name
            );
        }
    }
}
