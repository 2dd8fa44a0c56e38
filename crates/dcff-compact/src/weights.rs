//! Tensors to safetensors bytes and back; the same tensors always give the same bytes.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::{Error, Result};

/// Serialises `tensors` (`f32` and `i64`) with `metadata`.
///
/// The header's keys are sorted: the library writes metadata in the order of a hash map, which differs from run to run.
///
/// # Errors
/// Those of reading a tensor from its device.
pub fn tensors_to_bytes(
    tensors: &BTreeMap<String, Tensor>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let model = |error: candle_core::Error| Error::Model(error.into());
    let mut stored = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let flat = tensor
            .flatten_all()
            .and_then(|t| t.to_device(&Device::Cpu))
            .map_err(model)?;
        let (dtype, bytes): (_, Vec<u8>) = match tensor.dtype() {
            DType::I64 => (
                Dtype::I64,
                flat.to_vec1::<i64>()
                    .map_err(model)?
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
            ),
            _ => (
                Dtype::F32,
                flat.to_vec1::<f32>()
                    .map_err(model)?
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect(),
            ),
        };
        stored.push((name, dtype, tensor.dims().to_vec(), bytes));
    }
    let invalid = |message: String| Error::content(Path::new("safetensors"), message);
    let views = stored
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((
                name.as_str(),
                TensorView::new(*dtype, shape.clone(), bytes)?,
            ))
        })
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|error| invalid(error.to_string()))?;
    let metadata: HashMap<_, _> = metadata.clone().into_iter().collect();
    let mut bytes = safetensors::serialize(views, Some(metadata))
        .map_err(|error| invalid(error.to_string()))?;
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap_or_default()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length])
        .map_err(|error| invalid(error.to_string()))?;
    let mut sorted = header.to_string().into_bytes();
    sorted.resize(length, b' ');
    bytes[8..8 + length].copy_from_slice(&sorted);
    Ok(bytes)
}

/// Reads all tensors and the metadata of a safetensors file of at most `limit` bytes onto the CPU.
///
/// # Errors
/// When the file is missing, larger than `limit`, truncated, or holds a type other than floating point and `i64`.
pub fn read_tensors(
    path: &Path,
    limit: u64,
) -> Result<(HashMap<String, Tensor>, BTreeMap<String, String>)> {
    tensors_from_bytes(path, &dcff_file::read(path, limit)?)
}

/// As [`read_tensors`], from what the file at `path` holds. Floats of any precision become `f32`.
///
/// # Errors
/// [`Error::Content`] when it is no sound safetensors file of floating point and `i64`.
pub fn tensors_from_bytes(
    path: &Path,
    bytes: &[u8],
) -> Result<(HashMap<String, Tensor>, BTreeMap<String, String>)> {
    let broken = |error: safetensors::SafeTensorError| {
        Error::content(path, format!("not a sound safetensors file: {error}"))
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let stored = SafeTensors::deserialize(bytes).map_err(broken)?;
    let mut tensors = HashMap::new();
    // By name: of several tensors of a type that is not read, the same is named every time.
    let mut stored = stored.iter().collect::<Vec<_>>();
    stored.sort_by_key(|(name, _)| *name);
    for (name, view) in stored {
        let (data, shape) = (view.data(), view.shape());
        let floats = |values: Vec<f32>| Tensor::from_vec(values, shape, &Device::Cpu);
        let tensor = match view.dtype() {
            Dtype::F32 => floats(numbers(data, f32::from_le_bytes)),
            Dtype::F64 => floats(numbers(data, |bytes| f64::from_le_bytes(bytes) as f32)),
            Dtype::F16 => floats(numbers(data, |bytes| {
                half::f16::from_le_bytes(bytes).to_f32()
            })),
            Dtype::BF16 => floats(numbers(data, |bytes| {
                half::bf16::from_le_bytes(bytes).to_f32()
            })),
            Dtype::I64 => Tensor::from_vec(numbers(data, i64::from_le_bytes), shape, &Device::Cpu),
            other => {
                return Err(Error::content(
                    path,
                    format!("{name}: expected f16, bf16, f32, f64 or i64, got {other:?}"),
                ));
            }
        };
        tensors.insert(
            name.to_owned(),
            tensor.map_err(|error| Error::content(path, format!("{name}: {error}")))?,
        );
    }
    let metadata = header
        .metadata()
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    Ok((tensors, metadata))
}

/// The numbers of `N` bytes each.
fn numbers<const N: usize, T>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
    let (numbers, _) = data.as_chunks::<N>();
    numbers.iter().map(|bytes| number(*bytes)).collect()
}

