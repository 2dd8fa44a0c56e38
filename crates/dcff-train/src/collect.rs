//! The collector of evidence: what criteria want to know beyond the weights, measured on training images.
//!
//! ```text
//! gradients      g = 1/N · Σ_n ∂L(image n)/∂w            running statistics as constants
//! feature maps   A = max(norm(W ∗ x), 0)                 x as the network computes it, W all filters of the layer
//! ```
//!
//! It sees the first `N` images of one seeded order, without augmentation, the same in every epoch.
//! Only what the criterion's [`Criterion::evidence`] asks for is collected, once per epoch and for all layers in one sweep;
//! maps are reduced to one number per filter as they come ([`Observed`]), so memory does not grow with `N`.
//!
//! In a network that is compact from the start a layer computes only its kept filters. So that the others can be
//! compared, the collector convolves the layer's input with all filters and normalises by the batch's own statistics with
//! scale 1 and shift 0, since batch norm's parameters belong to the kept ones.
//! In a network that computes all filters the maps are its own, with running statistics.
//! Before the first epoch nothing is kept yet, and the first filters of each layer stand in: they are as random as any.
//! A residual is added after the point where maps are taken.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::Tensor;
use dcff_criteria::{Criterion, Evidence, GradientEvidence, LayerEvidence, NormEvidence, Observed};
use dcff_data::{Augmentation, Dataset, Loader, LoaderOptions, Normalisation};
use dcff_flops::{Convention, cost};
use dcff_models::{Conv, Gradients, Layer, LayerKind, Mode, Network, View, Views};
use dcff_nn::{ConvConfig, Features};

use crate::costs;
use crate::error::{Error, Result};
use crate::seed::{Purpose, derive_seed};

/// Training images that evidence is collected on.
#[derive(Clone, Debug)]
pub struct Probe {
    loader: Loader,
    images: usize,
    seed: u64,
}

impl Probe {
    /// `images` of those at `indices`, fewer if there are not so many, drawn for the run seeded with `run`.
    ///
    /// # Errors
    /// Those of [`Loader::over`].
    pub fn new(
        dataset: Arc<Dataset>,
        indices: Vec<usize>,
        images: usize,
        batch_size: usize,
        normalisation: Normalisation,
        run: u64,
    ) -> Result<Self> {
        let images = images.min(indices.len());
        let options = LoaderOptions {
            batch_size: batch_size.min(images),
            augmentation: Augmentation::NONE,
            normalisation,
            drop_last: false,
        };
        Ok(Self {
            loader: Loader::over(dataset, indices, options)?,
            images,
            seed: derive_seed(run, Purpose::Evidence, 0),
        })
    }

