//! Feature maps of a batch in the layout that the device's kernels like.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, bail};

use crate::args;
use crate::buffer::Buffer;
use crate::cpu::{Isa, Kernel, Simd};
use crate::element::{self, Element, Numbers, Precision, by_element};
use crate::gpu::{Gpu, Maps};
use crate::threads::{self, Out};

pub(crate) use crate::element::LANES;

/// Bytes of maps that are written past the caches: more than the second-level cache of any
/// processor. What is written costs half the traffic then, since its lines are not read first.
const STREAM: usize = 4 * 1024 * 1024;

/// Feature maps `[N, C, H, W]` of a batch, in the device's own layout.
///
/// On GPUs this is channels-last, `[N, H, W, C]`. On the CPU this is `[ceil(N / 16), C, H, W, 16]`, the last axis being sixteen images. If `N` is
/// no multiple of sixteen, the last group has lanes without an image: their values mean nothing
/// (but are finite), and in gradients they are zero. Clones share memory.
///
/// Numbers are `f32` or bfloat16 ([`Features::precision`]); what an operation makes of a map has
/// the map's own precision, and maps that meet in an operation must have the same.
#[derive(Clone, Debug)]
pub struct Features {
    storage: Storage,
    dims: (usize, usize, usize, usize),
}

/// Where the numbers are; another device adds an arm here and in every operation.
#[derive(Clone)]
pub(crate) enum Storage {
    Cpu(Numbers),
    Gpu(Maps),
}

impl std::fmt::Debug for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu(Numbers::F32(buffer)) => write!(f, "Cpu({} numbers)", buffer.len()),
            Self::Cpu(Numbers::Bf16(buffer)) => write!(f, "CpuBf16({} numbers)", buffer.len()),
            Self::Gpu(maps) => write!(f, "{:?}({})", maps.gpu(), maps.precision()),
        }
    }
}

impl Features {
    /// Takes a batch of images or feature maps `[N, C, H, W]` (`f32`) over into the device's layout.
    ///
    /// # Errors
    ///
    /// Another rank or type, an empty dimension, or a device without kernels.
    pub fn from_nchw(t: &Tensor) -> Result<Self> {
        let Ok((n, c, h, w)) = t.dims4() else {
            bail!(
                "features: expected a tensor of shape [N, C, H, W], got {:?}",
                t.dims()
            );
        };
        let dims = (n, c, h, w);
        if t.dims().contains(&0) {
            bail!("features: expected a tensor without empty dimensions, got {dims:?}");
        }
        Self::count(dims)?;
        if let Some(gpu) = Gpu::of(t.device())? {
            return Ok(Self::from_gpu(Maps::from_nchw(&gpu, t, dims)?));
        }
        args::with_any("features", "the tensor", t, |x| {
            let mut out = Self::uninit(dims, Precision::F32)?;
            pack(x, out.cpu_mut::<f32>(), dims);
            Ok(out)
        })?
    }

    /// The feature maps as a tensor `[N, C, H, W]` (`f32`).
    ///
    /// # Errors
    ///
    /// Passes candle's on.
    pub fn to_nchw(&self) -> Result<Tensor> {
        if let Storage::Gpu(maps) = &self.storage {
            return maps.to_nchw();
        }
        let (n, c, h, w) = self.dims;
        let mut out = args::zeros::<f32>("features", &[n, c, h, w])?;
        by_element!(self.precision(), E => unpack::<E>(self.cpu(), &mut out, self.dims));
        args::tensor(out, &[n, c, h, w])
    }

    /// The feature maps in another precision: rounded to nearest, ties to even.
    ///
    /// # Errors
    ///
    /// Those of the device; none on the CPU.
    pub fn to_precision(&self, precision: Precision) -> Result<Self> {
        if precision == self.precision() {
            return Ok(self.clone());
        }
        if let Storage::Gpu(maps) = &self.storage {
            return Ok(Self::from_gpu(maps.cast(precision)?));
        }
        let mut out = Self::uninit(self.dims, precision)?;
        by_element!(self.precision(), A => by_element!(precision, B => {
            convert::<A, B>(self.cpu(), out.cpu_mut());
        }));
        Ok(out)
    }

