//! A constant added to maps: one number for each channel and place relative to the border.
//!
//! ```text
//! y[n, c, i, j] = x[n, c, i, j] + o[c, row(i), column(j)]
//! ```
//!
//! A channel that is constant over its map contributes to a convolution with zeros around it what depends only on how much of the
//! window lies outside: rows and columns at the border have numbers of their own, all others share one.

use candle_core::{Result, Tensor, bail};

use crate::args;
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::{Element, by_element};
use crate::features::{Features, LANES};
use crate::gpu;
use crate::threads::{self, Out};

/// How many rows and columns at the border have numbers of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Border {
    /// At the top and at the bottom.
    pub rows: [usize; 2],
    /// At the left and at the right.
    pub columns: [usize; 2],
}

impl Border {
    /// Rows and columns with numbers of their own, and one for all others: the last two dimensions of what is added.
    pub fn places(&self) -> [usize; 2] {
        [self.rows, self.columns]
            .map(|[before, after]| before.saturating_add(after).saturating_add(1))
    }

    /// Whether maps of `height` x `width` pixels have that many rows and columns.
    pub fn fits(&self, height: usize, width: usize) -> bool {
        let within = |[before, after]: [usize; 2], size: usize| {
            before.checked_add(after).is_some_and(|sum| sum <= size)
        };
        within(self.rows, height) && within(self.columns, width)
    }

    /// The place of every row, or column, of `size`, from how many have places of their own at its two ends.
    pub fn place([before, after]: [usize; 2], size: usize) -> impl Fn(usize) -> usize {
        move |i| match () {
            () if i < before => i,
            () if i + after >= size => before + 1 + after + i - size,
            () => before,
        }
    }

    /// The place of every pixel.
    pub(crate) fn table(&self, (height, width): (usize, usize)) -> Vec<u32> {
        let columns = self.places()[1];
        let (row, column) = (
            Self::place(self.rows, height),
            Self::place(self.columns, width),
        );
        let pixels = (0..height).flat_map(|i| (0..width).map(move |j| (i, j)));
        pixels
            .map(|(i, j)| (row(i) * columns + column(j)) as u32)
            .collect()
    }

    pub(crate) fn check(&self, op: &str, (height, width): (usize, usize)) -> Result<()> {
        if !self.fits(height, width) {
            bail!("{op}: expected a border within maps of {height} x {width} pixels, got {self:?}");
        }
        Ok(())
    }
}

/// `x` `[N, C, H, W]` with `o` `[C, R, S]` added, where `[R, S]` are the border's [`Border::places`].
///
/// # Errors
///
/// A border larger than the maps, or another shape of `o`.
pub fn offset(x: &Features, o: &Tensor, border: Border) -> Result<Features> {
    const OP: &str = "offset";
    let (_, c, h, w) = x.dims();
    border.check(OP, (h, w))?;
    let [rows, columns] = border.places();
    args::same(OP, "an offset of shape", &[c, rows, columns][..], o.dims())?;
    if let Some(gpu) = x.gpu() {
        let edges = [border.rows, border.columns];
        return gpu::offset(&gpu, x.maps(OP)?, o, edges).map(Features::from_gpu);
    }
    let table = border.table((h, w));
    args::with_any(OP, "an offset", o, |o| {
        let mut y = Features::uninit(x.dims(), x.precision())?;
        by_element!(x.precision(), E => shift::<E>(x, o, &table, rows * columns, &mut y));
        Ok(y)
    })?
}

fn shift<E: Element>(x: &Features, o: &[f32], table: &[u32], places: usize, y: &mut Features) {
    let (plane, isa, c) = (x.plane(), Isa::current(), x.channels());
    let out = Out::new(y.cpu_mut::<E>());
    threads::each(x.groups() * c, |task| {
        isa.run(Shift {
            x: &x.cpu::<E>()[task * plane..][..plane],
            o: &o[task % c * places..][..places],
            table,
            // SAFETY: every plane is written by one task.
            y: unsafe { std::slice::from_raw_parts_mut(out.at(task * plane), plane) },
        });
    });
}

