//! Stochastic gradient descent with momentum over a network's trained parameters.

use candle_core::Tensor;
use dcff_models::{Gradients, Network};
use dcff_nn::SgdConfig;

use crate::error::{Error, Result};

/// SGD in PyTorch's form: `g += wd*p; v = m*v + g; p -= lr*v`, or `p -= lr*(g + m*v)` with Nesterov's momentum.
///
/// Weight decay reaches every parameter, batch norm's included, as in the published recipe.
#[derive(Debug)]
pub struct Sgd {
    /// One velocity per trained parameter, in the order of [`Network::parameters`].
    velocities: Vec<Option<Tensor>>,
}

impl Sgd {
    /// All velocities zero.
    ///
    /// # Errors
    /// Those of allocating tensors.
    pub fn new(network: &Network) -> Result<Self> {
        let velocities = network
            .parameters()
            .iter()
            .enumerate()
            .map(|(i, parameter)| {
                parameter
                    .kind
                    .is_trained()
                    .then(|| network.tensor(i).zeros_like())
                    .transpose()
            })
            .collect::<candle_core::Result<_>>()?;
        Ok(Self { velocities })
    }

    /// Changes `network`'s parameters in place.
    ///
    /// # Errors
    /// Those of the device.
    pub fn step(
        &mut self,
        network: &Network,
        gradients: &Gradients,
        config: &SgdConfig,
    ) -> Result<()> {
        let given = self.velocities.iter().enumerate();
        let triples: Vec<_> = given
            .filter_map(|(i, velocity)| {
                Some([network.tensor(i), velocity.as_ref()?, gradients.get(i)?])
            })
            .collect();
        Ok(dcff_nn::sgd_steps(&triples, config)?)
    }

    /// The velocities under their parameters' names.
    pub fn state<'a>(
        &'a self,
        network: &'a Network,
    ) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        let named = network.parameters().iter().zip(&self.velocities);
        named.filter_map(|(parameter, velocity)| {
            velocity.as_ref().map(|v| (parameter.name.as_str(), v))
        })
    }

    /// Replaces the velocities by copies of what `find` returns for their parameters' names.
    ///
    /// # Errors
    /// When one is missing or has another shape.
    pub fn load(&mut self, network: &Network, find: impl Fn(&str) -> Option<Tensor>) -> Result<()> {
        let mut loaded = Vec::with_capacity(self.velocities.len());
        for (parameter, velocity) in network.parameters().iter().zip(&self.velocities) {
            loaded.push(match velocity {
                None => None,
                Some(_) => {
                    let given = find(&parameter.name)
                        .ok_or_else(|| Error::setting(&parameter.name, "velocity is missing"))?;
                    if given.dims() != parameter.shape {
                        let message = format!(
                            "expected a velocity of shape {:?}, got {:?}",
                            parameter.shape,
                            given.dims()
                        );
                        return Err(Error::setting(&parameter.name, message));
                    }
                    Some(given.to_device(network.device())?.copy()?)
                }
            });
        }
        self.velocities = loaded;
        Ok(())
    }
}
