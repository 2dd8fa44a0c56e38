//! Operations without parameters that work number by number: activation, sum, channels side by side.

use candle_core::{Result, bail};

use crate::activation::Activation;
use crate::args;
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::{Element, by_element};
use crate::features::{self, Features, LANES};
use crate::gpu::{self, Rule};
use crate::threads::{self, Out};

/// Numbers that one task works on: a few pages, so that threads share large maps evenly.
const CHUNK: usize = 64 * 1024;

struct Elementwise<E> {
    rule: Rule,
    a: *const E,
    b: *const E,
    to: *mut E,
    len: usize,
    stream: bool,
}

impl<E: Element> Kernel for Elementwise<E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        // SAFETY: `len` is a multiple of the lanes and all three hold that many numbers; `to` may
        // be `a`, since each vector is read before it is written.
        unsafe {
            for i in (0..self.len).step_by(LANES) {
                let a = E::load::<S>(self.a.add(i));
                let b = E::load::<S>(self.b.add(i));
                let y = match self.rule {
                    Rule::Clamp(clamp) => clamp.of::<S>(a),
                    Rule::Through(clamp) => clamp.through::<S>(a, b),
                    Rule::Add => S::add(a, b),
                    Rule::AddClamp(clamp) => clamp.of::<S>(S::add(a, b)),
                };
                E::put::<S>(self.to.add(i), y, self.stream);
            }
            S::fence();
        }
    }
}

fn apply(rule: Rule, a: &Features, b: &Features) -> Result<Features> {
    if let Some(gpu) = a.gpu() {
        const OP: &str = "elementwise";
        let y = gpu::elementwise(&gpu, rule, a.maps(OP)?, b.maps(OP)?)?;
        return Ok(Features::from_gpu(y));
    }
    let mut out = Features::uninit(a.dims(), a.precision())?;
    by_element!(a.precision(), E => apply_to::<E>(rule, a, b, &mut out));
    Ok(out)
}

fn apply_to<E: Element>(rule: Rule, a: &Features, b: &Features, out: &mut Features) {
    let stream = out.streams();
    let (a, b) = (a.cpu::<E>(), b.cpu::<E>());
    let len = a.len();
    let (isa, to) = (Isa::current(), Out::new(out.cpu_mut()));
    threads::each(len.div_ceil(CHUNK), |task| {
        let start = task * CHUNK;
        isa.run(Elementwise {
            rule,
            a: a[start..].as_ptr(),
            b: b[start..].as_ptr(),
            // SAFETY: tasks write disjoint chunks.
            to: unsafe { to.at(start) },
            len: (len - start).min(CHUNK),
            stream,
        });
    });
}

/// The activation of `x` `[N, C, H, W]`.
///
/// # Errors
///
/// Those of the device; none on the CPU.
pub fn activation(x: &Features, act: Activation) -> Result<Features> {
    match act.clamp() {
        None => Ok(x.clone()),
        Some(clamp) => apply(Rule::Clamp(clamp), x, x),
    }
}

/// The gradient of [`activation`] with respect to its input, from its output `y`.
///
/// # Errors
///
/// Different dimensions or precisions.
pub fn activation_backward(y: &Features, act: Activation, dy: &Features) -> Result<Features> {
    const OP: &str = "activation_backward";
    args::same(OP, "a gradient of dimensions", y.dims(), dy.dims())?;
    features::precision(OP, &[y, dy])?;
    match act.clamp() {
        None => Ok(dy.clone()),
        Some(clamp) => apply(Rule::Through(clamp), y, dy),
    }
}

/// `act(a + b)`. Both inputs have the gradient [`activation_backward`] gives.
///
/// # Errors
///
/// Different dimensions or precisions.
pub fn add(a: &Features, b: &Features, act: Activation) -> Result<Features> {
    args::same("add", "a second input of dimensions", a.dims(), b.dims())?;
    features::precision("add", &[a, b])?;
    match act.clamp() {
        None => apply(Rule::Add, a, b),
        Some(clamp) => apply(Rule::AddClamp(clamp), a, b),
    }
}

/// `a + b`, for gradients that meet; written over `a` where nothing else shares its memory.
///
/// # Errors
///
/// Different dimensions or precisions.
pub fn accumulate(mut a: Features, b: &Features) -> Result<Features> {
    const OP: &str = "accumulate";
    args::same(OP, "a second gradient of dimensions", a.dims(), b.dims())?;
    let precision = features::precision(OP, &[&a, b])?;
    if let Some(gpu) = a.gpu() {
        const OP: &str = "accumulate";
        let y = gpu::accumulate(&gpu, a.into_maps(OP)?, b.maps(OP)?)?;
        return Ok(Features::from_gpu(y));
    }
    if !a.is_unique() {
        return apply(Rule::Add, &a, b);
    }
    by_element!(precision, E => apply_in_place::<E>(Rule::Add, &mut a, Some(b)));
    Ok(a)
}