    /// Zeros of the dimensions `(N, C, H, W)` on `device`.
    ///
    /// # Errors
    ///
    /// An empty dimension, or a device without kernels.
    pub fn zeros(dims: (usize, usize, usize, usize), device: &Device) -> Result<Self> {
        let (n, c, h, w) = dims;
        if [n, c, h, w].contains(&0) {
            bail!("features: expected dimensions other than zero, got {dims:?}");
        }
        Self::count(dims)?;
        if let Some(gpu) = Gpu::of(device)? {
            return Ok(Self::from_gpu(Maps::zeros(&gpu, Precision::F32, dims)?));
        }
        let mut out = Self::uninit(dims, Precision::F32)?;
        out.cpu_mut::<f32>().fill(0.0);
        Ok(out)
    }

    /// `(N, C, H, W)`.
    pub fn dims(&self) -> (usize, usize, usize, usize) {
        self.dims
    }

    /// Images, `N`.
    pub fn batch(&self) -> usize {
        self.dims.0
    }

    /// Channels, `C`.
    pub fn channels(&self) -> usize {
        self.dims.1
    }

    /// Height `H` in pixels.
    pub fn height(&self) -> usize {
        self.dims.2
    }

    /// Width `W` in pixels.
    pub fn width(&self) -> usize {
        self.dims.3
    }

    /// Where the numbers are.
    pub fn device(&self) -> Device {
        match &self.storage {
            Storage::Cpu(_) => Device::Cpu,
            Storage::Gpu(maps) => maps.gpu().device(),
        }
    }

    /// Maps on a GPU.
    pub(crate) fn from_gpu(maps: Maps) -> Self {
        Self {
            dims: maps.dims(),
            storage: Storage::Gpu(maps),
        }
    }

    /// The maps on a GPU; an error on the CPU, where another map of `op` is on one.
    pub(crate) fn maps(&self, op: &str) -> Result<&Maps> {
        match &self.storage {
            Storage::Gpu(maps) => Ok(maps),
            Storage::Cpu(_) => bail!("{op}: expected all maps on a GPU, got some on the cpu"),
        }
    }

    /// As [`Features::maps`], without keeping these.
    pub(crate) fn into_maps(self, op: &str) -> Result<Maps> {
        match self.storage {
            Storage::Gpu(maps) => Ok(maps),
            Storage::Cpu(_) => bail!("{op}: expected all maps on a GPU, got some on the cpu"),
        }
    }

    /// The GPU that holds the numbers; `None` on the CPU.
    pub(crate) fn gpu(&self) -> Option<Gpu> {
        match &self.storage {
            Storage::Cpu(_) => None,
            Storage::Gpu(maps) => Some(maps.gpu().clone()),
        }
    }

    /// What the numbers are stored in.
    pub fn precision(&self) -> Precision {
        match &self.storage {
            Storage::Cpu(Numbers::F32(_)) => Precision::F32,
            Storage::Cpu(Numbers::Bf16(_)) => Precision::Bf16,
            Storage::Gpu(maps) => maps.precision(),
        }
    }

    /// Numbers of maps of the dimensions `dims`, lanes without an image included; an error where no memory holds them.
    pub(crate) fn count((n, c, h, w): (usize, usize, usize, usize)) -> Result<usize> {
        args::count("features", &[n.div_ceil(LANES), c, h, w, LANES])
    }

    /// Feature maps with arbitrary contents on the CPU.
    ///
    /// # Errors
    ///
    /// More than there is memory for.
    pub(crate) fn uninit(dims: (usize, usize, usize, usize), precision: Precision) -> Result<Self> {
        let len = Self::count(dims)?;
        let numbers = match precision {
            Precision::F32 => Buffer::try_new(len).map(|buffer| Numbers::F32(Arc::new(buffer))),
            Precision::Bf16 => Buffer::try_new(len).map(|buffer| Numbers::Bf16(Arc::new(buffer))),
        };
        match numbers {
            Some(numbers) => Ok(Self {
                storage: Storage::Cpu(numbers),
                dims,
            }),
            None => bail!("features: no memory for maps of dimensions {dims:?}"),
        }
    }

    /// Groups of sixteen images.
    pub(crate) fn groups(&self) -> usize {
        self.dims.0.div_ceil(LANES)
    }

    /// Lanes of group `g` that hold an image.
    pub(crate) fn lanes(&self, g: usize) -> usize {
        (self.dims.0 - g * LANES).min(LANES)
    }

    /// Numbers of one channel of one group.
    pub(crate) fn plane(&self) -> usize {
        self.dims.2 * self.dims.3 * LANES
    }

