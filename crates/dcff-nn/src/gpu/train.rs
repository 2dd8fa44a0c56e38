//! The ends of a training step on a GPU: images from bytes, products of small matrices, the loss and running statistics.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::handle::Gpu;
use super::kernel::{BLEND, CROSS_ENTROPY, IMAGES, Kernel};
use super::memory::Block;
use super::parameters::{self, NUMBERS, Parameters, TENSORS};
use super::sizes::{int, ints};
use crate::element::Precision;

/// See [`crate::cross_entropy`]: the loss and the gradient of the logits; the caller has checked shapes and smoothing.
pub(crate) fn cross_entropy(
    gpu: &Gpu,
    logits: &Tensor,
    labels: &Tensor,
    smoothing: f64,
) -> Result<(GpuLoss, Tensor)> {
    const OP: &str = "cross_entropy";
    let (n, k) = logits.dims2()?;
    let (logits, labels) = (logits.contiguous()?, labels.contiguous()?);
    let (grad, grad_at) = gpu.tensor(&[n, k])?;
    let loss = gpu.block(2 * size_of::<f64>())?;
    let [rows, classes] = ints([n, k])?;
    let parameters = parameters::CrossEntropy {
        logits: gpu.address(OP, "logits", &logits, DType::F32)?,
        labels: gpu.address(OP, "labels", &labels, DType::U32)?,
        grad: grad_at,
        loss: loss.address(),
        smoothing,
        n: rows,
        k: classes,
    };
    // SAFETY: the tensors have the sizes given.
    unsafe { gpu.launch(CROSS_ENTROPY, Precision::F32, [1, 1, 1], &parameters) }?;
    let gpu = gpu.clone();
    Ok((GpuLoss { gpu, loss }, grad))
}

/// Where a GPU will have left the mean loss and the number of right predictions, as two `f64`.
pub(crate) struct GpuLoss {
    gpu: Gpu,
    loss: Block,
}

impl std::fmt::Debug for GpuLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a loss on {:?}", self.gpu)
    }
}

impl GpuLoss {
    /// A copy, made on the GPU after everything that was launched.
    pub(crate) fn copy(&self) -> Result<Self> {
        let bytes = 2 * size_of::<f64>();
        let loss = self.gpu.block(bytes)?;
        // SAFETY: both blocks hold two numbers.
        unsafe {
            let machine = self.gpu.machine();
            machine.copy(self.loss.address(), loss.address(), bytes)
        }?;
        let gpu = self.gpu.clone();
        Ok(Self { gpu, loss })
    }

    /// Waits for everything that was launched, and reads the mean loss and the number of right predictions.
    pub(crate) fn read(&self) -> Result<(f64, usize)> {
        let mut bytes = [0; 16];
        // SAFETY: the kernel that was launched with this block writes two numbers.
        unsafe {
            let machine = self.gpu.machine();
            machine.download(self.loss.address(), &mut bytes)
        }?;
        let (mean, correct) = bytes.split_at(8);
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().unwrap_or_default());
        Ok((number(mean), number(correct) as usize))
    }
}

/// Runs `kernel` over all `triples` of tensors of equal shapes, as many at once as a launch takes.
pub(super) fn over_tensors<P: Parameters>(
    gpu: &Gpu,
    op: &str,
    kernel: fn() -> Kernel<P>,
    triples: &[[&Tensor; 3]],
    parameters: impl Fn(parameters::Tensors, usize) -> P,
) -> Result<()> {
    over_rows(gpu, op, kernel, triples, |tensors, _, start| {
        parameters(tensors, start)
    })
}

/// As [`over_tensors`], for rows of three or four tensors; `parameters` is given the addresses of the fourth.
pub(super) fn over_rows<P: Parameters, const K: usize>(
    gpu: &Gpu,
    op: &str,
    kernel: fn() -> Kernel<P>,
    rows: &[[&Tensor; K]],
    parameters: impl Fn(parameters::Tensors, [u64; TENSORS], usize) -> P,
) -> Result<()> {
    for (chunk, rows) in rows.chunks(TENSORS).enumerate() {
        let mut tensors = parameters::Tensors {
            a: [0; TENSORS],
            b: [0; TENSORS],
            c: [0; TENSORS],
            length: [0; TENSORS],
            first: [0; TENSORS],
            count: int(rows.len())?,
        };
        let mut d = [0; TENSORS];
        let mut blocks = 0u32;
        for (i, row) in rows.iter().enumerate() {
            let addresses = [&mut tensors.a, &mut tensors.b, &mut tensors.c, &mut d];
            for (to, tensor) in addresses.into_iter().zip(row) {
                to[i] = gpu.numbers(op, "a tensor", tensor, row[0].dims())?;
            }
            tensors.first[i] = blocks;
            tensors.length[i] = int(row[0].elem_count())?.unsigned_abs();
            blocks += tensors.length[i].div_ceil(NUMBERS as u32);
        }
        let grid = [blocks.max(1) as usize, 1, 1];
        let parameters = parameters(tensors, d, chunk * TENSORS);
        // SAFETY: the tensors are contiguous and of the lengths given.
        unsafe { gpu.launch(kernel(), Precision::F32, grid, &parameters) }?;
    }
    Ok(())
}

