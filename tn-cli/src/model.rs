//! Files of models and of arrays, opened here and nowhere else.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::path::Path;

use onnx_bridge::{Dataset, Error, Folder, Model, model_inputs};
use tn_formats::npy::{NpyArray, Npz, read_npy};

use crate::error::CliError;

/// Read a model and the external data beside it. Both are mapped: what is not in use need not be in memory.
///
/// # Errors
///
/// [`CliError::Read`] for the file itself, [`CliError::Content`] for what is in it.
pub(crate) fn read_model(path: &Path) -> Result<Model, CliError> {
    let (folder, bytes) = Folder::of_model(path).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })?;
    Model::decode_with(bytes, folder).map_err(|error| CliError::content(path, error))
}

/// Read the arrays that a model runs on: an `.npz`, or an `.npy` where the model has one input. Which of the two a file
/// is, its first bytes say.
///
/// # Errors
///
/// [`CliError::Read`] for the file itself, [`CliError::Content`] for what is in it or is not.
pub(crate) fn read_dataset(path: &Path, model: &Model) -> Result<Dataset, CliError> {
    let (mut file, start) = open(path)?;
    let inputs = model_inputs(model);
    let arrays = match (&start[..], &inputs[..]) {
        ([b'P', b'K', ..], _) => Npz::open(file).and_then(|mut npz| npz.read_all()),
        (b"\x93NUMPY", [only]) => read_npy(&mut file).map(|array| vec![(only.name.clone(), array)]),
        (b"\x93NUMPY", _) => {
            let problem = format!(
                "expected an .npz, as the model has {} inputs, found an .npy",
                inputs.len()
            );
            return Err(CliError::content(path, problem));
        }
        _ => {
            return Err(CliError::content(
                path,
                format!("expected an .npz or .npy file, found {}", kind(&start)),
            ));
        }
    };
    let data = Dataset::new(arrays.map_err(|error| CliError::content(path, error))?);
    let data = data.map_err(|error| CliError::content(path, error))?;
    let found: Vec<String> = data.arrays().iter().map(|(name, _)| name.clone()).collect();
    match inputs
        .into_iter()
        .find(|input| !found.contains(&input.name))
    {
        Some(input) => Err(CliError::content(
            path,
            Error::MissingInput {
                input: input.name,
                found,
            },
        )),
        None => Ok(data),
    }
}

/// Read one array: an `.npy`, or the one of this name of an `.npz` (without a name the only one).
///
/// # Errors
///
/// [`CliError::Read`] for the file itself, [`CliError::Content`] for what is in it or is not.
pub(crate) fn read_array(path: &Path, name: Option<&str>) -> Result<NpyArray, CliError> {
    let (mut file, start) = open(path)?;
    let content = |error: tn_formats::Error| CliError::content(path, error);
    match (&start[..], name) {
        ([b'P', b'K', ..], name) => {
            let mut npz = Npz::open(file).map_err(content)?;
            let name = match (name, npz.names()) {
                (Some(name), _) => name.to_owned(),
                (None, [only]) => only.clone(),
                (None, names) => {
                    let names = names.join(", ");
                    let problem = format!("expected one array or its name, found {names}");
                    return Err(CliError::content(path, problem));
                }
            };
            npz.read(&name).map_err(content)
        }
        (b"\x93NUMPY", None) => read_npy(&mut file).map_err(content),
        (b"\x93NUMPY", Some(name)) => {
            let problem = format!("expected an .npz with an array {name:?}, found an .npy");
            Err(CliError::content(path, problem))
        }
        _ => {
            let problem = format!("expected an .npz or .npy file, found {}", kind(&start));
            Err(CliError::content(path, problem))
        }
    }
}

/// The file and its first bytes, which say what it is.
fn open(path: &Path) -> Result<(BufReader<File>, Vec<u8>), CliError> {
    let read = |source| CliError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = BufReader::new(File::open(path).map_err(read)?);
    let mut start = Vec::new();
    file.by_ref()
        .take(6)
        .read_to_end(&mut start)
        .map_err(read)?;
    file.rewind().map_err(read)?;
    Ok((file, start))
}

fn kind(start: &[u8]) -> String {
    if start.is_empty() {
        "0 bytes".to_owned()
    } else {
        format!("bytes starting with {start:02x?}")
    }
}
