//! Convolutions by cuDNN, channels-last.
//!
//! For every shape the fastest algorithm is found once, by running all of them; where results must repeat bit for bit,
//! the first that cuDNN's heuristics name and that is deterministic is taken instead. A shape that cuDNN does not know
//! in this layout is left to our own kernels.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::Result;
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;

use super::super::handle::Gpu;
use super::super::memory::Block;
use super::super::sizes::{int, ints};
use super::message::message;
use crate::conv::{ConvConfig, Sizes};
use crate::element::Precision;

/// Memory that algorithms may use while the fastest is looked for, and afterwards.
const WORKSPACE: usize = 256 << 20;
/// What is made do with on a GPU that is nearly full.
const LEAST_WORKSPACE: usize = 1 << 20;
/// Algorithms of each kind that cuDNN knows at most.
const MOST: usize = 10;

/// Everything that decides how a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) batch: usize,
    pub(crate) sizes: Sizes,
    pub(crate) cfg: ConvConfig,
    pub(crate) precision: Precision,
    pub(crate) tf32: bool,
    pub(crate) deterministic: bool,
}

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// `y` from `x` and `w`.
    Forward,
    /// `dx` from `w` and `dy`.
    Input,
    /// `dw` from `x` and `dy`.
    Weight,
}

/// Addresses of the maps and the weight, or of their gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places {
    pub(crate) x: u64,
    pub(crate) w: u64,
    pub(crate) y: u64,
}

/// cuDNN on one stream.
pub(crate) struct Cudnn(Mutex<State>);

struct State {
    handle: sys::cudnnHandle_t,
    plans: HashMap<(Key, Pass), Option<Plan>>,
}

// SAFETY: the handle and descriptors are used by one thread at a time, which cuDNN allows.
unsafe impl Send for State {}

/// A shape's descriptors with the algorithm chosen for one pass.
struct Plan {
    descriptors: Descriptors,
    algorithm: u32,
    workspace: usize,
}

struct Descriptors {
    x: sys::cudnnTensorDescriptor_t,
    w: sys::cudnnFilterDescriptor_t,
    y: sys::cudnnTensorDescriptor_t,
    conv: sys::cudnnConvolutionDescriptor_t,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // SAFETY: created in `Descriptors::new`, or null, which cuDNN ignores.
        unsafe {
            let _ = result::destroy_tensor_descriptor(self.x);
            let _ = result::destroy_filter_descriptor(self.w);
            let _ = result::destroy_tensor_descriptor(self.y);
            let _ = result::destroy_convolution_descriptor(self.conv);
        }
    }
}

/// `cudnnConvolutionFwdAlgoPerf_t` and its siblings with numbers for names: a newer cuDNN may have more of those than
/// its bindings.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Performance {
    algorithm: u32,
    status: u32,
    time: f32,
    memory: usize,
    determinism: u32,
    math: u32,
    reserved: [c_int; 3],
}

const _: () = assert!(
    size_of::<Performance>() == size_of::<sys::cudnnConvolutionFwdAlgoPerfStruct>()
        && size_of::<Performance>() == size_of::<sys::cudnnConvolutionBwdDataAlgoPerfStruct>()
        && size_of::<Performance>() == size_of::<sys::cudnnConvolutionBwdFilterAlgoPerfStruct>()
);

fn failed(what: &str, error: &result::CudnnError) -> candle_core::Error {
    message(what, &format!("{error:?}"))
}

impl Cudnn {
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let handle = result::create_handle().map_err(|e| failed("starting cuDNN", &e))?;
        // SAFETY: both were just made; the stream lives as long as the GPU.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(|e| failed("starting cuDNN", &e))?;
        Ok(Self(Mutex::new(State {
            handle,
            plans: HashMap::new(),
        })))
    }

    /// Computes `pass`; `false` where cuDNN knows no algorithm for it.
    ///
    /// # Safety
    ///
    /// The places hold maps and a weight of the sizes in `key`, what is computed having room for its result.
    pub(crate) unsafe fn run(
        &self,
        gpu: &Gpu,
        key: &Key,
        pass: Pass,
        places: Places,
    ) -> Result<bool> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let State { handle, plans } = &mut *state;
        let plan = match plans.entry((*key, pass)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let descriptors = Descriptors::new(key)?;
                // SAFETY: the caller's.
                let plan = unsafe { choose(*handle, gpu, key, pass, descriptors, places) }?;
                new.insert(plan)
            }
        };
        let Some(plan) = plan else {
            return Ok(false);
        };
        let workspace = gpu.block(plan.workspace)?;
        gpu.count_launch();
        // SAFETY: the caller's.
        unsafe { plan.run(*handle, pass, places, workspace.address()) }
            .map_err(|e| failed(&format!("cuDNN: {pass:?} of {:?}", key.sizes), &e))?;
        Ok(true)
    }
}

