//! The maximum or mean of each window, and the mean of a whole map.

use std::ops::Deref;

use dcff_nn::{Features, PoolConfig, inference};
use serde::{Deserialize, Serialize};

use super::operation::{Backward, Forward, Operation, Ready, Readying};
use super::rule::{Planner, Rule};
use crate::Result;
use crate::shape::{Shape, window};
use crate::spaces::Spaces;
use crate::trace::Saved;

/// A pooling window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Height and width of the window.
    pub kernel: usize,
    /// Step between windows.
    pub stride: usize,
    /// Border on each side.
    #[serde(default)]
    pub padding: usize,
}

impl Pool {
    fn config(&self) -> PoolConfig {
        PoolConfig {
            kernel: self.kernel,
            stride: self.stride,
            padding: self.padding,
        }
    }
}

/// A pooling window whose mean is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AvgPool(pub Pool);

impl Deref for AvgPool {
    type Target = Pool;

    fn deref(&self) -> &Pool {
        &self.0
    }
}

impl Rule for AvgPool {
    fn shape(&self, spaces: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        self.0.shape(spaces, inputs)
    }

    fn plan(&self, _: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Avg(self.config()))))
    }
}

impl Rule for Pool {
    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        let Self {
            kernel,
            stride,
            padding,
        } = *self;
        if padding > kernel / 2 {
            return Err(format!(
                "expected padding of at most half the window {kernel}, got {padding}"
            ));
        }
        window(inputs[0], inputs[0].channels, kernel, stride, padding)
    }

    fn plan(&self, _: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(Max(self.config()))))
    }
}

#[derive(Debug)]
struct Max(PoolConfig);

impl Operation for Max {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        let (y, indices) = dcff_nn::max_pool2d(at.x(0)?, self.0)?;
        Ok((y, at.if_kept(Saved::Indices(indices))))
    }

    fn backward(&self, mut at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let Saved::Indices(indices) = at.saved() else {
            return Err(at.untraced());
        };
        Ok(vec![Some(dcff_nn::max_pool2d_backward(&indices, &at.dy)?)])
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let config = self.0;
        Ok(Ready::layer(at.lies(0)?, move |x| {
            inference::max_pool2d(x[0], config)
        }))
    }
}

#[derive(Debug)]
struct Avg(PoolConfig);

impl Operation for Avg {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        Ok((dcff_nn::avg_pool2d(at.x(0)?, self.0)?, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let (_, _, height, width) = at.input_dims(0);
        let gradient = dcff_nn::avg_pool2d_backward((height, width), self.0, &at.dy)?;
        Ok(vec![Some(gradient)])
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        let config = self.0;
        Ok(Ready::layer(at.lies(0)?, move |x| {
            inference::avg_pool2d(x[0], config)
        }))
    }
}

/// The mean of a whole map.
#[derive(Debug)]
pub(crate) struct GlobalAvg;

impl Rule for GlobalAvg {
    fn shape(&self, _: Spaces<'_>, inputs: &[Shape]) -> Result<Shape, String> {
        Ok(Shape {
            height: 1,
            width: 1,
            ..inputs[0]
        })
    }

    fn plan(&self, _: &mut dyn Planner) -> Result<Option<Box<dyn Operation>>> {
        Ok(Some(Box::new(GlobalAvg)))
    }
}

impl Operation for GlobalAvg {
    fn forward(&self, at: Forward<'_>) -> Result<(Features, Saved)> {
        Ok((dcff_nn::global_avg_pool(at.x(0)?)?, Saved::Nothing))
    }

    fn backward(&self, at: Backward<'_, '_>) -> Result<Vec<Option<Features>>> {
        let (_, _, height, width) = at.input_dims(0);
        let gradient = dcff_nn::global_avg_pool_backward((height, width), &at.dy)?;
        Ok(vec![Some(gradient)])
    }

    fn ready(&self, at: Readying<'_>) -> Result<Ready> {
        Ok(Ready::layer(at.lies(0)?, |x| {
            inference::global_avg_pool(x[0])
        }))
    }
}
