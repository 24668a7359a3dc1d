//! Tensors whose data stands in another file: the seam through which this crate reads and writes it.

mod map;
mod write;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use self::map::FileMap;
pub use self::write::Parts;
use crate::error::{Error, Result};
use crate::proto::{DataLocation, ModelProto, TensorProto};
use crate::tensor;

/// Gives the bytes of a tensor that stands outside the model.
pub trait ExternalData: Debug + Send + Sync {
    /// Reads `length` bytes from `offset` of the file `location`.
    ///
    /// # Errors
    /// A description of what was expected and found; the caller adds the tensor and the location.
    fn read(&self, location: &str, offset: u64, length: u64) -> Result<Bytes, String>;

    /// Gives back the memory of what was read and can be had again. The bytes stay valid.
    fn release(&self) {}
}

/// Refuses every external tensor: for models that come as one piece of memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoExternalData;

impl ExternalData for NoExternalData {
    fn read(&self, _: &str, _: u64, _: u64) -> Result<Bytes, String> {
        Err("expected a model in one piece, found a reference to another file".to_string())
    }
}

/// Maps external tensors from the folder that the model stands in: a tensor takes memory while its numbers are read, and
/// [`ExternalData::release`] gives it back. The files must not be shortened while the model is in use.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    maps: Mutex<BTreeMap<PathBuf, Arc<FileMap>>>,
}

impl Folder {
    /// The folder of the model. A location never leaves it.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            maps: Mutex::default(),
        }
    }

    /// Maps a model's own file, whatever it is called, and gives its bytes with the folder that it stands in. A file that
    /// cannot be mapped, such as a pipe, is read.
    ///
    /// # Errors
    /// Those of opening and reading it.
    pub fn of_model(path: &Path) -> std::io::Result<(Self, Bytes)> {
        let root = path.parent().filter(|root| !root.as_os_str().is_empty());
        let folder = Self::new(root.unwrap_or(Path::new(".")));
        let about = std::fs::metadata(path)?;
        if !about.is_file() || about.len() == 0 {
            return Ok((folder, std::fs::read(path)?.into()));
        }
        let map = Arc::new(FileMap::open(path)?);
        let bytes = map.slice(0, map.len()).unwrap_or_default();
        let mut maps = folder.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.insert(path.to_owned(), map);
        drop(maps);
        Ok((folder, bytes))
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

    fn map(&self, location: &str) -> Result<Arc<FileMap>, String> {
        let path = self.resolve(location)?;
        let mut maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = maps.get(&path) {
            return Ok(Arc::clone(map));
        }
        let map = Arc::new(FileMap::open(&path).map_err(|e| e.to_string())?);
        maps.insert(path, Arc::clone(&map));
        Ok(map)
    }
}

impl ExternalData for Folder {
    fn read(&self, location: &str, offset: u64, length: u64) -> Result<Bytes, String> {
        let map = self.map(location)?;
        map.slice(offset, length).ok_or_else(|| {
            format!(
                "expected bytes {offset} to {offset}+{length}, found a file of {} bytes",
                map.len()
            )
        })
    }

    fn release(&self) {
        let maps = self.maps.lock().unwrap_or_else(PoisonError::into_inner);
        maps.values().for_each(|map| map.release());
    }
}

/// Where the data of a tensor stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Range {
    location: String,
    offset: u64,
    length: u64,
}

/// Takes the data of every external tensor of a model into the model.
pub(crate) fn resolve(model: &mut ModelProto, source: &dyn ExternalData) -> Result<()> {
    let mut taken: BTreeMap<Range, String> = BTreeMap::new();
    crate::walk::tensors_mut(model, &mut |tensor| {
        if tensor.data_location() != DataLocation::External {
            return Ok(());
        }
        let range = resolve_tensor(tensor, source)?;
        // Tensors may share one range, as tied weights do.
        taken
            .entry(range)
            .or_insert_with(|| tensor.name().to_string());
        Ok(())
    })?;
    match taken
        .iter()
        .zip(taken.iter().skip(1))
        .find(|((a, _), (b, _))| {
            a.location == b.location && b.length > 0 && b.offset - a.offset < a.length
        }) {
        None => Ok(()),
        Some(((a, first), (b, second))) => Err(Error::External {
            tensor: second.clone(),
            location: b.location.clone(),
            problem: format!(
                "expected data of its own, found bytes {} to {}+{} overlapping those of `{first}`, {} to {}+{}",
                b.offset, b.offset, b.length, a.offset, a.offset, a.length
            ),
        }),
    }
}

fn resolve_tensor(tensor: &mut TensorProto, source: &dyn ExternalData) -> Result<Range> {
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
    Ok(Range {
        location,
        offset,
        length,
    })
}
