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
/// When the file is missing, larger than `limit`, truncated, or holds a type other than `f32` and `i64`.
pub fn read_tensors(
    path: &Path,
    limit: u64,
) -> Result<(HashMap<String, Tensor>, BTreeMap<String, String>)> {
    tensors_from_bytes(path, &dcff_file::read(path, limit)?)
}

/// As [`read_tensors`], from what the file at `path` holds.
///
/// # Errors
/// [`Error::Content`] when it is no sound safetensors file of `f32` and `i64`.
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
    for (name, view) in stored.iter() {
        let tensor = match view.dtype() {
            Dtype::F32 => {
                let values = view
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect();
                Tensor::from_vec::<_, f32>(values, view.shape(), &Device::Cpu)
            }
            Dtype::I64 => {
                let values = view
                    .data()
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| i64::from_le_bytes(*b))
                    .collect();
                Tensor::from_vec::<_, i64>(values, view.shape(), &Device::Cpu)
            }
            other => {
                return Err(Error::content(
                    path,
                    format!("{name}: expected f32 or i64, got {other:?}"),
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
}
