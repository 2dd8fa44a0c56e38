//! A GPU through candle's CUDA backend: kernels compiled by NVRTC when the GPU is first used.

#[cfg(feature = "cudnn")]
pub(crate) mod cudnn;
mod message;

use std::any::Any;
use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaStream, DevicePtr, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc;
use candle_core::cuda_backend::{CudaDevice, DeviceId};
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, DType, Device, Result, Storage, Tensor, bail};

use self::message::message;
use super::handle::Gpu;
use super::kernel::{NAMES, source};
use super::machine::{Machine, Recorded};
use crate::args::first_line;
use crate::element::Precision;

/// The oldest GPUs that the kernels are written for: bfloat16 and TF32 came with them.
const OLDEST: (i32, i32) = (8, 0);

static OPEN: Mutex<Vec<(DeviceId, Gpu)>> = Mutex::new(Vec::new());

/// The GPU behind candle's `device`; compiles its kernels when it is asked for the first time.
pub(super) fn gpu(device: &CudaDevice) -> Result<Gpu> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, gpu)) = open.iter().find(|(id, _)| *id == device.id()) {
        return Ok(gpu.clone());
    }
    let gpu = Gpu::new(Box::new(Cuda::new(device)?))?;
    open.push((device.id(), gpu.clone()));
    Ok(gpu)
}

/// Opens the GPU with this number.
pub(crate) fn open(ordinal: usize) -> Result<Device> {
    let count = CudaContext::device_count().map_err(|error| message("no usable driver", &error))?;
    if usize::try_from(count).is_ok_and(|count| ordinal >= count) {
        bail!("expected a GPU below {count}, got {ordinal}");
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: everything of this device goes to one stream.
    unsafe { cuda.disable_event_tracking() };
    gpu(cuda)?;
    // Candle's own kernels are compiled for one kind of GPU when the program is built.
    let probe = || {
        Tensor::ones(4, DType::F32, &device)?
            .affine(2.0, 1.0)?
            .to_vec1::<f32>()
    };
    match probe() {
        Ok(values) if values == [3.0; 4] => Ok(device),
        Ok(values) => bail!("the GPU computes {values:?} where 3 is expected"),
        Err(error) => bail!(
            "candle's kernels do not run on this GPU ({}); build with CUDA_COMPUTE_CAP set to its compute capability",
            first_line(&error)
        ),
    }
}

struct Cuda {
    device: CudaDevice,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: [Vec<CudaFunction>; 2],
    processors: usize,
    #[cfg(feature = "cudnn")]
    cudnn: cudnn::Cudnn,
}

impl Cuda {
    fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let context = Arc::clone(stream.context());
        let wrap = |error: &dyn std::fmt::Display| message("the GPU does not answer", error);
        let capability = context.compute_capability().map_err(|e| wrap(&e))?;
        if capability < OLDEST {
            bail!(
                "expected a GPU of compute capability {}.{} or newer, got {}.{} ({})",
                OLDEST.0,
                OLDEST.1,
                capability.0,
                capability.1,
                context.name().unwrap_or_default()
            );
        }
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(count).map_err(|e| wrap(&e))?;
        keep_memory(&context);
        Ok(Self {
            kernels: [
                load(&context, capability, Precision::F32)?,
                load(&context, capability, Precision::Bf16)?,
            ],
            #[cfg(feature = "cudnn")]
            cudnn: cudnn::Cudnn::new(&stream)?,
            device: device.clone(),
            processors: usize::try_from(processors).unwrap_or(1).max(1),
            context,
            stream,
        })
    }

    fn bind(&self) -> Result<()> {
        self.context
            .bind_to_thread()
            .map_err(|error| message("the GPU does not answer", &error))
    }
}