    /// Numbers of one group.
    pub(crate) fn group_len(&self) -> usize {
        self.dims.1 * self.plane()
    }

    /// Whether to write the maps past the caches: they are so large that they would only drive
    /// other data out.
    pub(crate) fn streams(&self) -> bool {
        let bytes = match &self.storage {
            Storage::Cpu(Numbers::F32(buffer)) => size_of_val(&buffer[..]),
            // Lines of the cache are written in halves, which only pairs of pixels complete.
            Storage::Cpu(Numbers::Bf16(_)) if self.dims.3 % 2 == 1 => 0,
            Storage::Cpu(Numbers::Bf16(buffer)) => size_of_val(&buffer[..]),
            Storage::Gpu(_) => 0,
        };
        bytes >= STREAM
    }

    /// The numbers in the CPU's layout; the map must be there, and `E` what [`Features::precision`] says.
    pub(crate) fn cpu<E: Element>(&self) -> &[E] {
        let numbers = match &self.storage {
            Storage::Cpu(numbers) => E::of(numbers),
            Storage::Gpu(_) => None,
        };
        numbers.expect("operations ask for the map's own type")
    }

    /// As [`Features::cpu`], for writing; copies first if a clone shares them.
    pub(crate) fn cpu_mut<E: Element>(&mut self) -> &mut [E] {
        let numbers = match &mut self.storage {
            Storage::Cpu(numbers) => E::of_mut(numbers),
            Storage::Gpu(_) => None,
        };
        let buffer = numbers.expect("operations ask for the map's own type");
        if Arc::get_mut(buffer).is_none() {
            let mut copy = Buffer::new(buffer.len());
            copy.copy_from_slice(buffer);
            *buffer = Arc::new(copy);
        }
        Arc::get_mut(buffer).expect("the only owner")
    }

    /// Whether writing needs no copy.
    pub(crate) fn is_unique(&mut self) -> bool {
        match &mut self.storage {
            Storage::Cpu(Numbers::F32(buffer)) => Arc::get_mut(buffer).is_some(),
            Storage::Cpu(Numbers::Bf16(buffer)) => Arc::get_mut(buffer).is_some(),
            // The GPU's own operations ask the maps.
            Storage::Gpu(_) => false,
        }
    }
}

/// Numbers that one task converts.
const CHUNK: usize = 64 * 1024;

/// Copies all numbers of a map into one of another precision.
fn convert<A: Element, B: Element>(from: &[A], to: &mut [B]) {
    let (isa, out) = (Isa::current(), Out::new(to));
    threads::each(from.len().div_ceil(CHUNK), |task| {
        let from = &from[task * CHUNK..from.len().min((task + 1) * CHUNK)];
        // SAFETY: tasks write disjoint chunks of a slice as long as `from`.
        let to = unsafe { std::slice::from_raw_parts_mut(out.at(task * CHUNK), from.len()) };
        element::convert(isa, from, to);
    });
}

/// `[N, C, H, W]` to `[G, C, H, W, 16]`, zeros where there is no image.
fn pack(x: &[f32], out: &mut [f32], (n, c, h, w): (usize, usize, usize, usize)) {
    let (pixels, groups, isa) = (h * w, n.div_ceil(LANES), Isa::current());
    let out = Out::new(out);
    threads::each(groups, |g| {
        let lanes = (n - g * LANES).min(LANES);
        for channel in 0..c {
            // SAFETY: this task alone writes group `g`.
            let to = unsafe {
                std::slice::from_raw_parts_mut(
                    out.at((g * c + channel) * pixels * LANES),
                    pixels * LANES,
                )
            };
            isa.run(Pack {
                from: std::array::from_fn(|lane| {
                    let image = (g * LANES + lane) * c + channel;
                    (lane < lanes).then(|| &x[image * pixels..][..pixels])
                }),
                to,
            });
        }
    });
}

/// `[G, C, H, W, 16]` to `[N, C, H, W]`.
fn unpack<E: Element>(x: &[E], out: &mut [f32], (n, c, h, w): (usize, usize, usize, usize)) {
    let pixels = h * w;
    let out = Out::new(out);
    threads::each(n, |image| {
        let (g, lane) = (image / LANES, image % LANES);
        for channel in 0..c {
            let from = &x[(g * c + channel) * pixels * LANES..][..pixels * LANES];
            // SAFETY: this task alone writes this image.
            let to = unsafe {
                std::slice::from_raw_parts_mut(out.at((image * c + channel) * pixels), pixels)
            };
            for (to, from) in to.iter_mut().zip(from.chunks_exact(LANES)) {
                *to = from[lane].to_f32();
            }
        }
    });
}