struct Shift<'a, E> {
    x: &'a [E],
    o: &'a [f32],
    table: &'a [u32],
    y: &'a mut [E],
}

impl<E: Element> Kernel for Shift<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let pixels = self
            .x
            .chunks_exact(LANES)
            .zip(self.y.chunks_exact_mut(LANES));
        for ((x, y), &place) in pixels.zip(self.table) {
            // SAFETY: chunks hold sixteen numbers.
            unsafe {
                let sum = S::add(E::load::<S>(x.as_ptr()), S::splat(self.o[place as usize]));
                E::store::<S>(y.as_mut_ptr(), sum);
            }
        }
    }
}

/// The gradient of what [`offset`] adds, `[C, R, S]`; that of its input is `dy` itself.
///
/// # Errors
///
/// A border larger than the maps.
pub fn offset_backward(dy: &Features, border: Border) -> Result<Tensor> {
    const OP: &str = "offset_backward";
    let (_, c, h, w) = dy.dims();
    border.check(OP, (h, w))?;
    let [rows, columns] = border.places();
    if let Some(gpu) = dy.gpu() {
        let edges = [border.rows, border.columns];
        return gpu::offset_backward(&gpu, dy.maps(OP)?, edges, [rows, columns]);
    }
    let table = border.table((h, w));
    let places = rows * columns;
    let mut sums = args::zeros::<f32>(OP, &[c, rows, columns])?;
    by_element!(dy.precision(), E => {
        let (plane, group, numbers) = (dy.plane(), dy.group_len(), dy.cpu::<E>());
        let out = Out::new(&mut sums);
        threads::each(c, |channel| {
            let mut sums = vec![0f64; places];
            for g in 0..dy.groups() {
                let pixels = &numbers[g * group + channel * plane..][..plane];
                for (pixel, &place) in pixels.chunks_exact(LANES).zip(&table) {
                    // Lanes without an image hold zeros in gradients.
                    let sum: f64 = pixel.iter().map(|v| f64::from(v.to_f32())).sum();
                    sums[place as usize] += sum;
                }
            }
            for (place, sum) in sums.into_iter().enumerate() {
                // SAFETY: this task alone writes the channel.
                unsafe { *out.at(channel * places + place) = sum as f32 };
            }
        });
    });
    args::tensor(sums, &[c, rows, columns])
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn border_pixels_have_numbers_of_their_own() -> Result<()> {
        let border = Border {
            rows: [1, 1],
            columns: [1, 0],
        };
        assert_eq!(border.places(), [3, 2]);
        assert_eq!(border.table((4, 3)), [0, 1, 1, 2, 3, 3, 2, 3, 3, 4, 5, 5],);
        // Of two rows none is in the middle.
        assert_eq!(border.table((2, 2)), [0, 1, 4, 5]);
        assert!(!border.fits(1, 3) && border.fits(2, 1));

        let o = Tensor::arange(1f32, 13.0, &Device::Cpu)?.reshape((2, 3, 2))?;
        let x = Features::zeros((17, 2, 4, 3), &Device::Cpu)?;
        let y = offset(&x, &o, border)?.to_nchw()?;
        let last = y.get(16)?.get(1)?.flatten_all()?.to_vec1::<f32>()?;
        let expected = [7, 8, 8, 9, 10, 10, 9, 10, 10, 11, 12, 12].map(|v| v as f32);
        assert_eq!(last, expected);

        let dy = Tensor::ones((17, 2, 4, 3), candle_core::DType::F32, &Device::Cpu)?;
        let gradient = offset_backward(&Features::from_nchw(&dy)?, border)?;
        let pixels = [1, 2, 2, 4, 1, 2].map(|pixels| (17 * pixels) as f32);
        assert_eq!(gradient.get(1)?.flatten_all()?.to_vec1::<f32>()?, pixels);
        Ok(())
    }
}