/// Has the driver keep memory that candle lets go of, instead of giving it back at every synchronisation.
fn keep_memory(context: &CudaContext) {
    let mut pool = std::ptr::null_mut();
    let mut all = u64::MAX;
    // SAFETY: both calls only read and write what is given here. A driver without pools refuses, and nothing is lost.
    unsafe {
        if sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device())
            == sys::CUresult::CUDA_SUCCESS
        {
            let _ = sys::cuMemPoolSetAttribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut all).cast(),
            );
        }
    }
}

/// Compiles the kernels for the GPU itself, so that no driver is too old for the compiler's output.
fn load(
    context: &Arc<CudaContext>,
    (major, minor): (i32, i32),
    precision: Precision,
) -> Result<Vec<CudaFunction>> {
    let image = compile(&format!("sm_{major}{minor}"), precision)?;
    let module = context
        .load_module(nvrtc::Ptx::from_binary(image))
        .map_err(|error| message("loading kernels", &error))?;
    NAMES
        .iter()
        .map(|name| {
            module
                .load_function(name)
                .map_err(|error| message(name, &error))
        })
        .collect()
}

/// The machine code of all kernels for `architecture`, for example `sm_90`; needs no GPU.
pub(crate) fn compile(architecture: &str, precision: Precision) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| message("compiling kernels", error);
    let text = CString::new(source(precision, "")).map_err(|e| failed(&e))?;
    let program = nvrtc::result::create_program(&text, Some(c"dcff.cu"))
        .map_err(|e| failed(&format!("{e:?}")))?;
    let options = [
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
    ];
    // SAFETY: the program was just created and is destroyed once, below.
    let image = unsafe {
        let image = match nvrtc::result::compile_program(program, &options) {
            Ok(()) => cubin(program),
            Err(error) => {
                let log = nvrtc::result::get_program_log(program).unwrap_or_default();
                let log: Vec<u8> = log.iter().map(|&c| c as u8).collect();
                let log = CStr::from_bytes_until_nul(&log).unwrap_or_default();
                Err(failed(&format!(
                    "{error:?} for {architecture}: {}",
                    log.to_string_lossy()
                )))
            }
        };
        let _ = nvrtc::result::destroy_program(program);
        image
    }?;
    Ok(image)
}

/// # Safety
///
/// `program` was compiled for a GPU, not for PTX.
unsafe fn cubin(program: nvrtc::sys::nvrtcProgram) -> Result<Vec<u8>> {
    let failed =
        |error: nvrtc::sys::nvrtcResult| message("compiling kernels", &format!("{error:?}"));
    let mut size = 0;
    // SAFETY: the caller's; the buffer is as large as the first call says.
    unsafe {
        match nvrtc::sys::nvrtcGetCUBINSize(program, &mut size) {
            nvrtc::sys::nvrtcResult::NVRTC_SUCCESS => {}
            error => return Err(failed(error)),
        }
        let mut image = vec![0u8; size];
        match nvrtc::sys::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()) {
            nvrtc::sys::nvrtcResult::NVRTC_SUCCESS => Ok(image),
            error => Err(failed(error)),
        }
    }
}

impl Machine for Cuda {
    fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    fn name(&self) -> String {
        let name = self.context.name().unwrap_or_default();
        format!("cuda:{} ({name})", self.context.ordinal())
    }

    fn processors(&self) -> usize {
        self.processors
    }

    fn memory(&self) -> Option<(usize, usize)> {
        self.context.mem_get_info().ok()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.bind()?;
        // SAFETY: only an address is made.
        let address = unsafe { result::malloc_sync(bytes) };
        address.map_err(|error| message("allocating memory", &error))
    }

    unsafe fn free(&self, address: u64) {
        // Freeing waits for what was launched; an error would have shown in that.
        if self.bind().is_ok() {
            // SAFETY: the caller's.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream.cu_stream()) }
            .map_err(|error| message("clearing memory", &error))
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's. From memory that is not pinned, the driver copies before it returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(|error| message("copying to the GPU", &error))
    }

    unsafe fn download(&self, from: u64, to: &mut [u8]) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(|error| message("copying from the GPU", &error))?;
        self.synchronize()
    }