/// See [`crate::blend`]: pairs of old and new, and how much of each.
pub(crate) fn blend(gpu: &Gpu, pairs: &[[&Tensor; 2]], weights: &[[f64; 2]]) -> Result<()> {
    let triples: Vec<[&Tensor; 3]> = pairs.iter().map(|&[old, new]| [old, old, new]).collect();
    over_tensors(
        gpu,
        "blend",
        || BLEND,
        &triples,
        |tensors, start| {
            let weight = |of: usize| {
                std::array::from_fn(|i| weights.get(start + i).map_or(0.0, |pair| pair[of] as f32))
            };
            parameters::Blend {
                tensors,
                keep: weight(0),
                add: weight(1),
            }
        },
    )
}

/// One image of a batch: where it is in the data set, and how it is changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Position in the data set.
    pub index: usize,
    /// Rows by which the window lies below the image (negative: above).
    pub down: isize,
    /// Columns by which the window lies to the right of the image (negative: to the left).
    pub right: isize,
    /// Whether the window is mirrored, left and right.
    pub flip: bool,
}

/// A whole data set as bytes on a GPU, where batches are cropped, mirrored and normalised.
pub struct ByteImages {
    gpu: Gpu,
    data: Block,
    tables: Block,
    count: usize,
    shape: [usize; 3],
}

impl std::fmt::Debug for ByteImages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteImages")
            .field("count", &self.count)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl ByteImages {
    /// Copies images `[count, C, H, W]` of bytes to `device`; `tables` says for each channel what a byte becomes.
    /// `None` where the processor prepares batches: on the CPU, and where the images would take more than half of the
    /// GPU's free memory.
    ///
    /// # Errors
    ///
    /// Sizes that do not fit together.
    pub fn new(
        device: &Device,
        pixels: &[u8],
        shape: [usize; 3],
        tables: &[[f32; 256]],
    ) -> Result<Option<Self>> {
        let Some(gpu) = Gpu::of(device)? else {
            return Ok(None);
        };
        let len = shape.iter().product::<usize>();
        if len == 0
            || pixels.is_empty()
            || !pixels.len().is_multiple_of(len)
            || tables.len() != shape[0]
        {
            bail!(
                "images: expected whole images of {shape:?} and a table for each channel, got {} bytes and {} tables",
                pixels.len(),
                tables.len()
            );
        }
        if let Some((free, _)) = gpu.machine().memory()
            && pixels.len() > free / 2
        {
            return Ok(None);
        }
        let bytes: Vec<u8> = tables
            .as_flattened()
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let data = gpu.block(pixels.len())?;
        let table = gpu.block(bytes.len())?;
        // SAFETY: the blocks are as large as what is copied.
        unsafe {
            gpu.machine().upload(data.address(), pixels)?;
            gpu.machine().upload(table.address(), &bytes)?;
        }
        Ok(Some(Self {
            count: pixels.len() / len,
            gpu,
            data,
            tables: table,
            shape,
        }))
    }

    /// The images that `changes` names as a tensor `[N, C, H, W]` on the GPU, changed and normalised. What lies beyond an image is 0 before
    /// it is normalised.
    ///
    /// # Errors
    ///
    /// No image, or one that is not there.
    pub fn batch(&self, changes: &[Change]) -> Result<Tensor> {
        let [c, h, w] = self.shape;
        if changes.is_empty() {
            bail!("images: expected at least one image, got none");
        }
        let mut order = Vec::with_capacity(16 * changes.len());
        for change in changes {
            if change.index >= self.count {
                bail!(
                    "images: expected an index below {}, got {}",
                    self.count,
                    change.index
                );
            }
            // A window that lies farther away than the image is large sees nothing of it anyway.
            let shift = |by: isize, size: usize| {
                let size = int(size)?;
                Ok::<_, candle_core::Error>(i32::try_from(by).unwrap_or(size).clamp(-size, size))
            };
            let fields = [
                int(change.index)?,
                shift(change.down, h)?,
                shift(change.right, w)?,
                i32::from(change.flip),
            ];
            order.extend(fields.iter().flat_map(|field| field.to_le_bytes()));
        }
        let gpu = &self.gpu;
        let block = gpu.block(order.len())?;
        // SAFETY: the block is as large as what is copied.
        unsafe { gpu.machine().upload(block.address(), &order) }?;
        let (images, to) = gpu.tensor(&[changes.len(), c, h, w])?;
        let [n, channels, height, width] = ints([changes.len(), c, h, w])?;
        let parameters = parameters::Images {
            data: self.data.address(),
            tables: self.tables.address(),
            order: block.address(),
            to,
            n,
            c: channels,
            h: height,
            w: width,
        };
        let grid = gpu.grid(changes.len() * c * h * w);
        // SAFETY: every index is of an image that is there.
        unsafe { gpu.launch(IMAGES, Precision::F32, grid, &parameters) }?;
        Ok(images)
    }
}
