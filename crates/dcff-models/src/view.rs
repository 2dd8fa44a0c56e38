//! Effective-weight views: which weights a convolution's forward pass uses.

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet};

use candle_core::Tensor;
use dcff_nn::FilterSource;

use crate::Result;

/// How a convolution's effective weight comes from its filters `W [C, C_in, K, K]` and bias `b [C]`.
///
/// A view is constant during a step: gradients reach the filters through it, never the view itself.
#[derive(Clone, Debug)]
pub enum View {
    /// All filters as they are.
    Dense,
    /// `P.W` and `P.b` with `P [M, C]`: every effective filter is a weighted sum of all filters (DCFF).
    Mix(Tensor),
    /// The filters at these indices, in this order (classic pruning).
    Select(Tensor),
}

impl View {
    /// The view that takes the filters at `ids`, in this order.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn select(ids: &[usize], device: &candle_core::Device) -> Result<Self> {
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        Ok(Self::Select(Tensor::new(ids, device)?))
    }

    /// The number of effective filters of a convolution with `filters` filters.
    pub fn width(&self, filters: usize) -> usize {
        match self {
            Self::Dense => filters,
            Self::Mix(p) => p.dims().first().copied().unwrap_or(0),
            Self::Select(ids) => ids.elem_count(),
        }
    }

    /// What a convolution's effective filters are made of, from its filters `w` `[C, ...]`: `mixed` holds what must be
    /// computed first.
    ///
    /// # Errors
    /// Those of the tensor operations, when the view was made for another number of filters.
    pub(crate) fn source<'a>(
        &'a self,
        w: &'a Tensor,
        mixed: &'a OnceCell<Tensor>,
    ) -> Result<FilterSource<'a>> {
        Ok(match self {
            Self::Dense => w.into(),
            Self::Mix(p) => {
                let computed = dcff_nn::mix(p, w)?;
                mixed.get_or_init(|| computed).into()
            }
            Self::Select(ids) => FilterSource {
                weight: w,
                rows: Some(ids),
            },
        })
    }

    /// The gradient of the filters `[C, ...]` from that of what [`View::source`] gave.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(crate) fn source_gradient(&self, gradient: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense | Self::Select(_) => gradient,
            Self::Mix(p) => dcff_nn::mix_backward(p, &gradient)?,
        })
    }

    /// The effective weight `[M, ...]` of a weight or bias `[C, ...]`.
    ///
    /// # Errors
    /// Those of the tensor operations, when the view was made for another number of filters.
    pub fn weight(&self, w: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense => w.clone(),
            Self::Mix(p) => dcff_nn::mix(p, w)?,
            Self::Select(ids) => w.index_select(ids, 0)?,
        })
    }

    /// The gradient of the filters `[C, ...]` from that of the effective weight `[M, ...]`.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn weight_gradient(&self, filters: usize, gradient: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense | Self::Mix(_) => self.source_gradient(gradient)?,
            Self::Select(ids) => {
                let mut shape = gradient.dims().to_vec();
                shape[0] = filters;
                Tensor::zeros(shape, gradient.dtype(), gradient.device())?
                    .index_add(ids, &gradient, 0)?
            }
        })
    }
}

/// The views of a network's convolutions by layer name; a convolution without one is [`View::Dense`].
#[derive(Clone, Debug, Default)]
pub struct Views(HashMap<String, View>);

impl Views {
    /// All convolutions dense.
    pub fn dense() -> Self {
        Self::default()
    }

    /// Sets the view of the convolution called `layer`.
    pub fn insert(&mut self, layer: impl Into<String>, view: View) {
        self.0.insert(layer.into(), view);
    }

    /// The view of the convolution called `layer`.
    pub fn get(&self, layer: &str) -> &View {
        self.0.get(layer).unwrap_or(&View::Dense)
    }

    /// The views that were set, by layer name, in no fixed order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &View)> {
        self.0.iter().map(|(layer, view)| (layer.as_str(), view))
    }

    /// Whether both select the same filters everywhere; `false` where either mixes any.
    ///
    /// # Errors
    /// Those of reading from the device.
    pub fn selects_as(&self, other: &Self) -> Result<bool> {
        let names: HashSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        for name in names {
            let same = match (self.get(name), other.get(name)) {
                (View::Dense, View::Dense) => true,
                (View::Select(a), View::Select(b)) => a.to_vec1::<u32>()? == b.to_vec1::<u32>()?,
                _ => false,
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether all convolutions are dense.
    pub fn is_dense(&self) -> bool {
        self.0.values().all(|view| matches!(view, View::Dense))
    }
}

impl FromIterator<(String, View)> for Views {
    fn from_iter<I: IntoIterator<Item = (String, View)>>(views: I) -> Self {
        Self(views.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn a_one_hot_mix_is_a_selection() {
        let device = Device::Cpu;
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0], [5.0, 6.0]], &device).unwrap();
        let g = Tensor::new(&[[10f32, 20.0], [30.0, 40.0]], &device).unwrap();
        let p = Tensor::new(&[[0f32, 0.0, 1.0], [1.0, 0.0, 0.0]], &device).unwrap();
        for view in [View::Mix(p), View::select(&[2, 0], &device).unwrap()] {
            assert_eq!(view.width(3), 2);
            assert_eq!(
                view.weight(&w).unwrap().to_vec2::<f32>().unwrap(),
                [[5.0, 6.0], [1.0, 2.0]]
            );
            let back = view
                .weight_gradient(3, g.clone())
                .unwrap()
                .to_vec2::<f32>()
                .unwrap();
            assert_eq!(back, [[30.0, 40.0], [0.0, 0.0], [10.0, 20.0]]);
        }
    }

    #[test]
    fn views_select_alike_when_ids_and_order_are_the_same() {
        let device = Device::Cpu;
        let views = |ids: &[usize]| -> Views {
            let view = View::select(ids, &device).unwrap();
            [("a".to_owned(), view)].into_iter().collect()
        };
        let same = |a: &Views, b: &Views| a.selects_as(b).unwrap();
        assert!(same(&views(&[2, 0]), &views(&[2, 0])));
        assert!(!same(&views(&[2, 0]), &views(&[0, 2])));
        assert!(!same(&views(&[2, 0]), &Views::dense()));
        let mut dense = Views::dense();
        dense.insert("a", View::Dense);
        assert!(same(&dense, &Views::dense()));
        let p = Tensor::new(&[[1f32, 0.0]], &device).unwrap();
        let mixed: Views = [("a".to_owned(), View::Mix(p))].into_iter().collect();
        assert!(!same(&mixed, &mixed));
    }

    #[test]
    fn a_mix_is_a_weighted_sum() {
        let device = Device::Cpu;
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &device).unwrap();
        let view = View::Mix(Tensor::new(&[[0.25f32, 0.75]], &device).unwrap());
        assert_eq!(
            view.weight(&w).unwrap().to_vec2::<f32>().unwrap(),
            [[2.5, 3.5]]
        );
        let g = Tensor::new(&[[4f32, 8.0]], &device).unwrap();
        assert_eq!(
            view.weight_gradient(2, g)
                .unwrap()
                .to_vec2::<f32>()
                .unwrap(),
            [[1.0, 2.0], [3.0, 6.0]]
        );
    }
}