/// `act(a + residual)`, for maps that were just made: written over `a`.
///
/// # Errors
///
/// Different dimensions or precisions.
pub(crate) fn finish(
    mut a: Features,
    residual: Option<&Features>,
    act: Activation,
) -> Result<Features> {
    const OP: &str = "residual";
    if let Some(residual) = residual {
        args::same(OP, "maps of dimensions", a.dims(), residual.dims())?;
        features::precision(OP, &[&a, residual])?;
    }
    let rule = match (residual, act.clamp()) {
        (None, None) => return Ok(a),
        (None, Some(clamp)) => Rule::Clamp(clamp),
        (Some(_), None) => Rule::Add,
        (Some(_), Some(clamp)) => Rule::AddClamp(clamp),
    };
    by_element!(a.precision(), E => apply_in_place::<E>(rule, &mut a, residual));
    Ok(a)
}

/// Writes what `rule` makes of `a` and `b` over `a`; rules of one map need no `b`.
fn apply_in_place<E: Element>(rule: Rule, a: &mut Features, b: Option<&Features>) {
    let isa = Isa::current();
    // What was just read is at hand: nothing to gain past the caches.
    let stream = false;
    let data = a.cpu_mut::<E>();
    let len = data.len();
    let to = Out::new(data);
    let b = b.map(Features::cpu::<E>);
    threads::each(len.div_ceil(CHUNK), |task| {
        let start = task * CHUNK;
        // SAFETY: tasks work on disjoint chunks.
        let at = unsafe { to.at(start) };
        isa.run(Elementwise {
            rule,
            a: at,
            b: b.map_or(at.cast_const(), |b| b[start..].as_ptr()),
            to: at,
            len: (len - start).min(CHUNK),
            stream,
        });
    });
}

/// The channels of all parts one after the other: `[N, C_1, H, W], ...` to `[N, ΣC_i, H, W]`.
///
/// # Errors
///
/// No part, or parts of different batch, map size or precision.
pub fn concat(parts: &[&Features]) -> Result<Features> {
    let Some(first) = parts.first() else {
        bail!("concat: expected at least one input, got none");
    };
    let (n, _, h, w) = first.dims();
    for part in parts {
        let (pn, _, ph, pw) = part.dims();
        args::same(
            "concat",
            "inputs of batch, height and width",
            (n, h, w),
            (pn, ph, pw),
        )?;
    }
    let precision = features::precision("concat", parts)?;
    let channels = parts.iter().map(|part| part.channels()).sum();
    if let Some(gpu) = first.gpu() {
        let parts: Result<Vec<_>> = parts.iter().map(|part| part.maps("concat")).collect();
        let y = gpu::concat(&gpu, &parts?, (n, channels, h, w))?;
        return Ok(Features::from_gpu(y));
    }
    let mut out = Features::uninit((n, channels, h, w), precision)?;
    by_element!(precision, E => concat_to::<E>(parts, &mut out));
    Ok(out)
}

fn concat_to<E: Element>(parts: &[&Features], out: &mut Features) {
    let (groups, group) = (out.groups(), out.group_len());
    let to = Out::new(out.cpu_mut::<E>());
    threads::each(groups, |g| {
        let mut at = g * group;
        for part in parts {
            let len = part.group_len();
            // SAFETY: this task alone writes group `g`; the lengths add up to one group.
            unsafe {
                std::slice::from_raw_parts_mut(to.at(at), len)
                    .copy_from_slice(&part.cpu::<E>()[g * len..][..len]);
            }
            at += len;
        }
    });
}

/// The gradient of [`concat()`]: cuts `[N, ΣC_i, H, W]` into parts of `channels` each.
///
/// # Errors
///
/// Numbers of channels that are zero or do not add up to those of `dy`.
pub fn split_channels(dy: &Features, channels: &[usize]) -> Result<Vec<Features>> {
    let (n, c, h, w) = dy.dims();
    let sum = channels
        .iter()
        .try_fold(0usize, |sum, &count| sum.checked_add(count));
    if sum != Some(c) || channels.contains(&0) {
        bail!("split_channels: expected numbers of channels that add up to {c}, got {channels:?}");
    }
    if let Some(gpu) = dy.gpu() {
        let parts = gpu::split_channels(&gpu, dy.maps("split_channels")?, channels)?;
        return Ok(parts.into_iter().map(Features::from_gpu).collect());
    }
    let mut at = 0;
    channels
        .iter()
        .map(|&count| {
            let mut part = Features::uninit((n, count, h, w), dy.precision())?;
            by_element!(dy.precision(), E => cut::<E>(dy, at, &mut part));
            at += part.group_len();
            Ok(part)
        })
        .collect()
}

