//! Maps on a GPU: layouts, activations, sums, channels side by side, the shortcut.

use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};

use super::handle::Gpu;
use super::kernel::{
    COPY_CHANNELS, ELEMENTWISE, Kernel, PERMUTE_IN, PERMUTE_OUT, SHORTCUT, SHORTCUT_BACKWARD,
};
use super::memory::Block;
use super::parameters;
use super::sizes::{bytes, int, ints};
use crate::activation::Clamp;
use crate::element::Precision;

pub(crate) type Dims = (usize, usize, usize, usize);

/// Feature maps on a GPU, `[N, H, W, C]`.
#[derive(Clone)]
pub(crate) struct Maps {
    gpu: Gpu,
    block: Arc<Block>,
    precision: Precision,
    dims: Dims,
}

impl Maps {
    /// Maps of `dims` (`(N, C, H, W)`) with arbitrary contents.
    pub(crate) fn new(gpu: &Gpu, precision: Precision, dims: Dims) -> Result<Self> {
        let count = dims.0 * dims.1 * dims.2 * dims.3;
        let block = match gpu.block(count * bytes(precision)) {
            Ok(block) => block,
            Err(error) => bail!("{precision} maps of {} images: {error}", dims.0),
        };
        Ok(Self {
            gpu: gpu.clone(),
            block: Arc::new(block),
            precision,
            dims,
        })
    }

    /// As [`Maps::new`], of zeros.
    pub(crate) fn zeros(gpu: &Gpu, precision: Precision, dims: Dims) -> Result<Self> {
        let maps = Self::new(gpu, precision, dims)?;
        // SAFETY: the block holds that many bytes.
        unsafe {
            gpu.machine()
                .zero(maps.address(), maps.count() * bytes(precision))
        }?;
        Ok(maps)
    }

    /// The numbers of a tensor `[N, C, H, W]`, in single precision.
    pub(crate) fn from_nchw(gpu: &Gpu, t: &Tensor, dims: Dims) -> Result<Self> {
        let precision = Precision::F32;
        let maps = Self::new(gpu, precision, dims)?;
        let t = t.contiguous()?;
        let from = gpu.address("features", "the tensor", &t, DType::F32)?;
        permute(
            gpu,
            PERMUTE_IN,
            precision,
            from,
            maps.address(),
            [dims.0, dims.1, dims.2 * dims.3],
        )?;
        Ok(maps)
    }

    /// A tensor `[N, C, H, W]` of the numbers.
    pub(crate) fn to_nchw(&self) -> Result<Tensor> {
        let (n, c, h, w) = self.dims;
        let (t, to) = self.gpu.tensor(&[n, c, h, w])?;
        permute(
            &self.gpu,
            PERMUTE_OUT,
            self.precision,
            self.address(),
            to,
            [n, c, h * w],
        )?;
        Ok(t)
    }

    /// The same numbers stored as `precision`.
    pub(crate) fn cast(&self, precision: Precision) -> Result<Self> {
        if precision == self.precision {
            return Ok(self.clone());
        }
        let maps = Self::new(&self.gpu, precision, self.dims)?;
        let sizes = [1, self.count(), 1];
        let (from, to) = (self.address(), maps.address());
        // Of the two types, one is float: the other's kernels convert.
        match precision {
            Precision::F32 => permute(&self.gpu, PERMUTE_OUT, self.precision, from, to, sizes),
            Precision::Bf16 => permute(&self.gpu, PERMUTE_IN, precision, from, to, sizes),
        }?;
        Ok(maps)
    }

    /// `(N, C, H, W)`.
    pub(crate) fn dims(&self) -> Dims {
        self.dims
    }

    /// How many numbers there are.
    pub(super) fn count(&self) -> usize {
        self.dims.0 * self.dims.1 * self.dims.2 * self.dims.3
    }

    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    pub(crate) fn address(&self) -> u64 {
        self.block.address()
    }

    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// Whether nobody else reads these numbers.
    fn is_unique(&mut self) -> bool {
        Arc::get_mut(&mut self.block).is_some()
    }
}

/// `[a, c, p]` to `[a, p, c]`, or back.
pub(crate) fn permute(
    gpu: &Gpu,
    kernel: Kernel<parameters::Permute>,
    precision: Precision,
    from: u64,
    to: u64,
    [a, c, p]: [usize; 3],
) -> Result<()> {
    let parameters = parameters::Permute {
        from,
        to,
        a: a as i64,
        c: c as i64,
        p: p as i64,
    };
    // SAFETY: the callers' blocks have a c p numbers.
    unsafe { gpu.launch(kernel, precision, gpu.grid(a * c * p), &parameters) }
}

/// What [`elementwise`] does.
#[derive(Clone, Copy)]
pub(crate) enum Rule {
    /// `a` in a range.
    Clamp(Clamp),
    /// `b` where `a` lies inside a range.
    Through(Clamp),
    /// `a + b`.
    Add,
    /// `a + b` in a range.
    AddClamp(Clamp),
}

impl Rule {
    /// The number by which the kernel knows it, and its range.
    fn parts(self) -> (i32, Clamp) {
        match self {
            Self::Clamp(clamp) => (0, clamp),
            Self::Through(clamp) => (1, clamp),
            Self::Add => (2, Clamp::ALL),
            Self::AddClamp(clamp) => (3, clamp),
        }
    }
}

