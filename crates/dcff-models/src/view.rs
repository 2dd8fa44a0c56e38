//! Effective-weight views: which weights a convolution's forward pass uses.

use std::collections::{HashMap, HashSet};

use candle_core::{DType, Tensor};
use dcff_nn::FilterSource;

use crate::Result;

/// How a convolution's effective weight comes from its filters `W [C, C_in, K, K]` and bias `b [C]`.
///
/// A view is constant during a pass. Gradients reach the filters through it, and a mask gets one of its own ([`View::pull_back`]).
#[derive(Clone, Debug)]
pub enum View {
    /// All filters as they are; in a narrower program the first ones.
    Dense,
    /// `P.W` and `P.b` with `P [M, C]`: every effective filter is a weighted sum of all filters (DCFF).
    Mix(Tensor),
    /// The filters at these indices, in this order (classic pruning).
    Select(Tensor),
    /// `m[c] W[c]` with `m [C]`, and the bias as it is: filters that learn whether they are needed. In a narrower program `m` is as
    /// long as the program's layer is wide.
    Mask(Tensor),
}

/// What [`View::parts`] calls the kinds of views that have a tensor.
const MIX: &str = "mix";
const SELECT: &str = "select";
const MASK: &str = "mask";

impl View {
    /// What [`View::parts`] may call a view.
    pub const KINDS: [&'static str; 3] = [MIX, SELECT, MASK];

    /// The view that takes the filters at `ids`, in this order.
    ///
    /// # Errors
    /// Those of allocating a tensor.
    pub fn select(ids: &[usize], device: &candle_core::Device) -> Result<Self> {
        let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
        Ok(Self::Select(Tensor::new(ids, device)?))
    }

    /// The view as a kind, one of [`View::KINDS`], and a tensor (`f32` or `i64`), to be stored; `None` for [`View::Dense`].
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn parts(&self) -> Result<Option<(&'static str, Tensor)>> {
        Ok(match self {
            Self::Dense => None,
            Self::Mix(p) => Some((MIX, p.clone())),
            Self::Select(ids) => Some((SELECT, ids.to_dtype(DType::I64)?)),
            Self::Mask(m) => Some((MASK, m.clone())),
        })
    }

    /// The view whose [`View::parts`] these are, on `device`.
    ///
    /// # Errors
    /// When there is no such kind, or the tensor is not one of it.
    pub fn from_parts(kind: &str, tensor: &Tensor, device: &candle_core::Device) -> Result<Self> {
        let rank = if kind == MIX { 2 } else { 1 };
        if !Self::KINDS.contains(&kind) || tensor.rank() != rank {
            let message = format!(
                "expected a view of kind {} with a tensor of one axis, or two to mix, got kind '{kind}' of shape {:?}",
                Self::KINDS.join(", "),
                tensor.dims()
            );
            return Err(crate::internal(&message));
        }
        let of = |dtype: DType| tensor.to_dtype(dtype)?.to_device(device);
        Ok(match kind {
            MIX => Self::Mix(of(DType::F32)?),
            MASK => Self::Mask(of(DType::F32)?),
            _ => Self::Select(of(DType::U32)?),
        })
    }

    /// The number of effective filters of a convolution with `filters` filters.
    pub fn width(&self, filters: usize) -> usize {
        match self {
            Self::Dense => filters,
            Self::Mix(p) => p.dims().first().copied().unwrap_or(0),
            Self::Select(ids) | Self::Mask(ids) => ids.elem_count(),
        }
    }

    /// Whether it makes its filters from all of a layer's; otherwise from the first ones, as many as it has.
    pub(crate) fn chooses(&self) -> bool {
        matches!(self, Self::Mix(_) | Self::Select(_))
    }

    /// What must be computed of the filters `w` `[C, ...]` before [`View::source`].
    ///
    /// # Errors
    /// Those of the tensor operations, when the view was made for another number of filters.
    pub(crate) fn mixed(&self, w: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Mix(p) => dcff_nn::mix(p, &w)?,
            Self::Dense | Self::Select(_) | Self::Mask(_) => w,
        })
    }

    /// What a convolution's effective filters are made of, from what [`View::mixed`] gave.
    pub(crate) fn source<'a>(&'a self, mixed: &'a Tensor) -> FilterSource<'a> {
        let (rows, scale) = match self {
            Self::Dense | Self::Mix(_) => (None, None),
            Self::Select(ids) => (Some(ids), None),
            Self::Mask(m) => (None, Some(m)),
        };
        FilterSource {
            weight: mixed,
            rows,
            scale,
        }
    }

    /// As [`View::pull_back`], from the gradient that prepared filters give: of all their rows, before they were scaled.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(crate) fn pull_back_source(
        &self,
        source: &Tensor,
        gradient: Tensor,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match self {
            Self::Select(_) => Ok((gradient, None)),
            Self::Dense | Self::Mix(_) | Self::Mask(_) => self.pull_back(source, gradient),
        }
    }

    /// The effective weight `[M, ...]` of a weight `[C, ...]`.
    ///
    /// # Errors
    /// Those of the tensor operations, when the view was made for another number of filters.
    pub fn weight(&self, w: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense => w.clone(),
            Self::Mix(p) => dcff_nn::mix(p, w)?,
            Self::Select(ids) => w.index_select(ids, 0)?,
            Self::Mask(m) => w.broadcast_mul(&as_rows(m, w)?)?,
        })
    }

    /// The effective bias `[M]` of a bias `[C]`.
    ///
    /// # Errors
    /// Those of the tensor operations, when the view was made for another number of filters.
    pub fn bias(&self, b: &Tensor) -> Result<Tensor> {
        match self {
            Self::Mask(_) => Ok(b.clone()),
            Self::Dense | Self::Mix(_) | Self::Select(_) => self.weight(b),
        }
    }

    /// The gradients of the filters `w` `[C, ...]` and of the view itself, where it can be trained, from that of the effective
    /// weight `[M, ...]`:
    ///
    /// ```text
    /// Mix:  dW = P^T dŴ          Mask:  dW[c] = m[c] dŴ[c],   dm[c] = Σ W[c] dŴ[c]
    /// ```
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub fn pull_back(&self, w: &Tensor, gradient: Tensor) -> Result<(Tensor, Option<Tensor>)> {
        Ok(match self {
            Self::Dense => (gradient, None),
            Self::Mix(p) => (dcff_nn::mix_backward(p, &gradient)?, None),
            Self::Select(ids) => (w.zeros_like()?.index_add(ids, &gradient, 0)?, None),
            Self::Mask(m) => {
                let of_mask = (w * &gradient)?.flatten_from(1)?.sum(1)?;
                (gradient.broadcast_mul(&as_rows(m, w)?)?, Some(of_mask))
            }
        })
    }

    /// The gradient of the bias `[C]`, with `C` = `filters`, from that of the effective bias `[M]`.
    ///
    /// # Errors
    /// Those of the tensor operations.
    pub(crate) fn bias_gradient(&self, filters: usize, gradient: Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Dense | Self::Mask(_) => gradient,
            Self::Mix(p) => dcff_nn::mix_backward(p, &gradient)?,
            Self::Select(ids) => Tensor::zeros(filters, gradient.dtype(), gradient.device())?
                .index_add(ids, &gradient, 0)?,
        })
    }
}