/// What PyTorch's wrappers put before every name: `DataParallel` and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// The tensors without the prefixes of wrappers, where all names have them.
pub(crate) fn unwrapped(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    while let Some(prefix) = WRAPPERS
        .iter()
        .find(|prefix| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(**prefix)))
    {
        tensors = tensors
            .into_iter()
            .map(|(name, tensor)| (name[prefix.len()..].to_owned(), tensor))
            .collect();
    }
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_tensors_give_the_same_bytes() {
        let device = Device::Cpu;
        let tensors = BTreeMap::from([
            (
                "b".to_owned(),
                Tensor::new(&[[1f32, 2.0], [3.0, 4.5]], &device).unwrap(),
            ),
            ("a".to_owned(), Tensor::new(7i64, &device).unwrap()),
        ]);
        let metadata: BTreeMap<_, _> = (0..20)
            .map(|i| (format!("key{i}"), i.to_string()))
            .collect();
        let bytes = tensors_to_bytes(&tensors, &metadata).unwrap();
        for _ in 0..20 {
            assert_eq!(tensors_to_bytes(&tensors, &metadata).unwrap(), bytes);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let (read, read_metadata) = read_tensors(file.path(), 1 << 20).unwrap();
        assert_eq!(read_metadata, metadata);
        assert_eq!(read["a"].to_scalar::<i64>().unwrap(), 7);
        assert_eq!(
            read["b"].to_vec2::<f32>().unwrap(),
            [[1.0, 2.0], [3.0, 4.5]]
        );
        assert!(
            read_tensors(file.path(), 10)
                .unwrap_err()
                .to_string()
                .contains("expected at most 10 bytes, got")
        );
    }

    fn file_of(entries: &[(&str, Dtype, Vec<u8>)]) -> Vec<u8> {
        let view = |(name, dtype, bytes): &(&str, Dtype, Vec<u8>)| {
            let shape = vec![bytes.len() * 8 / dtype.bitsize()];
            let bytes: &'static [u8] = Box::leak(bytes.clone().into_boxed_slice());
            (
                (*name).to_owned(),
                TensorView::new(*dtype, shape, bytes).unwrap(),
            )
        };
        safetensors::serialize(entries.iter().map(view), None).unwrap()
    }

    #[test]
    fn floats_of_every_precision_become_single() {
        // 1.5 and -0.25 are exact in all of them.
        let values = [1.5f64, -0.25];
        let bytes = file_of(&[
            (
                "f64",
                Dtype::F64,
                values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            ),
            (
                "f32",
                Dtype::F32,
                values
                    .iter()
                    .flat_map(|v| (*v as f32).to_le_bytes())
                    .collect(),
            ),
            (
                "f16",
                Dtype::F16,
                values
                    .iter()
                    .flat_map(|v| half::f16::from_f64(*v).to_le_bytes())
                    .collect(),
            ),
            (
                "bf16",
                Dtype::BF16,
                values
                    .iter()
                    .flat_map(|v| half::bf16::from_f64(*v).to_le_bytes())
                    .collect(),
            ),
        ]);
        let (tensors, _) = tensors_from_bytes(Path::new("w"), &bytes).unwrap();
        assert_eq!(tensors.len(), 4);
        for (name, tensor) in tensors {
            assert_eq!(tensor.to_vec1::<f32>().unwrap(), [1.5, -0.25], "{name}");
        }
    }

    #[test]
    fn of_several_tensors_that_are_not_read_the_first_by_name_is_named() {
        let entries: Vec<(String, Dtype, Vec<u8>)> = (0..20)
            .map(|i| (format!("t{i:02}"), Dtype::U8, vec![1]))
            .collect();
        let entries: Vec<(&str, Dtype, Vec<u8>)> = entries
            .iter()
            .map(|(n, d, b)| (n.as_str(), *d, b.clone()))
            .collect();
        let bytes = file_of(&entries);
        for _ in 0..8 {
            let error = tensors_from_bytes(Path::new("w"), &bytes)
                .unwrap_err()
                .to_string();
            assert_eq!(error, "w: t00: expected f16, bf16, f32, f64 or i64, got U8");
        }
    }

    #[test]
    fn prefixes_of_wrappers_are_taken_off_where_all_names_have_them() {
        let named = |names: &[&str]| -> BTreeMap<String, Tensor> {
            let tensor = Tensor::new(0f32, &Device::Cpu).unwrap();
            names
                .iter()
                .map(|name| ((*name).to_owned(), tensor.clone()))
                .collect()
        };
        let names = |names: &[&str]| unwrapped(named(names)).into_keys().collect::<Vec<_>>();
        assert_eq!(names(&["module.a.b", "module.c"]), ["a.b", "c"]);
        assert_eq!(names(&["module._orig_mod.a"]), ["a"]);
        assert_eq!(names(&["module.a", "b"]), ["b", "module.a"]);
        assert!(names(&[]).is_empty());
    }
}
