//! A training step that is the same every time, recorded once and then launched at once.
//!
//! A narrow network's step is hundreds of launches of a few microseconds each, which the processor cannot send as fast as
//! a GPU is done with them. Recorded (a CUDA graph), they are sent together.

use candle_core::{DType, Result, Tensor, bail};

use crate::args::first_line;
use crate::gpu::{Gpu, Recorded, Reserved};
use crate::loss::LossValue;

/// Runs a step over and over: on a GPU, and while nothing changes but the batch and the learning rates, what it launched
/// once is launched again. Everywhere else the step is called every time.
#[derive(Debug, Default)]
pub struct RepeatedStep(State);

#[derive(Debug, Default)]
enum State {
    /// Nothing is known yet.
    #[default]
    Fresh,
    /// The step was called for a batch of this many images, so kernels are loaded and algorithms chosen.
    Rehearsed(usize),
    Recorded(Recording),
    /// Recording failed, for this reason.
    Refused(String),
}

/// How [`RepeatedStep::run`] came to its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeated {
    /// The step was called.
    Called,
    /// What it launched before was launched again; what it does on the processor was not done.
    Again,
}

impl RepeatedStep {
    /// Forgets what was recorded: to be called when anything has changed that the step uses.
    pub fn reset(&mut self) {
        if !matches!(self.0, State::Refused(_)) {
            self.0 = State::Fresh;
        }
    }

    /// Forgets what was recorded if it holds more memory than the GPU has left, for work that may need as much.
    pub fn make_room(&mut self) {
        if let State::Recorded(recording) = &self.0
            && let Some((free, _)) = recording.gpu.machine().memory()
            && free < recording.blocks.bytes()
        {
            self.reset();
        }
    }

    /// Why steps are called every time on a GPU, where it could not record them.
    pub fn refused(&self) -> Option<&str> {
        match &self.0 {
            State::Refused(message) => Some(message),
            _ => None,
        }
    }

    /// What a step launches, candle's own operations and the taking and giving of memory included, where it was recorded.
    pub fn recorded(&self) -> Option<usize> {
        match &self.0 {
            State::Recorded(recording) => Some(recording.graph.len()),
            _ => None,
        }
    }

    /// Does `step` for a batch of `images` `[N, C, H, W]` on a device and `labels` `[N]` (`u32`), there or on the CPU,
    /// with optimisers at `rates`: those of all sweeps of the step, in the cells from 0 on ([`crate::SgdConfig::rates`] and its
    /// like).
    ///
    /// `step` is given the batch on the device. What it launches must depend on nothing but the batch, the rates and what
    /// it changes on the GPU itself; it may be called once more than it takes effect, where a GPU refuses to record.
    ///
    /// # Errors
    ///
    /// Those of `step` and of the device.
    pub fn run<E: From<candle_core::Error> + std::fmt::Display>(
        &mut self,
        images: &Tensor,
        labels: &Tensor,
        rates: &[f64],
        mut step: impl FnMut(&Tensor, &Tensor) -> std::result::Result<LossValue, E>,
    ) -> std::result::Result<(LossValue, Repeated), E> {
        let device = images.device();
        let gpu = Gpu::of(device)?;
        let batch = images.dims().first().copied().unwrap_or(0);
        if let Some(gpu) = &gpu {
            if let State::Rehearsed(size) = self.0
                && size == batch
            {
                self.0 = match Recording::new(gpu, images, labels, rates, &mut step) {
                    Ok(recording) => State::Recorded(recording),
                    Err(message) => State::Refused(message),
                };
            }
            match &self.0 {
                State::Recorded(recording) if recording.images.dims() == images.dims() => {
                    let loss = recording.launch(images, labels, rates)?;
                    return Ok((loss, Repeated::Again));
                }
                // The last, smaller batch of an epoch.
                State::Recorded(_) => self.make_room(),
                _ => {}
            }
        }
        let labels = labels.to_device(device)?;
        let rehearsal = match (&self.0, &gpu) {
            (State::Fresh | State::Rehearsed(_), Some(gpu)) => gpu.machine().rehearse(),
            _ => None,
        };
        let loss = step(images, &labels)?;
        if rehearsal.is_some() {
            self.0 = State::Rehearsed(batch);
        }
        Ok((loss, Repeated::Called))
    }
}

/// A step's launches, and the memory they use.
struct Recording {
    gpu: Gpu,
    graph: Box<dyn Recorded>,
    images: Tensor,
    labels: Tensor,
    /// Where the loss will be after each launch.
    loss: LossValue,
    blocks: Reserved,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} launches on {:?}", self.graph.len(), self.gpu)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // The last launch may be under way; an error of it shows elsewhere.
        let _ = self.gpu.synchronize();
    }
}