/// `m` `[C]` as `[C, 1, ...]`, to be multiplied with `w` `[C, ...]`.
fn as_rows(m: &Tensor, w: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; w.rank()];
    shape[0] = m.elem_count();
    Ok(m.reshape(shape)?)
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
            let (back, of_view) = view.pull_back(&w, g.clone()).unwrap();
            assert!(of_view.is_none());
            let back = back.to_vec2::<f32>().unwrap();
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
        let (back, _) = view.pull_back(&w, g).unwrap();
        assert_eq!(back.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 6.0]]);
    }

    #[test]
    fn a_mask_scales_filters_and_has_a_gradient() {
        let device = Device::Cpu;
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &device).unwrap();
        let b = Tensor::new(&[5f32, 6.0], &device).unwrap();
        let view = View::Mask(Tensor::new(&[0.5f32, 0.0], &device).unwrap());
        assert_eq!(view.width(2), 2);
        let weight = view.weight(&w).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(weight, [[0.5, 1.0], [0.0, 0.0]]);
        let bias = view.bias(&b).unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(bias, [5.0, 6.0]);
        let g = Tensor::new(&[[10f32, 20.0], [30.0, 40.0]], &device).unwrap();
        let (back, of_mask) = view.pull_back(&w, g).unwrap();
        let back = back.to_vec2::<f32>().unwrap();
        assert_eq!(back, [[5.0, 10.0], [0.0, 0.0]]);
        // A filter that is off still says what it would be worth.
        let of_mask = of_mask.unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(of_mask, [10.0 + 40.0, 90.0 + 160.0]);
    }

    #[test]
    fn views_come_back_from_their_parts() {
        let device = Device::Cpu;
        assert!(View::Dense.parts().unwrap().is_none());
        let w = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &device).unwrap();
        for view in [
            View::Mix(Tensor::new(&[[0.25f32, 0.75]], &device).unwrap()),
            View::select(&[1], &device).unwrap(),
            View::Mask(Tensor::new(&[0.5f32, 2.0], &device).unwrap()),
        ] {
            let (kind, tensor) = view.parts().unwrap().unwrap();
            let again = View::from_parts(kind, &tensor, &device).unwrap();
            let numbers = |view: &View| view.weight(&w).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(numbers(&view), numbers(&again));
            assert_eq!(again.parts().unwrap().unwrap().0, kind);
        }
        let error = View::from_parts("mix", &w.flatten_all().unwrap(), &device);
        let message = error.unwrap_err().to_string();
        assert!(message.contains("kind 'mix' of shape [4]"), "{message}");
        assert!(View::from_parts("other", &w, &device).is_err());
    }
}