/// Copies a part of every group, from the number `start` on.
fn cut<E: Element>(dy: &Features, start: usize, part: &mut Features) {
    let len = part.group_len();
    let to = Out::new(part.cpu_mut::<E>());
    threads::each(dy.groups(), |g| {
        let from = &dy.cpu::<E>()[g * dy.group_len() + start..][..len];
        // SAFETY: this task alone writes group `g` of the part.
        unsafe { std::slice::from_raw_parts_mut(to.at(g * len), len) }.copy_from_slice(from);
    });
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    fn features(values: &[f32]) -> Features {
        let t = Tensor::from_slice(values, (1, values.len(), 1, 1), &Device::Cpu).unwrap();
        Features::from_nchw(&t).unwrap()
    }

    fn values(x: &Features) -> Vec<f32> {
        crate::flatten(x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    }

    #[test]
    fn relu_has_no_gradient_at_zero_and_keeps_nan() {
        Isa::each(|_| {
            let x = features(&[-1.0, 0.0, 2.0, f32::NAN]);
            let y = activation(&x, Activation::Relu).unwrap();
            assert_eq!(values(&y)[..3], [0.0, 0.0, 2.0]);
            assert!(values(&y)[3].is_nan());
            let dx = activation_backward(&y, Activation::Relu, &features(&[5.0; 4])).unwrap();
            assert_eq!(values(&dx), [0.0, 0.0, 5.0, 0.0]);
        });
    }

    #[test]
    fn relu6_has_two_ends() -> Result<()> {
        for isa in Isa::available() {
            isa.with(|| -> Result<()> {
                let x = features(&[-1.0, 0.0, 2.5, 6.0, 7.0, f32::INFINITY, f32::NAN]);
                let y = activation(&x, Activation::Relu6)?;
                assert_eq!(values(&y)[..6], [0.0, 0.0, 2.5, 6.0, 6.0, 6.0]);
                assert!(values(&y)[6].is_nan());
                let dx = activation_backward(&y, Activation::Relu6, &features(&[5.0; 7]))?;
                assert_eq!(values(&dx), [0.0, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0]);
                let ones = features(&[1.0; 7]);
                let sum = add(&x, &ones, Activation::Relu6)?;
                assert_eq!(values(&sum)[..6], [0.0, 1.0, 3.5, 6.0, 6.0, 6.0]);
                let finished = finish(x.clone(), Some(&ones), Activation::Relu6)?;
                assert_eq!(values(&finished)[..6], values(&sum)[..6]);
                // Without an upper end nothing is held back there.
                let y = activation(&features(&[f32::INFINITY]), Activation::Relu)?;
                let dx = activation_backward(&y, Activation::Relu, &features(&[5.0]))?;
                assert_eq!(values(&dx), [5.0]);
                Ok(())
            })
            .unwrap()?;
        }
        Ok(())
    }

    #[test]
    fn adds_and_accumulates() -> Result<()> {
        let (a, b) = (features(&[1.0, -2.0]), features(&[3.0, 1.0]));
        assert_eq!(values(&add(&a, &b, Activation::Identity)?), [4.0, -1.0]);
        assert_eq!(values(&add(&a, &b, Activation::Relu)?), [4.0, 0.0]);
        let kept = a.clone();
        assert_eq!(values(&accumulate(a, &b)?), [4.0, -1.0]);
        assert_eq!(values(&kept), [1.0, -2.0]);
        assert_eq!(values(&accumulate(features(&[1.0, 1.0]), &b)?), [4.0, 2.0]);
        Ok(())
    }

    #[test]
    fn splits_what_it_joined() -> Result<()> {
        let t = Tensor::arange(0f32, 18.0 * 10.0, &Device::Cpu)?.reshape((18, 5, 1, 2))?;
        let x = Features::from_nchw(&t)?;
        let parts = split_channels(&x, &[2, 3])?;
        assert_eq!(
            parts[1].to_nchw()?.flatten_all()?.to_vec1::<f32>()?[..2],
            [4.0, 5.0]
        );
        let joined = concat(&[&parts[0], &parts[1]])?;
        assert_eq!(values(&joined), values(&x));
        assert!(split_channels(&x, &[2, 2]).is_err());
        assert!(concat(&[]).is_err());
        Ok(())
    }
}
