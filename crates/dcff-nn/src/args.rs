//! Checked access to the tensors that operations are given.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};

/// Numbers that any memory here may hold: far more than there is, and so few that no offset in bytes wraps around.
const MOST: usize = isize::MAX as usize / 64;

/// Pixels of padding, and from one window to the next.
pub(crate) const LONGEST_STEP: usize = 1 << 16;

/// How many numbers `dims` hold: the one product of sizes that callers choose, for every constructor and operation.
pub(crate) fn count(op: &str, dims: &[usize]) -> Result<usize> {
    let product = dims.iter().try_fold(1usize, |product, &n| {
        // An empty dimension hides none that is too large.
        product.max(1).checked_mul(n.max(1)).filter(|&p| p <= MOST)
    });
    match product {
        Some(_) => Ok(dims.iter().product()),
        None => bail!("{op}: expected at most {MOST} numbers, got dimensions {dims:?}"),
    }
}

/// Zeros of the dimensions `dims`.
pub(crate) fn zeros<T: Copy + Default>(op: &str, dims: &[usize]) -> Result<Vec<T>> {
    let count = count(op, dims)?;
    let mut zeros = Vec::new();
    if zeros.try_reserve_exact(count).is_err() {
        bail!("{op}: no memory for {count} numbers");
    }
    zeros.resize(count, T::default());
    Ok(zeros)
}

/// Calls `f` with the numbers of `t` in row-major order, after checking type, device and shape.
pub(crate) fn with<R>(
    op: &str,
    name: &str,
    t: &Tensor,
    dims: &[usize],
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    if t.dims() != dims {
        bail!(
            "{op}: expected {name} of shape {dims:?}, got {:?}",
            t.dims()
        );
    }
    with_any(op, name, t, f)
}

/// As [`with`], for a tensor of any shape.
pub(crate) fn with_any<R>(
    op: &str,
    name: &str,
    t: &Tensor,
    f: impl FnOnce(&[f32]) -> R,
) -> Result<R> {
    if t.dtype() != DType::F32 {
        bail!(
            "{op}: expected {name} of type f32, got {}",
            t.dtype().as_str()
        );
    }
    count(op, t.dims())?;
    let t = t.contiguous()?;
    let (storage, layout) = t.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(data)) = &*storage else {
        bail!("{op}: expected {name} on the cpu, got {:?}", t.device());
    };
    let start = layout.start_offset();
    Ok(f(&data[start..start + t.elem_count()]))
}

/// The numbers of a small tensor.
pub(crate) fn numbers(op: &str, name: &str, t: &Tensor, dims: &[usize]) -> Result<Vec<f32>> {
    with(op, name, t, dims, <[f32]>::to_vec)
}

/// The numbers of a contiguous tensor that candle lends to an operation.
pub(crate) fn slice<'a>(
    op: &str,
    name: &str,
    storage: &'a CpuStorage,
    layout: &Layout,
) -> Result<&'a [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("{op}: expected a contiguous {name} of type f32");
    };
    Ok(&data[start..end])
}

/// As [`slice`], to be changed.
pub(crate) fn slice_mut<'a>(
    op: &str,
    name: &str,
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    let (CpuStorage::F32(data), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
        bail!("{op}: expected a contiguous {name} of type f32");
    };
    Ok(&mut data[start..end])
}

/// A tensor of `data` on the CPU.
pub(crate) fn tensor(data: Vec<f32>, dims: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(data, dims, &Device::Cpu)
}

/// A message without the backtrace that candle may append.
pub(crate) fn first_line(message: &dyn std::fmt::Display) -> String {
    let text = message.to_string();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Fails unless `got` is `expected`.
pub(crate) fn same<T: PartialEq + std::fmt::Debug>(
    op: &str,
    what: &str,
    expected: T,
    got: T,
) -> Result<()> {
    if expected != got {
        bail!("{op}: expected {what} {expected:?}, got {got:?}");
    }
    Ok(())
}

/// What went wrong without the backtrace that candle adds where `RUST_BACKTRACE` asks for one, and that its message would print.
pub fn without_backtrace(error: candle_core::Error) -> candle_core::Error {
    match error {
        candle_core::Error::WithBacktrace { inner, .. } => without_backtrace(*inner),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_ends_before_the_backtrace() {
        let backtrace = || Box::new(std::backtrace::Backtrace::force_capture());
        let inner = candle_core::Error::Msg("no room".to_owned());
        let error = candle_core::Error::WithBacktrace {
            inner: Box::new(inner),
            backtrace: backtrace(),
        };
        let error = candle_core::Error::WithBacktrace {
            inner: Box::new(error),
            backtrace: backtrace(),
        };
        assert!(error.to_string().lines().count() > 1);
        assert_eq!(without_backtrace(error).to_string(), "no room");
    }
}