impl Recording {
    /// Records `step` for batches like this one; nothing runs. Fails with a reason.
    fn new<E: std::fmt::Display>(
        gpu: &Gpu,
        images: &Tensor,
        labels: &Tensor,
        rates: &[f64],
        step: &mut impl FnMut(&Tensor, &Tensor) -> std::result::Result<LossValue, E>,
    ) -> std::result::Result<Self, String> {
        let prepare = || -> Result<(Tensor, Tensor)> {
            let images = images.contiguous()?.copy()?;
            let labels = labels.to_device(&gpu.device())?.copy()?;
            // They are there before recording begins, and are then left alone.
            gpu.cells(0, rates)?;
            Ok((images, labels))
        };
        let (images, labels) = prepare().map_err(|error| first_line(&error))?;
        let machine = gpu.machine();
        let _rehearsal = machine.rehearse();
        machine
            .begin_recording()
            .map_err(|error| first_line(&error))?;
        Reserved::begin(gpu.memory());
        let loss = step(&images, &labels);
        let blocks = Reserved::end(gpu.memory());
        let graph = machine.end_recording();
        // What the step ran into says more than that recording failed.
        let loss = loss.map_err(|error| first_line(&error))?;
        let graph = graph.map_err(|error| first_line(&error))?;
        if loss.is_known() {
            return Err("expected a loss on the GPU, got one on the cpu".to_owned());
        }
        Ok(Self {
            gpu: gpu.clone(),
            graph,
            images,
            labels,
            loss,
            blocks,
        })
    }

    /// Launches everything for another batch.
    fn launch(&self, images: &Tensor, labels: &Tensor, rates: &[f64]) -> Result<LossValue> {
        let gpu = &self.gpu;
        gpu.cells(0, rates)?;
        self.fill(&self.images, images, "images", DType::F32)?;
        self.fill(&self.labels, labels, "labels", DType::U32)?;
        // SAFETY: tensors, loss and blocks are held here; parameters and whatever else lay on the GPU before are what
        // the caller promises to keep.
        unsafe { self.graph.launch() }?;
        gpu.count_launch();
        let Some(loss) = self.loss.gpu() else {
            bail!("expected a loss on the GPU");
        };
        loss.copy().map(LossValue::on_gpu)
    }

    /// Copies `from`, images on the GPU or labels there or on the CPU, to where the recorded launches read it.
    fn fill(&self, to: &Tensor, from: &Tensor, name: &str, dtype: DType) -> Result<()> {
        const OP: &str = "a repeated step";
        let gpu = &self.gpu;
        let from = from.contiguous()?;
        if from.dims() != to.dims() {
            bail!(
                "{OP}: expected {name} of shape {:?}, got {:?}",
                to.dims(),
                from.dims()
            );
        }
        let address = gpu.address(OP, name, to, dtype)?;
        if dtype == DType::U32 && from.device().is_cpu() {
            let numbers = from.to_vec1::<u32>()?;
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            // SAFETY: as many bytes as the tensor there has.
            return unsafe { gpu.machine().upload(address, &bytes) };
        }
        let from = gpu.address(OP, name, &from, dtype)?;
        let bytes = to.elem_count() * dtype.size_in_bytes();
        // SAFETY: both are tensors of this type and shape.
        unsafe { gpu.machine().copy(from, address, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::loss::LossNumbers;

    #[test]
    fn on_the_cpu_the_step_is_called_every_time() -> Result<()> {
        let mut repeated = RepeatedStep::default();
        let images = Tensor::zeros((2, 1, 1, 1), DType::F32, &Device::Cpu)?;
        let labels = Tensor::zeros(2, DType::U32, &Device::Cpu)?;
        let mut calls = 0;
        for _ in 0..3 {
            let (loss, step) = repeated.run(&images, &labels, &[0.1], |x, y| {
                assert_eq!((x.dims(), y.dims()), (&[2, 1, 1, 1][..], &[2][..]));
                calls += 1;
                let (mean, correct) = (f64::from(calls), 1);
                Ok::<_, candle_core::Error>(LossNumbers { mean, correct }.into())
            })?;
            assert_eq!(
                (loss.read()?.mean, step),
                (f64::from(calls), Repeated::Called)
            );
        }
        assert_eq!(calls, 3);
        assert_eq!((repeated.recorded(), repeated.refused()), (None, None));
        Ok(())
    }
}