/// Works number by number, for maps of the same dimensions.
pub(crate) fn elementwise(gpu: &Gpu, rule: Rule, a: &Maps, b: &Maps) -> Result<Maps> {
    let y = Maps::new(gpu, a.precision(), a.dims())?;
    elementwise_into(gpu, rule, a, b, &y)?;
    Ok(y)
}

/// `a + b` for maps of the same dimensions, written over `a` where nobody else reads it.
pub(crate) fn accumulate(gpu: &Gpu, mut a: Maps, b: &Maps) -> Result<Maps> {
    let y = match a.is_unique() {
        true => a.clone(),
        false => Maps::new(gpu, a.precision(), a.dims())?,
    };
    elementwise_into(gpu, Rule::Add, &a, b, &y)?;
    Ok(y)
}

fn elementwise_into(gpu: &Gpu, rule: Rule, a: &Maps, b: &Maps, y: &Maps) -> Result<()> {
    let (rule, Clamp { low, high }) = rule.parts();
    let parameters = parameters::Elementwise {
        a: a.address(),
        b: b.address(),
        y: y.address(),
        count: a.count() as i64,
        rule,
        low,
        high,
    };
    let grid = gpu.grid(a.count().div_ceil(4));
    // SAFETY: all three have the same dimensions, which the callers check.
    unsafe { gpu.launch(ELEMENTWISE, a.precision(), grid, &parameters) }
}

/// Copies `count` channels of `x` from `from` on to those of `y` from `to` on.
pub(super) fn copy_channels(
    gpu: &Gpu,
    (x, x_channels, from): (&Maps, usize, usize),
    (y, y_channels, to): (&Maps, usize, usize),
    rows: usize,
    count: usize,
) -> Result<()> {
    let [x_channels, y_channels, from, to, width] =
        ints([x_channels, y_channels, from, to, count])?;
    let parameters = parameters::CopyChannels {
        x: x.address(),
        y: y.address(),
        rows: rows as i64,
        x_channels,
        y_channels,
        from,
        to,
        count: width,
    };
    // SAFETY: the channels lie within both maps, of equally many pixels.
    unsafe {
        gpu.launch(
            COPY_CHANNELS,
            x.precision(),
            gpu.grid(rows * count),
            &parameters,
        )
    }
}

/// See [`crate::concat`].
pub(crate) fn concat(gpu: &Gpu, parts: &[&Maps], dims: Dims) -> Result<Maps> {
    let (n, c, h, w) = dims;
    let y = Maps::new(gpu, parts[0].precision(), dims)?;
    let mut at = 0;
    for part in parts {
        let count = part.dims().1;
        copy_channels(gpu, (part, count, 0), (&y, c, at), n * h * w, count)?;
        at += count;
    }
    Ok(y)
}

/// See [`crate::split_channels`].
pub(crate) fn split_channels(gpu: &Gpu, dy: &Maps, channels: &[usize]) -> Result<Vec<Maps>> {
    let (n, c, h, w) = dy.dims();
    let mut at = 0;
    let parts = channels.iter().map(|&count| {
        let y = Maps::new(gpu, dy.precision(), (n, count, h, w))?;
        copy_channels(gpu, (dy, c, at), (&y, count, 0), n * h * w, count)?;
        at += count;
        Ok(y)
    });
    parts.collect()
}

fn shortcut_parameters(
    from: &Maps,
    to: &Maps,
    large: Dims,
    small: Dims,
    stride: usize,
    before: isize,
) -> Result<parameters::Shortcut> {
    let [n, c, h, w, oc, oh, ow, stride] = ints([
        large.0, large.1, large.2, large.3, small.1, small.2, small.3, stride,
    ])?;
    Ok(parameters::Shortcut {
        from: from.address(),
        to: to.address(),
        n,
        h,
        w,
        c,
        oh,
        ow,
        oc,
        stride,
        before: match before {
            before if before < 0 => -int(before.unsigned_abs())?,
            before => int(before.unsigned_abs())?,
        },
    })
}

/// See [`crate::shortcut`]; `before` is the number of channels of zeros before the input's.
pub(crate) fn shortcut(
    gpu: &Gpu,
    x: &Maps,
    dims: Dims,
    stride: usize,
    before: isize,
) -> Result<Maps> {
    let y = Maps::new(gpu, x.precision(), dims)?;
    let parameters = shortcut_parameters(x, &y, x.dims(), dims, stride, before)?;
    let grid = gpu.grid(y.count());
    // SAFETY: the sizes are those of the two maps.
    unsafe { gpu.launch(SHORTCUT, x.precision(), grid, &parameters) }?;
    Ok(y)
}

/// See [`crate::shortcut_backward`].
pub(crate) fn shortcut_backward(
    gpu: &Gpu,
    dims: Dims,
    stride: usize,
    before: isize,
    dy: &Maps,
) -> Result<Maps> {
    let dx = Maps::new(gpu, dy.precision(), dims)?;
    let parameters = shortcut_parameters(dy, &dx, dims, dy.dims(), stride, before)?;
    let grid = gpu.grid(dx.count());
    // SAFETY: the sizes are those of the two maps.
    unsafe { gpu.launch(SHORTCUT_BACKWARD, dy.precision(), grid, &parameters) }?;
    Ok(dx)
}
