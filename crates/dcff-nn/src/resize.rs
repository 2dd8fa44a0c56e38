//! Images of another size, for networks that are trained at several.

use candle_core::{Device, Result, Tensor, bail};

use crate::args;
use crate::threads::{self, Out};

/// `images` `[N, C, H, W]` resized to `side` x `side` pixels, bilinearly with corners aligned: pixel `i` of `n` lies at
/// `i (m - 1) / (n - 1)` of `m`. Images of that height and width stay as they are.
///
/// Computed on the processor wherever the images are.
///
/// # Errors
///
/// Another rank or type, or a side of 0.
pub fn resize(images: &Tensor, side: usize) -> Result<Tensor> {
    const OP: &str = "resize";
    let Ok((n, c, h, w)) = images.dims4() else {
        bail!(
            "{OP}: expected images of shape [N, C, H, W], got {:?}",
            images.dims()
        );
    };
    if side == 0 || h == 0 || w == 0 {
        bail!("{OP}: expected sides of at least 1, got {h} x {w} to {side}");
    }
    if (h, w) == (side, side) {
        return Ok(images.clone());
    }
    args::count(OP, &[n, c, side, side])?;
    let (rows, columns) = (Axis::new(h, side), Axis::new(w, side));
    let on_cpu = images.to_device(&Device::Cpu)?;
    let resized = args::with_any(OP, "images", &on_cpu, |pixels| {
        let mut to = vec![0f32; n * c * side * side];
        let out = Out::new(&mut to);
        threads::each(n * c, |plane| {
            let from = &pixels[plane * h * w..][..h * w];
            // SAFETY: every plane is written by one task.
            let to =
                unsafe { std::slice::from_raw_parts_mut(out.at(plane * side * side), side * side) };
            for (i, to) in to.chunks_exact_mut(side).enumerate() {
                let (above, below, down) = rows.of(i);
                let [above, below] = [above, below].map(|row| &from[row * w..][..w]);
                for (j, to) in to.iter_mut().enumerate() {
                    let (left, right, across) = columns.of(j);
                    let mix = |row: &[f32]| row[left] + across * (row[right] - row[left]);
                    let (above, below) = (mix(above), mix(below));
                    *to = above + down * (below - above);
                }
            }
        });
        args::tensor(to, &[n, c, side, side])
    })??;
    resized.to_device(images.device())
}

/// Where the pixels of one direction lie.
struct Axis(Vec<(usize, usize, f32)>);

impl Axis {
    fn new(from: usize, to: usize) -> Self {
        let scale = (from - 1) as f64 / to.saturating_sub(1).max(1) as f64;
        let place = |i: usize| {
            let place = i as f64 * scale;
            let first = (place.floor() as usize).min(from - 1);
            let second = (first + 1).min(from - 1);
            (first, second, (place - first as f64) as f32)
        };
        Self((0..to).map(place).collect())
    }

    /// The pixels before and behind, and how far between them.
    fn of(&self, i: usize) -> (usize, usize, f32) {
        self.0[i]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corners_stay_and_what_lies_between_is_mixed() -> Result<()> {
        let t = Tensor::new(&[[[[0f32, 3.0], [6.0, 9.0]]]], &Device::Cpu)?;
        let numbers = |t: Tensor| t.flatten_all()?.to_vec1::<f32>();
        let expected = [
            0.0, 1.0, 2.0, 3.0, 2.0, 3.0, 4.0, 5.0, 4.0, 5.0, 6.0, 7.0, 6.0, 7.0, 8.0, 9.0,
        ];
        for (got, expected) in numbers(resize(&t, 4)?)?.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} for {expected}");
        }
        assert_eq!(numbers(resize(&t, 1)?)?, [0.0]);
        assert_eq!(numbers(resize(&t, 2)?)?, [0.0, 3.0, 6.0, 9.0]);
        assert!(resize(&t, 0).is_err());
        Ok(())
    }
}