/// Puts the numbers of sixteen planes side by side, zeros where there is no plane.
pub(crate) struct Pack<'a> {
    pub(crate) from: [Option<&'a [f32]>; LANES],
    pub(crate) to: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (lane, from) in self.from.into_iter().enumerate() {
            let to = self.to[lane..].iter_mut().step_by(LANES);
            match from {
                Some(from) => to.zip(from).for_each(|(to, from)| *to = *from),
                None => to.for_each(|to| *to = 0.0),
            }
        }
    }
}

/// Feature maps as rows `[N, C H W]`, in PyTorch's order.
///
/// # Errors
///
/// Passes candle's on.
pub fn flatten(x: &Features) -> Result<Tensor> {
    let (n, c, h, w) = x.dims();
    x.to_nchw()?.reshape((n, c * h * w))
}

/// The inverse of [`flatten`]: rows `[N, C H W]` as feature maps of the dimensions `(N, C, H, W)`.
///
/// # Errors
///
/// A shape other than `dims` gives.
pub fn unflatten(dy: &Tensor, dims: (usize, usize, usize, usize)) -> Result<Features> {
    let (n, c, h, w) = dims;
    let row = args::count("unflatten", &[c, h, w])?;
    args::same("unflatten", "shape", &[n, row][..], dy.dims())?;
    Features::from_nchw(&dy.reshape(dims)?)
}

/// The precision of maps that meet in an operation; fails unless all have the first one's, and are where it is.
pub(crate) fn precision(op: &str, maps: &[&Features]) -> Result<Precision> {
    let first = maps.first().map(|map| map.precision()).unwrap_or_default();
    let place = maps.first().is_some_and(|map| map.gpu().is_some());
    if maps.iter().any(|map| map.gpu().is_some() != place) {
        bail!("{op}: expected maps on one device, got some on the cpu and some on a GPU");
    }
    match maps.iter().find(|map| map.precision() != first) {
        Some(other) => bail!(
            "{op}: expected maps of one precision, got {first} and {}",
            other.precision()
        ),
        None => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_images_lie_side_by_side() -> Result<()> {
        let t = Tensor::arange(0f32, 36.0, &Device::Cpu)?.reshape((18, 1, 1, 2))?;
        let x = Features::from_nchw(&t)?;
        assert_eq!(x.cpu::<f32>().len(), 64);
        assert_eq!(x.cpu::<f32>()[..3], [0.0, 2.0, 4.0]);
        assert_eq!(x.cpu::<f32>()[16..19], [1.0, 3.0, 5.0]);
        assert_eq!(x.cpu::<f32>()[32..35], [32.0, 34.0, 0.0]);
        assert_eq!(
            x.to_nchw()?.flatten_all()?.to_vec1::<f32>()?,
            t.flatten_all()?.to_vec1::<f32>()?
        );
        Ok(())
    }

    #[test]
    fn says_what_it_expected() {
        let t = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let message = Features::from_nchw(&t).unwrap_err().to_string();
        assert!(
            message.contains("[N, C, H, W]") && message.contains("[2, 3]"),
            "{message}"
        );
        let t = Tensor::zeros((1, 1, 1, 1), candle_core::DType::F64, &Device::Cpu).unwrap();
        let message = Features::from_nchw(&t).unwrap_err().to_string();
        assert!(
            message.contains("f32") && message.contains("f64"),
            "{message}"
        );
    }

    #[test]
    fn writing_leaves_clones_alone() -> Result<()> {
        let a = Features::zeros((1, 1, 1, 1), &Device::Cpu)?;
        let mut b = a.clone();
        b.cpu_mut::<f32>()[0] = 1.0;
        assert_eq!((a.cpu::<f32>()[0], b.cpu::<f32>()[0]), (0.0, 1.0));
        Ok(())
    }

    #[test]
    fn reads_a_transposed_tensor() -> Result<()> {
        let t = Tensor::arange(0f32, 6.0, &Device::Cpu)?
            .reshape((1, 1, 2, 3))?
            .t()?;
        assert_eq!(
            flatten(&Features::from_nchw(&t)?)?.to_vec2::<f32>()?,
            [[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]]
        );
        Ok(())
    }
}
