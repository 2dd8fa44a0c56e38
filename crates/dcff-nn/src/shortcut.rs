//! The shortcut without parameters of CIFAR ResNets ("option A").
//!
//! Takes every `stride`-th pixel and pads the channels with zeros: with `d = out - in`,
//! `floor(d / 2)` before and the rest after. As with PyTorch's `F.pad`, negative amounts crop.
//!
//! He et al., *Deep Residual Learning for Image Recognition*, CVPR 2016, section 4.2,
//! <https://arxiv.org/abs/1512.03385>.

use candle_core::{Result, bail};

use crate::args;
use crate::element::{Element, by_element};
use crate::features::{Features, LANES};
use crate::gpu;
use crate::threads::{self, Out};

/// Channels of zeros before the input's (negative: channels cropped).
pub(crate) fn before(channels: usize, out_channels: usize) -> isize {
    (out_channels as isize - channels as isize).div_euclid(2)
}

pub(crate) fn check(op: &str, stride: usize, out_channels: usize) -> Result<()> {
    if stride == 0 || out_channels == 0 {
        bail!(
            "{op}: expected a stride and output channels of at least 1, got {stride} and {out_channels}"
        );
    }
    Ok(())
}

/// `x` `[N, C, H, W]` as `[N, out_channels, ceil(H / stride), ceil(W / stride)]`.
///
/// # Errors
///
/// A stride or number of channels of zero.
pub fn shortcut(x: &Features, stride: usize, out_channels: usize) -> Result<Features> {
    check("shortcut", stride, out_channels)?;
    let (n, c, h, w) = x.dims();
    let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
    Features::count((n, out_channels, oh, ow))?;
    if let Some(gpu) = x.gpu() {
        let before = before(c, out_channels);
        let (x, dims) = (x.maps("shortcut")?, (n, out_channels, oh, ow));
        return gpu::shortcut(&gpu, x, dims, stride, before).map(Features::from_gpu);
    }
    let mut y = Features::uninit((n, out_channels, oh, ow), x.precision())?;
    by_element!(x.precision(), E => take::<E>(x, stride, &mut y));
    Ok(y)
}

fn take<E: Element>(x: &Features, stride: usize, y: &mut Features) {
    let ((_, c, _, w), (_, out_channels, _, ow)) = (x.dims(), y.dims());
    let (plane, group) = (y.plane(), y.group_len());
    let before = before(c, out_channels);
    let out = Out::new(y.cpu_mut::<E>());
    threads::each(x.groups(), |g| {
        for o in 0..out_channels {
            // SAFETY: this task alone writes group `g`.
            let to =
                unsafe { std::slice::from_raw_parts_mut(out.at(g * group + o * plane), plane) };
            let from = o as isize - before;
            if from < 0 || from >= c as isize {
                to.fill(E::default());
                continue;
            }
            let from = &x.cpu::<E>()[g * x.group_len() + from as usize * x.plane()..][..x.plane()];
            for (i, to) in to.chunks_exact_mut(LANES).enumerate() {
                let pixel = i / ow * stride * w + i % ow * stride;
                to.copy_from_slice(&from[pixel * LANES..][..LANES]);
            }
        }
    });
}

/// The gradient of [`shortcut`] with respect to its input of dimensions `(N, C, H, W)`.
///
/// # Errors
///
/// Other dimensions than those of the output.
pub fn shortcut_backward(
    dims: (usize, usize, usize, usize),
    stride: usize,
    dy: &Features,
) -> Result<Features> {
    const OP: &str = "shortcut_backward";
    let (n, c, h, w) = dims;
    check(OP, stride, c)?;
    Features::count(dims)?;
    let (dn, out_channels, oh, ow) = dy.dims();
    let expected = (n, h.div_ceil(stride), w.div_ceil(stride));
    args::same(
        OP,
        "a gradient of batch, height and width",
        expected,
        (dn, oh, ow),
    )?;
    if let Some(gpu) = dy.gpu() {
        let (dy, before) = (dy.maps(OP)?, before(c, out_channels));
        return gpu::shortcut_backward(&gpu, dims, stride, before, dy).map(Features::from_gpu);
    }
    let mut dx = Features::uninit(dims, dy.precision())?;
    by_element!(dy.precision(), E => put_back::<E>(dy, stride, &mut dx));
    Ok(dx)
}

fn put_back<E: Element>(dy: &Features, stride: usize, dx: &mut Features) {
    let ((_, c, _, w), (_, out_channels, _, ow)) = (dx.dims(), dy.dims());
    let (plane, group) = (dx.plane(), dx.group_len());
    let before = before(c, out_channels);
    let out = Out::new(dx.cpu_mut::<E>());
    threads::each(dy.groups(), |g| {
        for ch in 0..c {
            // SAFETY: this task alone writes group `g`.
            let to =
                unsafe { std::slice::from_raw_parts_mut(out.at(g * group + ch * plane), plane) };
            to.fill(E::default());
            let from = ch as isize + before;
            if from < 0 || from >= out_channels as isize {
                continue;
            }
            let from =
                &dy.cpu::<E>()[g * dy.group_len() + from as usize * dy.plane()..][..dy.plane()];
            for (i, from) in from.chunks_exact(LANES).enumerate() {
                let pixel = i / ow * stride * w + i % ow * stride;
                to[pixel * LANES..][..LANES].copy_from_slice(from);
            }
        }
    });
}
