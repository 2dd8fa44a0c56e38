//! The tensors of a network, every one once and at full size.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::architecture::Architecture;
use crate::initialisation::initial_values;
use crate::parameter::{Parameter, ParameterKind};
use crate::parameters::parameters;
use crate::{Error, Result};

/// All tensors of a network on a device: what is trained, and the running statistics.
///
/// [`crate::Program`]s of the same or smaller widths read them. There is no `Clone`: tensors share their memory and gradient
/// descent writes in place, so a shallow copy would train along with its origin; see [`Weights::deep_copy`].
#[derive(Debug)]
pub struct Weights {
    full: Architecture,
    compact: Architecture,
    parameters: Arc<[Parameter]>,
    tensors: Vec<Tensor>,
    index: Arc<HashMap<String, usize>>,
    /// Training batches seen, PyTorch's `num_batches_tracked`.
    batches_tracked: i64,
    device: Device,
}

impl Weights {
    /// The weights of a network that keeps the filters of `full` and reads the widths of `compact` (equal to it for a plain
    /// network), drawn from `seed`.
    ///
    /// # Errors
    /// When `compact` is not `full` narrowed, or the device fails.
    pub fn new(
        full: &Architecture,
        compact: &Architecture,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        let parameters = parameters(full, compact)?;
        let mut weight_shape: &[usize] = &[];
        let mut tensors = Vec::with_capacity(parameters.len());
        for parameter in &parameters {
            if matches!(
                parameter.kind,
                ParameterKind::ConvWeight | ParameterKind::LinearWeight
            ) {
                weight_shape = &parameter.shape;
            }
            let values = initial_values(full.initialisation, parameter, weight_shape, seed);
            let shape = parameter.shape.as_slice();
            tensors.push(Tensor::from_vec(values, shape, device)?);
        }
        let named = parameters.iter().enumerate();
        let index = named.map(|(i, p)| (p.name.clone(), i)).collect();
        Ok(Self {
            full: full.clone(),
            compact: compact.clone(),
            index: Arc::new(index),
            parameters: parameters.into(),
            tensors,
            batches_tracked: 0,
            device: device.clone(),
        })
    }

    /// The same numbers in memory of their own.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn deep_copy(&self) -> Result<Self> {
        let tensors: candle_core::Result<_> = self.tensors.iter().map(Tensor::copy).collect();
        Ok(Self {
            full: self.full.clone(),
            compact: self.compact.clone(),
            parameters: Arc::clone(&self.parameters),
            tensors: tensors?,
            index: Arc::clone(&self.index),
            batches_tracked: self.batches_tracked,
            device: self.device.clone(),
        })
    }

    /// Weights that share all tensors with these but batch norm's statistics: those of `own`, by name, of a narrower network over
    /// the same weights. What is not in `own` is shared, too. Both are for evaluation: training one would change the other.
    ///
    /// # Errors
    /// When statistics are longer than here, or the device fails.
    pub fn with_statistics(&self, own: &BTreeMap<String, Tensor>) -> Result<Self> {
        let mut tensors = self.tensors.clone();
        for (parameter, tensor) in self.parameters.iter().zip(&mut tensors) {
            let Some(own) = own
                .get(&parameter.name)
                .filter(|_| !parameter.kind.is_trained())
            else {
                continue;
            };
            let (all, read) = (tensor.dim(0)?, own.dims1()?);
            let Some(rest) = all.checked_sub(read) else {
                return Err(Error::Shape {
                    name: parameter.name.clone(),
                    expected: vec![all],
                    got: vec![read],
                });
            };
            // What no slice reads is as long as the weights' own.
            *tensor = own.to_device(&self.device)?.pad_with_zeros(0, 0, rest)?;
        }
        Ok(Self {
            full: self.full.clone(),
            compact: self.compact.clone(),
            parameters: Arc::clone(&self.parameters),
            tensors,
            index: Arc::clone(&self.index),
            batches_tracked: self.batches_tracked,
            device: self.device.clone(),
        })
    }

    /// The architecture whose filters are kept.
    pub fn full(&self) -> &Architecture {
        &self.full
    }

    /// The architecture whose widths the layers read, as wide as the tensors are.
    pub fn compact(&self) -> &Architecture {
        &self.compact
    }

    /// The device of the tensors.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All tensors' names, kinds and shapes.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    pub(crate) fn shared_parameters(&self) -> &Arc<[Parameter]> {
        &self.parameters
    }

    /// The tensor at `index` of [`Weights::parameters`].
    pub fn tensor(&self, index: usize) -> &Tensor {
        &self.tensors[index]
    }

    /// Puts another tensor of the same shape at `index`.
    pub(crate) fn replace(&mut self, index: usize, tensor: Tensor) {
        self.tensors[index] = tensor;
    }

    /// The tensor called `name`, for example `conv1.weight`.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// Training batches seen, PyTorch's `num_batches_tracked`.
    pub fn batches_tracked(&self) -> i64 {
        self.batches_tracked
    }

    /// Sets [`Weights::batches_tracked`], for steps that a GPU repeats without [`crate::Program::update_statistics`].
    pub fn set_batches_tracked(&mut self, batches: i64) {
        self.batches_tracked = batches;
    }

    /// The names of the batch norms' counters.
    fn counters(&self) -> impl Iterator<Item = String> {
        let norms = self
            .parameters
            .iter()
            .filter(|p| p.kind == ParameterKind::RunningMean);
        norms.map(|p| format!("{}.{BATCHES_TRACKED}", self.compact.layers[p.layer].name))
    }

    /// All tensors under PyTorch's state-dict keys, `num_batches_tracked` (`i64`, `[]`) included. They share their memory with
    /// these weights.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let named = self.parameters.iter().zip(&self.tensors);
        let mut state: BTreeMap<_, _> = named.map(|(p, t)| (p.name.clone(), t.clone())).collect();
        for name in self.counters() {
            state.insert(name, Tensor::new(self.batches_tracked, &self.device)?);
        }
        Ok(state)
    }

    /// Replaces all tensors by copies of those in `state`; strict, except that `num_batches_tracked` may be missing.
    ///
    /// # Errors
    /// On a missing, unknown or wrongly shaped tensor; the weights are then unchanged.
    pub fn load(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for parameter in self.parameters.iter() {
            let given = state
                .get(&parameter.name)
                .ok_or_else(|| Error::MissingParameter(parameter.name.clone()))?;
            if given.dims() != parameter.shape {
                let (expected, got) = (parameter.shape.clone(), given.dims().to_vec());
                return Err(Error::Shape {
                    name: parameter.name.clone(),
                    expected,
                    got,
                });
            }
            tensors.push(
                given
                    .to_dtype(DType::F32)?
                    .to_device(&self.device)?
                    .copy()?
                    .contiguous()?,
            );
        }
        let counters: Vec<String> = self.counters().collect();
        let mut batches_tracked = 0;
        for (name, tensor) in state
            .iter()
            .filter(|(name, _)| !self.index.contains_key(*name))
        {
            if !counters.contains(name) || tensor.elem_count() != 1 {
                return Err(Error::UnknownParameter(name.clone()));
            }
            batches_tracked = batches_tracked.max(tensor.flatten_all()?.to_vec1::<i64>()?[0]);
        }
        self.tensors = tensors;
        self.batches_tracked = batches_tracked;
        Ok(())
    }
}

const BATCHES_TRACKED: &str = "num_batches_tracked";
