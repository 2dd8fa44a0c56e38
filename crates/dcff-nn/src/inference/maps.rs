//! Feature maps of a finished network in either layout, and what does not mix channels.

use candle_core::{Result, Tensor, bail};

use super::{Channels, Load};
use crate::activation::Activation;
use crate::args;
use crate::cpu::Isa;
use crate::element::Precision;
use crate::elementwise;
use crate::features::{Features, LANES, Pack};
use crate::offset::Border;
use crate::pool::{self, PoolConfig};
use crate::scatter::check as check_places;
use crate::shortcut::{before, check};
use crate::threads::{self, Out};

/// Feature maps `[N, C, H, W]` of a finished network on the CPU. Clones share memory.
#[derive(Clone, Debug)]
pub struct Maps(pub(super) Layout);

/// What lies side by side.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    /// Sixteen images, as in training.
    Images(Features),
    /// Sixteen channels.
    Channels(Blocks),
}

impl Maps {
    /// Takes a batch of images or feature maps `[N, C, H, W]` (`f32`, on the CPU) over, into the
    /// layout for `load`.
    ///
    /// # Errors
    ///
    /// Another rank, type or device, or an empty dimension.
    pub fn from_nchw(t: &Tensor, load: Load) -> Result<Self> {
        Ok(Self(match load {
            Load::Sixteens => Layout::Images(Features::from_nchw(t)?),
            Load::Few | Load::Several => Layout::Channels(Blocks::from_nchw(t)?),
        }))
    }

    /// The feature maps as a tensor `[N, C, H, W]`.
    ///
    /// # Errors
    ///
    /// Passes candle's on.
    pub fn to_nchw(&self) -> Result<Tensor> {
        match &self.0 {
            Layout::Images(x) => x.to_nchw(),
            Layout::Channels(x) => x.to_nchw(),
        }
    }

    /// `(N, C, H, W)`.
    pub fn dims(&self) -> (usize, usize, usize, usize) {
        match &self.0 {
            Layout::Images(x) => x.dims(),
            Layout::Channels(x) => x.dims(),
        }
    }

    /// The same with `operation`, which does not mix channels, done to the numbers.
    fn map(&self, operation: impl FnOnce(&Features) -> Result<Features>) -> Result<Self> {
        Ok(Self(match &self.0 {
            Layout::Images(x) => Layout::Images(operation(x)?),
            Layout::Channels(x) => Layout::Channels(x.with(operation(&x.blocks)?)),
        }))
    }
}

/// Fails where maps of both layouts meet.
fn mixed(op: &str) -> candle_core::Error {
    candle_core::Error::Msg(format!("{op}: expected maps made for one load"))
}

/// Maps with channels side by side, `[N, ceil(C / 16), H, W, 16]`.
///
/// Lanes without a channel hold finite numbers that mean nothing.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    /// To the kernels of training: sixteen images for each of ours, a channel for each block.
    blocks: Features,
    channels: Channels,
}

impl Blocks {
    pub(super) fn from_nchw(t: &Tensor) -> Result<Self> {
        const OP: &str = "inference";
        let Ok((n, c, h, w)) = t.dims4() else {
            bail!(
                "{OP}: expected a tensor of shape [N, C, H, W], got {:?}",
                t.dims()
            );
        };
        if t.dims().contains(&0) {
            bail!(
                "{OP}: expected a tensor without empty dimensions, got {:?}",
                t.dims()
            );
        }
        args::count(OP, &[n, c.next_multiple_of(LANES), h, w])?;
        args::with_any(OP, "the tensor", t, |x| {
            let mut maps = Self::uninit(n, Channels::new(c), (h, w))?;
            let (isa, pixels, blocks) = (Isa::current(), h * w, c.div_ceil(LANES));
            let out = Out::new(maps.numbers_mut());
            threads::each(n * blocks, |task| {
                let (image, first) = (task / blocks, task % blocks * LANES);
                isa.run(Pack {
                    from: std::array::from_fn(|lane| {
                        let plane = image * c + first + lane;
                        (first + lane < c).then(|| &x[plane * pixels..][..pixels])
                    }),
                    // SAFETY: this task alone writes the block.
                    to: unsafe {
                        std::slice::from_raw_parts_mut(
                            out.at(task * pixels * LANES),
                            pixels * LANES,
                        )
                    },
                });
            });
            Ok(maps)
        })?
    }

    pub(super) fn to_nchw(&self) -> Result<Tensor> {
        let (n, c, h, w) = self.dims();
        let mut out = Vec::with_capacity(n * c * h * w);
        for image in 0..n {
            for (block, lane) in self.channels.places() {
                let plane = self.plane(image, block);
                out.extend(plane.iter().skip(lane).step_by(LANES));
            }
        }
        args::tensor(out, &[n, c, h, w])
    }