    unsafe fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|error| message("copying on the GPU", &error))
    }

    unsafe fn launch(
        &self,
        index: usize,
        precision: Precision,
        grid: [u32; 3],
        threads: u32,
        parameters: *const c_void,
    ) -> Result<()> {
        self.bind()?;
        let kernel = &self.kernels[usize::from(precision == Precision::Bf16)][index];
        let [x, y, z] = grid;
        // The driver copies the structure before it returns, and does not change it.
        let mut arguments = [parameters.cast_mut()];
        // SAFETY: the caller's.
        unsafe {
            result::launch_kernel(
                kernel.cu_function(),
                (x, y, z),
                (threads, 1, 1),
                0,
                self.stream.cu_stream(),
                &mut arguments,
            )
        }
        .map_err(|error| message(NAMES[index], &error))
    }

    fn tensor(&self, dims: &[usize]) -> Result<(Tensor, u64)> {
        let count = dims.iter().product::<usize>();
        // SAFETY: whoever asks writes it before it is read.
        let slice = unsafe { self.device.alloc::<f32>(count) }?;
        let address = slice.device_ptr(&self.stream).0;
        let storage = CudaStorage::wrap_cuda_slice(slice, self.device.clone());
        let t = Tensor::from_storage(Storage::Cuda(storage), dims, BackpropOp::none(), false);
        Ok((t, address))
    }

    fn address(&self, t: &Tensor) -> Result<u64> {
        let (storage, layout) = t.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("expected a tensor on the GPU");
        };
        let start = match t.dtype() {
            DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&self.stream).0,
            DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&self.stream).0,
            other => bail!(
                "expected a tensor of type f32 or u32, got {}",
                other.as_str()
            ),
        };
        Ok(start + (layout.start_offset() * t.dtype().size_in_bytes()) as u64)
    }

    fn synchronize(&self) -> Result<()> {
        self.stream
            .synchronize()
            .map_err(|error| message("the GPU stopped", &error))
    }

    fn rehearse(&self) -> Option<Box<dyn Any>> {
        Some(Box::new(self.device.enable_cuda_graph_htod_cache()))
    }

    fn begin_recording(&self) -> Result<()> {
        // Taking memory for good in between is allowed: it stays where it is.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        self.stream
            .begin_capture(mode)
            .map_err(|error| message("recording", &error))
    }

    fn end_recording(&self) -> Result<Box<dyn Recorded>> {
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        // What failed while recording, tensors given back included, is told here and not to whoever comes next.
        let earlier = self.context.check_err();
        match (ended, earlier) {
            (Ok(Some(graph)), Ok(())) => Ok(Box::new(Recording::new(graph)?)),
            (Ok(None), Ok(())) => bail!("recording: nothing was launched"),
            (Err(error), _) | (Ok(_), Err(error)) => Err(message("recording", &error)),
        }
    }

    #[cfg(feature = "cudnn")]
    fn cudnn(&self) -> Option<&dyn Any> {
        Some(&self.cudnn)
    }
}

/// A CUDA graph.
struct Recording {
    graph: CudaGraph,
    nodes: usize,
}

// SAFETY: the graph is launched and dropped by whoever holds it, one at a time: `RepeatedStep` has it behind `&mut`.
unsafe impl Send for Recording {}
// SAFETY: as above.
unsafe impl Sync for Recording {}

impl Recording {
    fn new(graph: CudaGraph) -> Result<Self> {
        let mut nodes = 0;
        // SAFETY: without a place for them, nodes are only counted.
        let status =
            unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &mut nodes) };
        status
            .result()
            .map_err(|error| message("recording", &error))?;
        Ok(Self { graph, nodes })
    }
}

impl Recorded for Recording {
    unsafe fn launch(&self) -> Result<()> {
        self.graph
            .launch()
            .map_err(|error| message("launching what was recorded", &error))
    }

    fn len(&self) -> usize {
        self.nodes
    }
}
