//! Few channels put at their places among many.

use candle_core::{Result, bail};

use crate::args;
use crate::element::{Element, by_element};
use crate::features::Features;
use crate::gpu;
use crate::threads::{self, Out};

/// Fails unless `channels` are places below `width`, one after the other.
pub(crate) fn check(op: &str, channels: &[usize], width: usize) -> Result<()> {
    let ascending = channels.windows(2).all(|pair| pair[0] < pair[1]);
    if !ascending || channels.last().is_none_or(|&last| last >= width) {
        bail!("{op}: expected ascending channels below {width}, got {channels:?}");
    }
    Ok(())
}

/// Runs of neighbouring places: the first channel, its place, and how many there are.
pub(crate) fn runs(channels: &[usize]) -> Vec<(usize, usize, usize)> {
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (from, &to) in channels.iter().enumerate() {
        match runs.last_mut() {
            Some((_, first, count)) if *first + *count == to => *count += 1,
            _ => runs.push((from, to, 1)),
        }
    }
    runs
}

/// `y[n, channels[i]] = x[n, i]`, the other channels 0: `[N, C, H, W]` to `[N, width, H, W]`.
///
/// # Errors
///
/// Places that are not ascending, not below `width`, or not as many as channels.
pub fn scatter(x: &Features, channels: &[usize], width: usize) -> Result<Features> {
    const OP: &str = "scatter";
    check(OP, channels, width)?;
    args::same(OP, "channels", channels.len(), x.channels())?;
    let (n, _, h, w) = x.dims();
    Features::count((n, width, h, w))?;
    if let Some(gpu) = x.gpu() {
        return gpu::scatter(&gpu, x.maps(OP)?, &runs(channels), width).map(Features::from_gpu);
    }
    let mut y = Features::uninit((n, width, h, w), x.precision())?;
    let mut from = vec![None; width];
    for (i, &place) in channels.iter().enumerate() {
        from[place] = Some(i);
    }
    by_element!(x.precision(), E => pick::<E>(x, &mut y, &from));
    Ok(y)
}

/// The gradient of [`scatter`] with respect to its input.
///
/// # Errors
///
/// Places that are not ascending or not below the gradient's channels.
pub fn scatter_backward(channels: &[usize], dy: &Features) -> Result<Features> {
    const OP: &str = "scatter_backward";
    let (n, width, h, w) = dy.dims();
    check(OP, channels, width)?;
    if let Some(gpu) = dy.gpu() {
        let (dy, count) = (dy.maps(OP)?, channels.len());
        return gpu::scatter_backward(&gpu, &runs(channels), count, dy).map(Features::from_gpu);
    }
    let mut dx = Features::uninit((n, channels.len(), h, w), dy.precision())?;
    let from: Vec<_> = channels.iter().map(|&place| Some(place)).collect();
    by_element!(dy.precision(), E => pick::<E>(dy, &mut dx, &from));
    Ok(dx)
}

/// Channel `i` of `y` becomes channel `from[i]` of `x`, or 0.
fn pick<E: Element>(x: &Features, y: &mut Features, from: &[Option<usize>]) {
    let (plane, group, source) = (y.plane(), y.group_len(), x.group_len());
    let out = Out::new(y.cpu_mut::<E>());
    threads::each(x.groups() * from.len(), |task| {
        let (g, channel) = (task / from.len(), task % from.len());
        // SAFETY: every plane is written by one task.
        let to =
            unsafe { std::slice::from_raw_parts_mut(out.at(g * group + channel * plane), plane) };
        match from[channel] {
            Some(from) => to.copy_from_slice(&x.cpu::<E>()[g * source + from * plane..][..plane]),
            None => to.fill(E::default()),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    #[test]
    fn channels_go_to_their_places_and_back() -> Result<()> {
        let t = Tensor::arange(1f32, 13.0, &Device::Cpu)?.reshape((2, 3, 1, 2))?;
        let y = scatter(&Features::from_nchw(&t)?, &[0, 2, 3], 5)?;
        let numbers = |x: &Features| x.to_nchw()?.flatten_all()?.to_vec1::<f32>();
        let expected = [
            1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0, //
            7.0, 8.0, 0.0, 0.0, 9.0, 10.0, 11.0, 12.0, 0.0, 0.0,
        ];
        assert_eq!(numbers(&y)?, expected);
        let back = scatter_backward(&[0, 2, 3], &y)?;
        assert_eq!(numbers(&back)?, t.flatten_all()?.to_vec1::<f32>()?);
        assert_eq!(runs(&[0, 2, 3]), [(0, 0, 1), (1, 2, 2)]);
        Ok(())
    }

    #[test]
    fn refuses_places_that_do_not_fit() {
        let t = Tensor::zeros((1, 2, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let x = Features::from_nchw(&t).unwrap();
        for channels in [&[0, 5][..], &[1, 0], &[1, 1], &[0], &[]] {
            assert!(scatter(&x, channels, 5).is_err(), "{channels:?}");
        }
    }
}