    /// `(N, C, H, W)`.
    pub(super) fn dims(&self) -> (usize, usize, usize, usize) {
        let (h, w) = self.size();
        (self.batch(), self.channels.count(), h, w)
    }

    /// Images, `N`.
    pub(super) fn batch(&self) -> usize {
        self.blocks.batch() / LANES
    }

    /// Where the channels lie.
    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    /// Height and width in pixels.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.blocks.height(), self.blocks.width())
    }

    /// Maps with arbitrary contents.
    pub(super) fn uninit(n: usize, channels: Channels, (h, w): (usize, usize)) -> Result<Self> {
        let images = args::count("inference", &[n, LANES])?;
        Ok(Self {
            blocks: Features::uninit((images, channels.blocks(), h, w), Precision::F32)?,
            channels,
        })
    }

    /// Numbers of a block of channels, and of an image.
    pub(super) fn strides(&self) -> (usize, usize) {
        (self.blocks.plane(), self.blocks.group_len())
    }

    pub(super) fn numbers(&self) -> &[f32] {
        self.blocks.cpu()
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f32] {
        self.blocks.cpu_mut()
    }

    /// One block of one image, `[H, W, 16]`.
    fn plane(&self, image: usize, block: usize) -> &[f32] {
        let (plane, group) = self.strides();
        &self.numbers()[image * group + block * plane..][..plane]
    }

    /// Every `stride`-th pixel; channel `i` of the result is channel `from(i)` of this, or zero.
    fn gather(
        &self,
        stride: usize,
        channels: Channels,
        from: impl Fn(usize) -> Option<usize>,
    ) -> Result<Self> {
        let (h, w) = self.size();
        let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
        let mut y = Self::uninit(self.batch(), channels.clone(), (oh, ow))?;
        let (plane, group) = y.strides();
        let places: Vec<_> = self.channels.places().collect();
        let out = y.numbers_mut();
        out.fill(0.0);
        for image in 0..self.batch() {
            for (i, (block, lane)) in channels.places().enumerate() {
                let Some((from, from_lane)) = from(i).map(|i| places[i]) else {
                    continue;
                };
                let from = self.plane(image, from);
                let to = &mut out[image * group + block * plane..][..plane];
                for (to, from) in to
                    .chunks_exact_mut(ow * LANES)
                    .zip(from.chunks(w * LANES).step_by(stride))
                {
                    let from = from.iter().skip(from_lane).step_by(stride * LANES);
                    let to = to.iter_mut().skip(lane).step_by(LANES);
                    to.zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
        Ok(y)
    }

    /// The same maps with their channels where `channels` says.
    pub(super) fn arranged(&self, channels: &Channels) -> Result<Self> {
        if &self.channels == channels {
            return Ok(self.clone());
        }
        self.gather(1, channels.clone(), Some)
    }

    fn with(&self, blocks: Features) -> Self {
        Self {
            blocks,
            channels: self.channels.clone(),
        }
    }
}

/// The activation of `x` `[N, C, H, W]`.
///
/// # Errors
///
/// None.
pub fn activation(x: &Maps, act: Activation) -> Result<Maps> {
    x.map(|x| elementwise::activation(x, act))
}

/// `act(a + b)` of maps of the same dimensions.
///
/// # Errors
///
/// Different dimensions.
pub fn add(a: &Maps, b: &Maps, act: Activation) -> Result<Maps> {
    const OP: &str = "add";
    args::same(OP, "a second input of dimensions", a.dims(), b.dims())?;
    match &b.0 {
        Layout::Images(b) => a.map(|a| elementwise::add(a, b, act)),
        Layout::Channels(b) => {
            let Layout::Channels(of_a) = &a.0 else {
                return Err(mixed(OP));
            };
            let b = b.arranged(&of_a.channels)?;
            a.map(|a| elementwise::add(a, &b.blocks, act))
        }
    }
}

/// The channels of all parts one after the other: `[N, C_1, H, W], ...` to `[N, ΣC_i, H, W]`.
///
/// # Errors
///
/// No part, or parts of different batch or map size.
pub fn concat(parts: &[&Maps]) -> Result<Maps> {
    let (mut images, mut blocks) = (Vec::new(), Vec::new());
    for part in parts {
        match &part.0 {
            Layout::Images(x) => images.push(x),
            Layout::Channels(x) => blocks.push(x),
        }
    }
    if blocks.is_empty() {
        return Ok(Maps(Layout::Images(elementwise::concat(&images)?)));
    }
    if !images.is_empty() {
        return Err(mixed("concat"));
    }
    let numbers: Vec<_> = blocks.iter().map(|part| &part.blocks).collect();
    Ok(Maps(Layout::Channels(Blocks {
        blocks: elementwise::concat(&numbers)?,
        channels: Channels::joined(blocks.iter().map(|part| &part.channels)),
    })))
}

/// Maxima `[N, C, H', W']`, as [`crate::max_pool2d`].
///
/// # Errors
///
/// A window that does not fit the map.
pub fn max_pool2d(x: &Maps, cfg: PoolConfig) -> Result<Maps> {
    x.map(|x| pool::maxima(x, cfg))
}

/// Averages `[N, C, H', W']`, as [`crate::avg_pool2d`].
///
/// # Errors
///
/// A window that does not fit the map.
pub fn avg_pool2d(x: &Maps, cfg: PoolConfig) -> Result<Maps> {
    x.map(|x| pool::avg_pool2d(x, cfg))
}

/// Means over all pixels, `[N, C, 1, 1]`.
///
/// # Errors
///
/// None.
pub fn global_avg_pool(x: &Maps) -> Result<Maps> {
    x.map(pool::global_avg_pool)
}

/// Every `stride`-th pixel, channels padded with zeros to `out_channels`, as [`crate::shortcut`].
///
/// # Errors
///
/// A stride or number of channels of zero.
pub fn shortcut(x: &Maps, stride: usize, out_channels: usize) -> Result<Maps> {
    check("shortcut", stride, out_channels)?;
    Ok(Maps(match &x.0 {
        Layout::Images(x) => Layout::Images(crate::shortcut(x, stride, out_channels)?),
        Layout::Channels(x) => {
            let channels = x.channels.count();
            let blocks = out_channels.div_ceil(LANES);
            let (h, w) = x.size();
            let (oh, ow) = (h.div_ceil(stride), w.div_ceil(stride));
            args::count("shortcut", &[x.batch(), blocks, oh, ow, LANES])?;
            let before = before(channels, out_channels);
            let from = |i: usize| usize::try_from(i as isize - before).ok();
            let y = x.gather(stride, Channels::new(out_channels), |i| {
                from(i).filter(|&i| i < channels)
            })?;
            Layout::Channels(y)
        }
    }))
}

/// Channels at their places among `width`, as [`crate::scatter`].
///
/// # Errors
///
/// Places that do not fit.
pub fn scatter(x: &Maps, channels: &[usize], width: usize) -> Result<Maps> {
    Ok(Maps(match &x.0 {
        Layout::Images(x) => Layout::Images(crate::scatter(x, channels, width)?),
        Layout::Channels(x) => {
            check_places("scatter", channels, width)?;
            args::same("scatter", "channels", channels.len(), x.channels.count())?;
            let y = x.gather(1, Channels::new(width), |i| channels.binary_search(&i).ok())?;
            Layout::Channels(y)
        }
    }))
}

/// What [`offset`] adds, in both layouts.
#[derive(Clone, Debug)]
pub struct Places {
    /// `[C, R, S]`.
    plain: Tensor,
    border: Border,
    /// `[blocks, R, S, 16]`.
    blocks: Vec<f32>,
}

impl Places {
    /// Takes over `o` `[C, R, S]` (`f32`, on the CPU) for inputs whose channels lie as `channels` says.
    ///
    /// # Errors
    ///
    /// Another shape.
    pub fn new(o: &Tensor, border: Border, channels: &Channels) -> Result<Self> {
        let [rows, columns] = border.places();
        let shape = [channels.count(), rows, columns];
        let places = rows * columns;
        let mut blocks = vec![0.0; channels.blocks() * places * LANES];
        args::with("offset", "an offset", o, &shape, |o| {
            for ((block, lane), o) in channels.places().zip(o.chunks_exact(places)) {
                for (place, &o) in o.iter().enumerate() {
                    blocks[(block * places + place) * LANES + lane] = o;
                }
            }
        })?;
        Ok(Self {
            plain: o.clone(),
            border,
            blocks,
        })
    }
}

/// A constant added to the maps, as [`crate::offset`].
///
/// # Errors
///
/// Maps of other channels, or smaller than the border.
pub fn offset(x: &Maps, places: &Places) -> Result<Maps> {
    const OP: &str = "offset";
    Ok(Maps(match &x.0 {
        Layout::Images(x) => Layout::Images(crate::offset(x, &places.plain, places.border)?),
        Layout::Channels(x) => {
            places.border.check(OP, x.size())?;
            let [rows, columns] = places.border.places();
            let per_block = rows * columns * LANES;
            let expected = x.channels.blocks() * per_block;
            args::same(OP, "numbers of an offset", expected, places.blocks.len())?;
            let table = places.border.table(x.size());
            let mut y = Blocks::uninit(x.batch(), x.channels.clone(), x.size())?;
            let (plane, blocks) = (y.strides().0, x.channels.blocks());
            let (from, out) = (x.numbers(), Out::new(y.numbers_mut()));
            threads::each(x.batch() * blocks, |task| {
                let o = &places.blocks[task % blocks * per_block..][..per_block];
                let from = from[task * plane..][..plane].chunks_exact(LANES);
                // SAFETY: every block is written by one task.
                let to = unsafe { std::slice::from_raw_parts_mut(out.at(task * plane), plane) };
                for ((to, from), &place) in to.chunks_exact_mut(LANES).zip(from).zip(&table) {
                    let o = &o[place as usize * LANES..][..LANES];
                    for ((to, from), o) in to.iter_mut().zip(from).zip(o) {
                        *to = from + o;
                    }
                }
            });
            Layout::Channels(y)
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn counted(dims: (usize, usize, usize, usize)) -> Tensor {
        let (n, c, h, w) = dims;
        let count = (n * c * h * w) as f32;
        let t = Tensor::arange(1f32, count + 1.0, &Device::Cpu).unwrap();
        t.reshape(dims).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn sixteen_channels_lie_side_by_side() {
        let t = counted((2, 17, 1, 2));
        let x = Blocks::from_nchw(&t).unwrap();
        // Image, block, pixel, lane: one block of sixteen channels, one of a single channel.
        assert_eq!(x.numbers().len(), 2 * 2 * 2 * 16);
        assert_eq!(x.numbers()[..3], [1.0, 3.0, 5.0]);
        assert_eq!(x.numbers()[16..18], [2.0, 4.0]);
        assert_eq!(x.numbers()[32..34], [33.0, 0.0]);
        assert_eq!(x.numbers()[64], 35.0);
        assert_eq!(values(&x.to_nchw().unwrap()), values(&t));
    }

    #[test]
    fn joined_maps_add_up_with_others() {
        let (a, b) = (counted((2, 3, 2, 2)), counted((2, 18, 2, 2)));
        let both = Tensor::cat(&[&a, &b], 1).unwrap();
        let parts = [&a, &b].map(|t| Maps::from_nchw(t, Load::Few).unwrap());
        let joined = concat(&[&parts[0], &parts[1]]).unwrap();
        assert_eq!(values(&joined.to_nchw().unwrap()), values(&both));
        let plain = Maps::from_nchw(&both, Load::Few).unwrap();
        for sum in [
            add(&joined, &plain, Activation::Relu),
            add(&plain, &joined, Activation::Identity),
        ] {
            let expected: Vec<f32> = values(&both).iter().map(|x| 2.0 * x).collect();
            assert_eq!(values(&sum.unwrap().to_nchw().unwrap()), expected);
        }
    }

    #[test]
    fn pools_and_shortcuts_are_those_of_training() {
        let t = counted((3, 19, 5, 4)).affine(-1.0, 300.0).unwrap();
        let (maps, features) = (
            Maps::from_nchw(&t, Load::Few).unwrap(),
            Features::from_nchw(&t).unwrap(),
        );
        let cfg = PoolConfig {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let places: Vec<usize> = (0..19).map(|i| 2 * i + 1).collect();
        let border = Border {
            rows: [1, 2],
            columns: [0, 1],
        };
        let o = counted((1, 19, 4, 2)).squeeze(0).unwrap();
        let constants = Places::new(&o, border, &Channels::new(19)).unwrap();
        let pairs = [
            (
                max_pool2d(&maps, cfg),
                crate::max_pool2d(&features, cfg).map(|(y, _)| y),
            ),
            (avg_pool2d(&maps, cfg), crate::avg_pool2d(&features, cfg)),
            (global_avg_pool(&maps), crate::global_avg_pool(&features)),
            (shortcut(&maps, 2, 35), crate::shortcut(&features, 2, 35)),
            (shortcut(&maps, 2, 8), crate::shortcut(&features, 2, 8)),
            (
                activation(&maps, Activation::Relu),
                crate::activation(&features, Activation::Relu),
            ),
            (
                scatter(&maps, &places, 40),
                crate::scatter(&features, &places, 40),
            ),
            (
                offset(&maps, &constants),
                crate::offset(&features, &o, border),
            ),
        ];
        for (i, (ours, theirs)) in pairs.into_iter().enumerate() {
            let (ours, theirs) = (
                ours.unwrap().to_nchw().unwrap(),
                theirs.unwrap().to_nchw().unwrap(),
            );
            assert_eq!(ours.dims(), theirs.dims(), "{i}");
            assert_eq!(values(&ours), values(&theirs), "{i}");
        }
    }
}
