//! Tensors whose data stands in another file: the seam through which this crate reads it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::proto::{DataLocation, ModelProto, TensorProto};
use crate::tensor;

/// Gives the bytes of a tensor that stands outside the model.
pub trait ExternalData {
    /// Reads `length` bytes from `offset` of the file `location`.
    ///
    /// # Errors
    /// A description of what was expected and found; the caller adds the tensor and the location.
    fn read(&self, location: &str, offset: u64, length: u64) -> Result<Bytes, String>;
}

/// Refuses every external tensor: for models that come as one piece of memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, _: &str, _: u64, _: u64) -> Result<Bytes, String> {
        Err("expected a model in one piece, found a reference to another file".to_string())
    }
}

/// Reads external tensors from the folder that the model stands in.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder of the model. A location never leaves it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn resolve(&self, location: &str) -> Result<PathBuf, String> {
        let relative = Path::new(location);
        let stays = !location.is_empty()
            && !location.contains('\\')
            && relative
                .components()
                .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !stays {
            return Err("expected a relative path inside the model's folder".to_string());
        }
        let root = self
            .root
            .canonicalize()
            .map_err(|e| format!("model's folder: {e}"))?;
        let path = root
            .join(relative)
            .canonicalize()
            .map_err(|e| e.to_string())?;
        if path.starts_with(&root) {
            Ok(path)
        } else {
            Err("expected a file inside the model's folder, found a link out of it".to_string())
        }
    }
}

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: u64) -> Result<Bytes, String> {
        let mut file = File::open(self.resolve(location)?).map_err(|e| e.to_string())?;
        let size = file.metadata().map_err(|e| e.to_string())?.len();
        if offset.checked_add(length).is_none_or(|end| end > size) {
            return Err(format!(
                "expected bytes {offset} to {offset}+{length}, found a file of {size} bytes"
            ));
        }
        let length =
            usize::try_from(length).map_err(|_| format!("{length} bytes do not fit memory"))?;
        let mut buffer = vec![0; length];
        file.seek(SeekFrom::Start(offset))
            .and_then(|_| file.read_exact(&mut buffer))
            .map_err(|e| e.to_string())?;
        Ok(Bytes::from(buffer))
    }
}

/// Takes the data of every external tensor of a model into the model.
pub(crate) fn resolve(model: &mut ModelProto, source: &dyn ExternalData) -> Result<()> {
    crate::walk::tensors_mut(model, &mut |tensor| resolve_tensor(tensor, source))
}

fn resolve_tensor(tensor: &mut TensorProto, source: &dyn ExternalData) -> Result<()> {
    if tensor.data_location() != DataLocation::External {
        return Ok(());
    }
    let entry = |key: &str| {
        tensor
            .external_data
            .iter()
            .find(|e| e.key() == key)
            .map(|e| e.value().to_string())
    };
    let location = entry("location").unwrap_or_default();
    let fail = |problem: String| Error::External {
        tensor: tensor.name().to_string(),
        location: location.clone(),
        problem,
    };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| {
            fail(format!(
                "field `{key}`: expected a number of bytes, found {text:?}"
            ))
        }),
    };
    let wanted = tensor::data_bytes(tensor)?
        .ok_or_else(|| fail("expected numbers, found strings".to_string()))?
        as u64;
    let offset = number("offset")?.unwrap_or(0);
    let length = number("length")?.unwrap_or(wanted);
    if length != wanted {
        return Err(fail(format!(
            "field `length`: expected {wanted} bytes ({:?}), found {length}",
            tensor.dims
        )));
    }
    let data = source.read(&location, offset, length).map_err(fail)?;
    tensor.raw_data = Some(data);
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}