impl Descriptors {
    fn new(key: &Key) -> Result<Self> {
        let Key { sizes, cfg, .. } = key;
        let mut all = Self {
            x: std::ptr::null_mut(),
            w: std::ptr::null_mut(),
            y: std::ptr::null_mut(),
            conv: std::ptr::null_mut(),
        };
        let kind = match key.precision {
            Precision::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
            Precision::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
        };
        let layout = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
        let x = ints([key.batch, sizes.c_in, sizes.input.0, sizes.input.1])?;
        let y = ints([key.batch, sizes.c_out, sizes.output.0, sizes.output.1])?;
        let w = ints([
            sizes.c_out,
            sizes.c_in / cfg.groups,
            sizes.kernel.0,
            sizes.kernel.1,
        ])?;
        let (padding, stride, groups) = (int(cfg.padding)?, int(cfg.stride)?, int(cfg.groups)?);
        let mut make = || -> std::result::Result<(), result::CudnnError> {
            all.x = result::create_tensor_descriptor()?;
            all.w = result::create_filter_descriptor()?;
            all.y = result::create_tensor_descriptor()?;
            all.conv = result::create_convolution_descriptor()?;
            // SAFETY: all four were just created.
            unsafe {
                result::set_tensor4d_descriptor(all.x, layout, kind, x)?;
                result::set_tensor4d_descriptor(all.y, layout, kind, y)?;
                result::set_filter4d_descriptor(all.w, kind, layout, w)?;
                result::set_convolution2d_descriptor(
                    all.conv,
                    padding,
                    padding,
                    stride,
                    stride,
                    1,
                    1,
                    sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION,
                    sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
                )?;
                result::set_convolution_group_count(all.conv, groups)?;
                result::set_convolution_math_type(all.conv, math(key))
            }
        };
        make().map_err(|e| failed("describing a convolution to cuDNN", &e))?;
        Ok(all)
    }
}

