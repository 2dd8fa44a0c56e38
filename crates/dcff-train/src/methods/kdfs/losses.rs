//! What the student learns from its teacher: its logits, and where the maps of a stage are active.
//!
//! ```text
//! KD = T² mean_n Σ_k p_t (log p_t - log p_s),   p = softmax(z / T)
//! RC = mean over images and pixels of (q(x) - q(y))²,   q = mean over channels of x², of unit length for each image
//! ```
//!
//! Hinton, Vinyals and Dean, *Distilling the Knowledge in a Neural Network*, 2015, <https://arxiv.org/abs/1503.02531>; Zagoruyko
//! and Komodakis, *Paying More Attention to Attention*, ICLR 2017, <https://arxiv.org/abs/1612.03928>, on maps decoded from a masked
//! network (Lin et al., <https://arxiv.org/abs/2307.00198>).

use candle_core::{D, Tensor};

pub use crate::distillation::{Term, distillation};
use crate::error::Result;

/// The length that a row is divided by is at least this.
const SHORTEST: f64 = 1e-12;

/// Where `maps` `[N, C, H, W]` are active: the mean of their squares over the channels, `[N, H W]`, each row of unit length; and the
/// lengths `[N, 1]` that the rows were divided by.
fn attention_and_lengths(maps: &Tensor) -> Result<(Tensor, Tensor)> {
    let squares = maps.sqr()?.mean(1)?.flatten_from(1)?;
    let lengths = squares
        .sqr()?
        .sum_keepdim(D::Minus1)?
        .sqrt()?
        .maximum(SHORTEST)?;
    Ok((squares.broadcast_div(&lengths)?, lengths))
}

/// Where `maps` `[N, C, H, W]` are active: the mean of their squares over the channels, `[N, H W]`, each row of unit length.
///
/// # Errors
/// Those of the device.
pub fn attention(maps: &Tensor) -> Result<Tensor> {
    Ok(attention_and_lengths(maps)?.0)
}

/// How far the `decoded` maps are from being active where those of the `teacher` are, both `[N, C, H, W]`.
///
/// # Errors
/// Those of the device.
pub fn reconstruction(decoded: &Tensor, teacher: &Tensor) -> Result<Term> {
    let (n, c, h, w) = decoded.dims4()?;
    let (own, lengths) = attention_and_lengths(decoded)?;
    let apart = (&own - attention(teacher)?)?;
    let value = f64::from(apart.sqr()?.mean_all()?.to_scalar::<f32>()?);
    let of_own = (apart * (2.0 / (n * h * w) as f64))?;
    // Through the division by the row's length, then through the squares; an empty row has maps of 0 and so no gradient.
    let along = (&of_own * &own)?.sum_keepdim(D::Minus1)?;
    let of_squares = of_own
        .broadcast_sub(&own.broadcast_mul(&along)?)?
        .broadcast_div(&lengths)?;
    let of_squares = (of_squares.reshape((n, 1, h, w))? * (2.0 / c as f64))?;
    Ok(Term {
        value,
        gradient: decoded.broadcast_mul(&of_squares)?,
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn maps(f: impl Fn(f32) -> f32) -> Tensor {
        let values: Vec<f32> = (0..24).map(|i| f(i as f32)).collect();
        Tensor::from_vec(values, (2, 3, 2, 2), &Device::Cpu).unwrap()
    }

    #[test]
    fn reconstruction_is_that_of_pytorch() {
        let (x, y) = (maps(|i| i / 10.0 - 1.0), maps(|i| i * i / 100.0));
        let term = reconstruction(&x, &y).unwrap();
        assert!((term.value - 0.066_501_1).abs() < 1e-7, "{}", term.value);
        let scaled = (&x * 3.0).unwrap();
        assert!(reconstruction(&x, &scaled).unwrap().value < 1e-14);
        let empty = reconstruction(&x.zeros_like().unwrap(), &y).unwrap();
        let gradient: Vec<f32> = empty.gradient.flatten_all().unwrap().to_vec1().unwrap();
        assert!(gradient.iter().all(|&g| g == 0.0));
    }

    /// Against central differences of the value.
    #[test]
    fn gradients_are_those_of_the_values() {
        let (x, y) = (maps(|i| (i * 0.7).sin()), maps(|i| (i * 0.3).cos()));
        let gradient: Vec<f32> = reconstruction(&x, &y)
            .unwrap()
            .gradient
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let values: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        for i in 0..values.len() {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[i] += by;
                let x = Tensor::from_vec(values, x.dims(), &Device::Cpu).unwrap();
                reconstruction(&x, &y).unwrap().value
            };
            let slope = (moved(5e-3) - moved(-5e-3)) / 1e-2;
            assert!(
                (slope - f64::from(gradient[i])).abs() < 2e-4,
                "{i}: {slope} {}",
                gradient[i]
            );
        }
    }
}
