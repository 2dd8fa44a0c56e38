//! Gradients with running statistics as constants, against finite differences of the evaluated network.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use dcff_models::testing::noise;
use dcff_models::{
    Architecture, Builder, INPUT, Initialisation, LayerKind, Mode, Network, ParameterKind, Views,
};
use dcff_nn::Isa;

/// A convolution, a residual block, a norm without activation, a linear layer.
fn tiny() -> Architecture {
    let mut b = Builder::new("tiny", [2, 6, 6], Initialisation::KaimingNormalFanIn);
    b.space("stream", 4);
    b.space("inner", 3);
    let x = b.conv("conv1", "stream", [3, 1, 1], false, INPUT);
    let x = b.norm("bn1", &x);
    let x = b.relu("relu1", &x);
    let y = b.conv("conv2", "inner", [3, 1, 1], true, &x);
    let y = b.norm("bn2", &y);
    let y = b.relu("relu2", &y);
    let y = b.conv("conv3", "stream", [1, 1, 0], false, &y);
    let y = b.norm("bn3", &y);
    let x = b.layer("add", LayerKind::Add, &[&y, &x]);
    let x = b.relu("relu3", &x);
    let x = b.conv("conv4", "inner", [3, 2, 1], false, &x);
    let x = b.norm("bn4", &x);
    let x = b.layer("pool", LayerKind::GlobalAvgPool, &[&x]);
    b.linear("fc", 3, &x);
    b.finish()
}

struct Case {
    state: HashMap<String, Tensor>,
    images: Tensor,
    labels: Tensor,
}

impl Case {
    fn new() -> Self {
        let (architecture, device) = (tiny(), Device::Cpu);
        let network = Network::new(&architecture, &architecture, 9, &device).unwrap();
        let mut state: HashMap<String, Tensor> = network.state().unwrap().into_iter().collect();
        for (seed, parameter) in network.parameters().iter().enumerate() {
            let (centre, spread) = match parameter.kind {
                ParameterKind::NormWeight => (1.0, 0.5),
                ParameterKind::NormBias | ParameterKind::RunningMean => (0.2, 0.3),
                ParameterKind::RunningVar => (1.0, 0.4),
                _ => continue,
            };
            let values = noise(parameter.shape[0], seed);
            let values: Vec<f32> = values.iter().map(|x| centre + spread * x).collect();
            state.insert(
                parameter.name.clone(),
                Tensor::new(values, &device).unwrap(),
            );
        }
        Self {
            state,
            images: Tensor::from_vec(noise(5 * 72, 1), (5, 2, 6, 6), &device).unwrap(),
            labels: Tensor::new(&[0u32, 2, 1, 1, 0], &device).unwrap(),
        }
    }

    fn network(&self, state: &HashMap<String, Tensor>) -> Network {
        let architecture = tiny();
        let mut network = Network::new(&architecture, &architecture, 9, &Device::Cpu).unwrap();
        network.load(state).unwrap();
        network
    }

    fn loss(&self, state: &HashMap<String, Tensor>) -> f64 {
        let network = self.network(state);
        let (logits, _) = network
            .forward(&self.images, &Views::dense(), Mode::Eval)
            .unwrap();
        dcff_nn::cross_entropy(&logits, &self.labels, 0.0)
            .unwrap()
            .value
            .read()
            .unwrap()
            .mean
    }

    /// The loss with the parameter `name` moved by `step` along `direction`.
    fn moved(&self, name: &str, direction: &[f32], step: f32) -> f64 {
        let mut state = self.state.clone();
        let tensor = &state[name];
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let values: Vec<f32> = values
            .iter()
            .zip(direction)
            .map(|(x, d)| x + step * d)
            .collect();
        let tensor = Tensor::from_vec(values, tensor.shape(), &Device::Cpu).unwrap();
        state.insert(name.to_owned(), tensor);
        self.loss(&state)
    }
}

#[test]
fn they_are_those_of_the_evaluated_network() {
    Isa::each(|_| {
        let case = Case::new();
        let network = case.network(&case.state);
        let views = Views::dense();
        let (logits, trace) = network.forward(&case.images, &views, Mode::Frozen).unwrap();
        let (evaluated, _) = network.forward(&case.images, &views, Mode::Eval).unwrap();
        assert_eq!(
            logits.to_vec2::<f32>().unwrap(),
            evaluated.to_vec2::<f32>().unwrap()
        );
        let loss = dcff_nn::cross_entropy(&logits, &case.labels, 0.0).unwrap();
        let gradients = network.backward(trace, &views, &loss.grad).unwrap();
        for (i, parameter) in network.parameters().iter().enumerate() {
            if !parameter.kind.is_trained() {
                continue;
            }
            let gradient: Vec<f32> = gradients
                .get(i)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap();
            // Along each of three directions, the last being the parameter itself: what a filter's length does.
            let own: Vec<f32> = network.tensor(i).flatten_all().unwrap().to_vec1().unwrap();
            for direction in [noise(own.len(), 2), noise(own.len(), 3), own] {
                let slope: f64 = gradient
                    .iter()
                    .zip(&direction)
                    .map(|(g, d)| f64::from(*g) * f64::from(*d))
                    .sum();
                // Small, since units change sides.
                let step = 5e-4;
                let difference = case.moved(&parameter.name, &direction, step)
                    - case.moved(&parameter.name, &direction, -step);
                let measured = difference / (2.0 * f64::from(step));
                assert!(
                    (slope - measured).abs() <= 2e-3 + 0.02 * measured.abs(),
                    "{}: {slope}, measured {measured}",
                    parameter.name
                );
            }
        }
    });
}

#[test]
fn in_training_mode_a_filter_is_orthogonal_to_its_gradient() {
    Isa::each(|_| {
        // What makes frozen statistics necessary for scores that multiply weights by gradients.
        let case = Case::new();
        let network = case.network(&case.state);
        let views = Views::dense();
        let along = |mode: Mode| -> f64 {
            let (logits, trace) = network.forward(&case.images, &views, mode).unwrap();
            let loss = dcff_nn::cross_entropy(&logits, &case.labels, 0.0).unwrap();
            let gradients = network.backward(trace, &views, &loss.grad).unwrap();
            let product = (gradients.get(0).unwrap() * network.tensor(0)).unwrap();
            let per_filter: Vec<f32> = product.sum((1, 2, 3)).unwrap().to_vec1().unwrap();
            per_filter.iter().map(|x| f64::from(x.abs())).sum()
        };
        assert!(along(Mode::Train) < 1e-2 * along(Mode::Frozen));
    });
}