/// By default cuDNN multiplies in TF32 where maps are in single precision.
fn math(key: &Key) -> sys::cudnnMathType_t {
    match (key.precision, key.tf32) {
        (Precision::F32, false) => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

/// Memory for looking for algorithms, as much as is wanted where there is that much.
fn workspace(gpu: &Gpu) -> Result<(Block, usize)> {
    let mut bytes = WORKSPACE;
    loop {
        match gpu.block(bytes) {
            Err(_) if bytes > LEAST_WORKSPACE => bytes /= 4,
            block => return Ok((block?, bytes)),
        }
    }
}

/// The algorithm for a pass; overwrites what the pass computes.
///
/// # Safety
///
/// That of [`Cudnn::run`].
unsafe fn choose(
    handle: sys::cudnnHandle_t,
    gpu: &Gpu,
    key: &Key,
    pass: Pass,
    descriptors: Descriptors,
    places: Places,
) -> Result<Option<Plan>> {
    let mut found = [Performance::default(); MOST];
    let mut count: c_int = 0;
    let Descriptors { x, w, y, conv } = descriptors;
    let (most, results) = (MOST as c_int, found.as_mut_ptr());
    let input = |address: u64| address as *const c_void;
    let output = |address: u64| address as *mut c_void;
    // SAFETY: the caller's; the results have the layout that cuDNN writes, and room for what is asked for.
    let status = unsafe {
        if key.deterministic {
            match pass {
                Pass::Forward => sys::cudnnGetConvolutionForwardAlgorithm_v7(
                    handle,
                    x,
                    w,
                    conv,
                    y,
                    most,
                    &mut count,
                    results.cast(),
                ),
                Pass::Input => sys::cudnnGetConvolutionBackwardDataAlgorithm_v7(
                    handle,
                    w,
                    y,
                    conv,
                    x,
                    most,
                    &mut count,
                    results.cast(),
                ),
                Pass::Weight => sys::cudnnGetConvolutionBackwardFilterAlgorithm_v7(
                    handle,
                    x,
                    y,
                    conv,
                    w,
                    most,
                    &mut count,
                    results.cast(),
                ),
            }
        } else {
            // Work under way would be measured too.
            gpu.synchronize()?;
            let (block, size) = workspace(gpu)?;
            let space = output(block.address());
            let Places {
                x: px,
                w: pw,
                y: py,
            } = places;
            match pass {
                Pass::Forward => sys::cudnnFindConvolutionForwardAlgorithmEx(
                    handle,
                    x,
                    input(px),
                    w,
                    input(pw),
                    conv,
                    y,
                    output(py),
                    most,
                    &mut count,
                    results.cast(),
                    space,
                    size,
                ),
                Pass::Input => sys::cudnnFindConvolutionBackwardDataAlgorithmEx(
                    handle,
                    w,
                    input(pw),
                    y,
                    input(py),
                    conv,
                    x,
                    output(px),
                    most,
                    &mut count,
                    results.cast(),
                    space,
                    size,
                ),
                Pass::Weight => sys::cudnnFindConvolutionBackwardFilterAlgorithmEx(
                    handle,
                    x,
                    input(px),
                    y,
                    input(py),
                    conv,
                    w,
                    output(pw),
                    most,
                    &mut count,
                    results.cast(),
                    space,
                    size,
                ),
            }
        }
    };
    if status != sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(None);
    }
    let count = usize::try_from(count).unwrap_or(0).min(MOST);
    let deterministic = sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC as u32;
    // Fastest first.
    let best = found[..count].iter().find(|one| {
        one.status == 0
            && one.memory <= WORKSPACE
            && (!key.deterministic || one.determinism == deterministic)
            && one.algorithm < algorithms(pass)
    });
    let Some(best) = best else {
        return Ok(None);
    };
    let single = sys::cudnnMathType_t::CUDNN_FMA_MATH;
    if math(key) != single {
        // An algorithm found with the default mathematics was measured without tensor cores for these types.
        let math = match best.math {
            0 => sys::cudnnMathType_t::CUDNN_DEFAULT_MATH,
            2 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION,
            3 => single,
            _ => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
        };
        // SAFETY: the descriptor is sound.
        if let Err(error) = unsafe { result::set_convolution_math_type(conv, math) } {
            return Err(failed("describing a convolution to cuDNN", &error));
        }
    }
    Ok(Some(Plan {
        algorithm: best.algorithm,
        workspace: best.memory,
        descriptors,
    }))
}

/// Algorithms that the bindings have names for.
fn algorithms(pass: Pass) -> u32 {
    match pass {
        Pass::Forward => 8,
        Pass::Input => 6,
        Pass::Weight => 7,
    }
}

impl Plan {
    /// # Safety
    ///
    /// That of [`Cudnn::run`], with a workspace of the plan's size.
    unsafe fn run(
        &self,
        handle: sys::cudnnHandle_t,
        pass: Pass,
        places: Places,
        workspace: u64,
    ) -> std::result::Result<(), result::CudnnError> {
        let Descriptors { x, w, y, conv } = self.descriptors;
        let (one, zero) = (1f32, 0f32);
        let (one, zero) = ((&raw const one).cast(), (&raw const zero).cast());
        let input = |address: u64| address as *const c_void;
        let output = |address: u64| address as *mut c_void;
        let (space, size) = (output(workspace), self.workspace);
        let Places {
            x: px,
            w: pw,
            y: py,
        } = places;
        // SAFETY: the caller's. Algorithms are below the number of names, which count from 0 without a gap.
        unsafe {
            match pass {
                Pass::Forward => {
                    let algorithm =
                        std::mem::transmute::<u32, sys::cudnnConvolutionFwdAlgo_t>(self.algorithm);
                    result::convolution_forward(
                        handle,
                        one,
                        x,
                        input(px),
                        w,
                        input(pw),
                        conv,
                        algorithm,
                        space,
                        size,
                        zero,
                        y,
                        output(py),
                    )
                }
                Pass::Input => {
                    let algorithm = std::mem::transmute::<u32, sys::cudnnConvolutionBwdDataAlgo_t>(
                        self.algorithm,
                    );
                    result::convolution_backward_data(
                        handle,
                        one,
                        w,
                        input(pw),
                        y,
                        input(py),
                        conv,
                        algorithm,
                        space,
                        size,
                        zero,
                        x,
                        output(px),
                    )
                }
                Pass::Weight => {
                    let algorithm = std::mem::transmute::<u32, sys::cudnnConvolutionBwdFilterAlgo_t>(
                        self.algorithm,
                    );
                    result::convolution_backward_filter(
                        handle,
                        one,
                        x,
                        input(px),
                        y,
                        input(py),
                        conv,
                        algorithm,
                        space,
                        size,
                        zero,
                        w,
                        output(pw),
                    )
                }
            }
        }
    }
}

/// Runs `pass` by cuDNN; `false` where the GPU has none or it knows no algorithm.
///
/// # Safety
///
/// That of [`Cudnn::run`].
pub(crate) unsafe fn run(gpu: &Gpu, key: &Key, pass: Pass, places: Places) -> Result<bool> {
    let held = gpu.machine().cudnn();
    match held.and_then(|held| held.downcast_ref::<Cudnn>()) {
        // SAFETY: the caller's.
        Some(cudnn) => unsafe { cudnn.run(gpu, key, pass, places) },
        None => Ok(false),
    }
}