    /// The number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Calls `each` with every batch, images `[N, C, H, W]` and labels `[N]`, and with `N`.
    fn batches(
        &self,
        network: &Network,
        mut each: impl FnMut(&Tensor, &Tensor, usize) -> Result<()>,
    ) -> Result<()> {
        let mut left = self.images;
        for batch in self.loader.epoch(Some(self.seed), 0) {
            let batch = batch?;
            let count = batch.labels.elem_count().min(left);
            let part = |tensor: &Tensor| tensor.narrow(0, 0, count)?.contiguous();
            let images = part(&batch.images)?.to_device(network.device())?;
            let labels = part(&batch.labels)?.to_device(network.device())?;
            each(&images, &labels, count)?;
            left -= count;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// The evidence of one epoch beyond the weights, for all layers.
#[derive(Debug, Default)]
pub struct Collected {
    /// By parameter name.
    gradients: HashMap<String, Vec<f32>>,
    /// By layer name.
    observed: HashMap<String, Vec<f64>>,
    scale: bool,
    /// Multiply-accumulates spent.
    macs: u64,
}

impl Collected {
    /// Collects what `criterion` asks for of `network` through `views`.
    ///
    /// # Errors
    /// When it asks for images and there is no `probe`, and those of data and device.
    pub fn new(
        criterion: &dyn Criterion,
        network: &Network,
        views: &Views,
        probe: Option<&Probe>,
    ) -> Result<Self> {
        let mut collected = Self::default();
        let evidence = criterion.evidence();
        let seen = || {
            probe.ok_or_else(|| {
                let message = format!("{} reads images, and there are none here", criterion.name());
                Error::setting("method.criterion", message)
            })
        };
        match evidence {
            Evidence::Gradients => collected.sum_gradients(seen()?, network, views)?,
            Evidence::FeatureMaps => collected.observe_maps(criterion, seen()?, network, views)?,
            _ => {}
        }
        collected.scale = matches!(evidence, Evidence::Scale | Evidence::Gradients);
        Ok(collected)
    }

    /// Multiply-accumulates of the sweep: a training pass counts as three forward passes, and collecting maps as one and
    /// each convolution once more, with all its filters.
    pub fn macs(&self) -> u64 {
        self.macs
    }

    /// `evidence` about a convolution of `network` with what was collected for it.
    ///
    /// # Errors
    /// When the layer has no batch norm and its scale is asked for.
    pub fn add_to<'a>(
        &mut self,
        evidence: LayerEvidence<'a>,
        network: &Network,
    ) -> Result<LayerEvidence<'a>> {
        let name = evidence.name().to_owned();
        let mut evidence = evidence;
        if let Some(observed) = self.observed.remove(&name) {
            evidence = evidence.with_observed(observed)?;
        }
        if !self.scale {
            return Ok(evidence);
        }
        let norm = network.compact().norm_after(&name).ok_or_else(|| {
            Error::setting(
                &name,
                "expected a batch norm behind the convolution, got none",
            )
        })?;
        let (scale, shift) = (
            format!("{}.weight", norm.name),
            format!("{}.bias", norm.name),
        );
        let values = |parameter: &str| -> Result<Vec<f32>> {
            let tensor = network
                .get(parameter)
                .ok_or_else(|| dcff_models::Error::MissingParameter(parameter.to_owned()))?;
            Ok(tensor.to_vec1()?)
        };
        evidence = evidence.with_norm(NormEvidence {
            scale: values(&scale)?,
            shift: values(&shift)?,
        })?;
        let mut take = |parameter: &str| self.gradients.remove(parameter).unwrap_or_default();
        let filters = take(&format!("{name}.weight"));
        if filters.is_empty() {
            return Ok(evidence);
        }
        let norm = NormEvidence {
            scale: take(&scale),
            shift: take(&shift),
        };
        Ok(evidence.with_gradients(GradientEvidence { filters, norm })?)
    }

    fn sum_gradients(&mut self, probe: &Probe, network: &Network, views: &Views) -> Result<()> {
        let mut sums: Vec<Option<Tensor>> = vec![None; network.parameters().len()];
        probe.batches(network, |images, labels, count| {
            let (logits, trace) = network.forward(images, views, Mode::Frozen)?;
            let loss = dcff_nn::cross_entropy(&logits, labels, 0.0)?;
            let gradients: Gradients = network.backward(trace, views, &loss.grad)?;
            let share = count as f64 / probe.images as f64;
            for (i, sum) in sums.iter_mut().enumerate() {
                if let Some(gradient) = gradients.get(i) {
                    let part = (gradient * share)?;
                    *sum = Some(match sum.take() {
                        Some(sum) => (sum + part)?,
                        None => part,
                    });
                }
            }
            Ok(())
        })?;
        for (parameter, sum) in network.parameters().iter().zip(sums) {
            if let Some(sum) = sum {
                self.gradients
                    .insert(parameter.name.clone(), sum.flatten_all()?.to_vec1()?);
            }
        }
        self.macs = 3 * probe.images as u64 * costs::macs(network.compact())?;
        Ok(())
    }

    fn observe_maps(
        &mut self,
        criterion: &dyn Criterion,
        probe: &Probe,
        network: &Network,
        views: &Views,
    ) -> Result<()> {
        let views = stand_ins(network, views)?;
        // Batch statistics where the running ones are not those of the filters computed now.
        let mode = if views.is_dense() {
            Mode::Eval
        } else {
            Mode::Train
        };
        let mut observed: HashMap<String, Observed> = HashMap::new();
        probe.batches(network, |images, _, _| {
            network.forward_observed(images, &views, mode, |layer, input| -> Result<()> {
                let LayerKind::Conv(conv) = &layer.kind else {
                    return Ok(());
                };
                if !conv.scored {
                    return Ok(());
                }
                let own = matches!(views.get(&layer.name), View::Dense);
                let maps = maps(network, layer, conv, input, own)?;
                let (n, c, h, w) = maps.dims();
                let values: Vec<f32> = maps.to_nchw()?.flatten_all()?.to_vec1()?;
                observed
                    .entry(layer.name.clone())
                    .or_insert_with(|| Observed::new(c))
                    .add(criterion, &values, [n, c, h, w])?;
                Ok(())
            })?;
            Ok(())
        })?;
        self.observed = observed
            .into_iter()
            .map(|(layer, seen)| (layer, seen.mean()))
            .collect();
        self.macs = probe.images as u64 * macs_of_maps(network)?;
        Ok(())
    }
}

/// Multiply-accumulates of one image's way through the network and through all filters of each scored convolution.
fn macs_of_maps(network: &Network) -> Result<u64> {
    let (full, compact) = (network.full(), network.compact());
    let table = cost(compact, Convention::Macs, dcff_flops::Form::Compact)?;
    let mut all = table.ops();
    for (layer, conv) in compact.scored_convs() {
        let (filters, kept) = (full.width(&conv.space), compact.width(&conv.space));
        let own = table.layers.iter().find(|cost| cost.name == layer.name);
        all += own.map_or(0, |cost| cost.ops) / kept.max(1) as u64 * filters as u64;
    }
    Ok(all)
}

/// The views with the first filters kept in every layer that should keep some and has no view yet.
fn stand_ins(network: &Network, views: &Views) -> Result<Views> {
    let mut all = views.clone();
    for (layer, conv) in network.compact().scored_convs() {
        let kept = network.compact().width(&conv.space);
        if kept < network.full().width(&conv.space) && matches!(views.get(&layer.name), View::Dense)
        {
            let ids: Vec<usize> = (0..kept).collect();
            all.insert(&layer.name, View::select(&ids, network.device())?);
        }
    }
    Ok(all)
}

/// The feature maps of all filters of a convolution that reads `input`, as its network's next activation leaves them; with `own`, through
/// its own batch norm.
fn maps(
    network: &Network,
    layer: &Layer,
    conv: &Conv,
    input: &Features,
    own: bool,
) -> Result<Features> {
    let get = |name: String| {
        network
            .get(&name)
            .ok_or(dcff_models::Error::MissingParameter(name))
    };
    let bias = if conv.bias {
        Some(get(format!("{}.bias", layer.name))?)
    } else {
        None
    };
    let config = ConvConfig {
        stride: conv.stride,
        padding: conv.padding,
        groups: conv.groups.of(input.channels()),
        algorithm: network.convolution(),
    };
    let weight = get(format!("{}.weight", layer.name))?;
    let y = dcff_nn::conv2d(input, weight, bias, config)?;
    let activation = network.compact().activation_after(&layer.name);
    let Some((norm, LayerKind::Norm(settings))) = network
        .compact()
        .norm_after(&layer.name)
        .map(|norm| (&norm.name, &norm.kind))
    else {
        return Ok(dcff_nn::activation(&y, activation)?);
    };
    if own {
        let [gamma, beta, mean, var] = ["weight", "bias", "running_mean", "running_var"]
            .map(|suffix| get(format!("{norm}.{suffix}")));
        return Ok(dcff_nn::batch_norm_inference(
            &y,
            gamma?,
            beta?,
            mean?,
            var?,
            settings.eps,
            None,
            activation,
        )?);
    }
    let ones = Tensor::ones(y.channels(), weight.dtype(), network.device())?;
    let zeros = ones.zeros_like()?;
    let (maps, _) = dcff_nn::batch_norm(&y, &ones, &zeros, settings.eps, None, activation)?;
    Ok(maps)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use dcff_criteria::by_name;
    use dcff_models::{Architecture, Builder, INPUT, Initialisation};

    use super::*;

    const IMAGES: usize = 12;

    fn architecture() -> Architecture {
        let mut b = Builder::new("tiny", [3, 8, 8], Initialisation::KaimingNormalFanIn);
        b.space("a", 6);
        b.space("b", 4);
        let x = b.conv("a", "a", [3, 1, 1], true, INPUT);
        let x = b.norm("a.norm", &x);
        let x = b.relu("a.relu", &x);
        let x = b.conv("b", "b", [3, 2, 1], false, &x);
        let x = b.norm("b.norm", &x);
        let x = b.relu("b.relu", &x);
        let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
        b.linear("fc", 2, &x);
        b.finish()
    }

    fn probe(batch_size: usize) -> Probe {
        let pixels = (0..IMAGES * 192).map(|i| (i * i % 251) as u8).collect();
        let labels = (0..IMAGES as u32).map(|i| i % 2).collect();
        let classes = vec!["even".to_owned(), "odd".to_owned()];
        let dataset = Dataset::new("tiny", [3, 8, 8], classes, labels, pixels).unwrap();
        let normalisation = Normalisation {
            mean: vec![0.5; 3],
            std: vec![0.3; 3],
        };
        let indices = (0..IMAGES).collect();
        // More images asked for than there are.
        Probe::new(
            Arc::new(dataset),
            indices,
            100,
            batch_size,
            normalisation,
            7,
        )
        .unwrap()
    }

    fn collect(criterion: &str, network: &Network, views: &Views, probe: &Probe) -> Collected {
        Collected::new(by_name(criterion).unwrap(), network, views, Some(probe)).unwrap()
    }

    /// All images as one batch.
    fn images(probe: &Probe, network: &Network) -> Tensor {
        let mut all = None;
        let keep = |images: &Tensor, _: &Tensor, _| {
            all = Some(images.clone());
            Ok(())
        };
        probe.batches(network, keep).unwrap();
        all.unwrap()
    }

    /// What HRank sees in the maps that a pass of the network itself computes.
    fn seen(network: &Network, views: &Views, mode: Mode, images: &Tensor, relu: &str) -> Vec<f64> {
        let (_, trace) = network.forward(images, views, mode).unwrap();
        let position = network.compact().position(relu).unwrap();
        let maps = trace.output(position).unwrap();
        let (n, c, h, w) = maps.dims();
        let values: Vec<f32> = maps
            .to_nchw()
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let mut observed = Observed::new(c);
        let hrank = by_name("hrank").unwrap();
        observed.add(hrank, &values, [n, c, h, w]).unwrap();
        observed.mean()
    }

    #[test]
    fn gradients_do_not_depend_on_the_batches() {
        let full = architecture();
        let network = Network::new(&full, &full, 1, &Device::Cpu).unwrap();
        let of = |batch| collect("taylor-weight", &network, &Views::dense(), &probe(batch));
        let (whole, parts) = (of(IMAGES), of(5));
        assert_eq!(
            whole.macs(),
            3 * IMAGES as u64 * costs::macs(&full).unwrap()
        );
        assert!(whole.gradients["a.weight"].iter().any(|g| g.abs() > 1e-3));
        for (name, gradient) in &whole.gradients {
            let pairs = gradient.iter().zip(&parts.gradients[name]);
            for (a, b) in pairs {
                assert!((a - b).abs() < 1e-5, "{name}: {a} and {b}");
            }
        }
    }

    #[test]
    fn maps_of_a_dense_network_are_its_own() {
        let full = architecture();
        let network = Network::new(&full, &full, 1, &Device::Cpu).unwrap();
        let (views, probe) = (Views::dense(), probe(IMAGES));
        let collected = collect("hrank", &network, &views, &probe);
        let images = images(&probe, &network);
        for (layer, relu) in [("a", "a.relu"), ("b", "b.relu")] {
            let expected = seen(&network, &views, Mode::Frozen, &images, relu);
            assert_eq!(collected.observed[layer], expected);
        }
        // Batches change nothing but the order of sums of whole numbers.
        let parts = collect("hrank", &network, &views, &super::tests::probe(5));
        assert_eq!(parts.observed["b"], collected.observed["b"]);
    }

    #[test]
    fn in_a_compact_network_all_filters_have_maps_and_the_kept_ones_their_own() {
        let full = architecture();
        let compact = full.narrowed(&[3, 2]).unwrap();
        let network = Network::new(&full, &compact, 1, &Device::Cpu).unwrap();
        let (ids_a, ids_b) = ([1, 2, 5], [0, 3]);
        let mut views = Views::dense();
        views.insert("a", View::select(&ids_a, &Device::Cpu).unwrap());
        views.insert("b", View::select(&ids_b, &Device::Cpu).unwrap());
        let probe = probe(IMAGES);
        let collected = collect("hrank", &network, &views, &probe);
        let images = images(&probe, &network);
        // Untrained scales are 1 and shifts 0, so the network's own maps in training mode are those of the collector.
        for (layer, relu, ids) in [("a", "a.relu", &ids_a[..]), ("b", "b.relu", &ids_b)] {
            let own = seen(&network, &views, Mode::Train, &images, relu);
            let all = &collected.observed[layer];
            assert_eq!(all.len(), if layer == "a" { 6 } else { 4 });
            for (own, &id) in own.iter().zip(ids) {
                assert_eq!(all[id], *own, "{layer}, filter {id}");
            }
        }
        // Maps of 8x8 and 4x4 pixels: 3 of 6 filters of 27 weights, 2 of 4 of 27, and 2 classes of 2 numbers.
        let (a, b, fc) = (64 * 27, 16 * 27, 2 * 2);
        assert_eq!(
            collected.macs(),
            IMAGES as u64 * (3 * a + 2 * b + fc + 6 * a + 4 * b)
        );
        // Before the first selection the first filters stand in.
        let first = collect("hrank", &network, &Views::dense(), &probe);
        assert_eq!(first.observed["a"], collected.observed["a"]);
    }

    #[test]
    fn says_that_there_are_no_images() {
        let full = architecture();
        let network = Network::new(&full, &full, 1, &Device::Cpu).unwrap();
        let collect = |criterion: &str| {
            Collected::new(by_name(criterion).unwrap(), &network, &Views::dense(), None)
        };
        let error = collect("chip").unwrap_err();
        assert_eq!(
            error.to_string(),
            "method.criterion: chip reads images, and there are none here"
        );
        assert!(collect("fpgm").is_ok());
    }
}
