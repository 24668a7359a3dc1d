//! A model ready to be written: one file, or two where its tensors stand beside it.

use std::io::Write;
use std::path::Path;

use onnx_bridge::{Model, Parts};

use crate::error::CliError;
use crate::output::{Existing, OutputFile};

/// Where the numbers of a model go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    /// Into the model, up to the 2 GiB that a model can hold; beside it above that.
    Inside,
    /// Into a file beside the model.
    Beside,
}

impl Storage {
    /// What `--external-data` asks for.
    pub(crate) fn asked(external_data: bool) -> Self {
        if external_data {
            Self::Beside
        } else {
            Self::Inside
        }
    }
}

/// An encoded model.
#[derive(Debug)]
pub(crate) enum Encoded {
    /// One file.
    Whole(Vec<u8>),
    /// The model, and a file with its tensors.
    Parts(Box<Parts>),
}

/// The most bytes of a model in one file.
const MOST_INSIDE: u64 = (1 << 31) - 1;

impl Encoded {
    /// Encode `model` for the file `path`.
    ///
    /// # Errors
    ///
    /// [`CliError::Content`] for a model that no file can hold.
    pub(crate) fn new(model: &Model, path: &Path, storage: Storage) -> Result<Self, CliError> {
        let encoded = if storage == Storage::Beside || model.encoded_len() > MOST_INSIDE {
            let stem = path.file_name().unwrap_or_default().to_string_lossy();
            model
                .encode_external(&stem)
                .map(|parts| Self::Parts(Box::new(parts)))
        } else {
            model.encode().map(Self::Whole)
        };
        encoded.map_err(|error| CliError::content(path, error))
    }

    /// The bytes of all files.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Whole(model) => model.len() as u64,
            Self::Parts(parts) => parts.model().len() as u64 + parts.data_len(),
        }
    }

    /// Write the data beside `output`, then `output` itself, which refers to it. Where the second fails the first goes too.
    ///
    /// # Errors
    ///
    /// Those of [`OutputFile::write`].
    pub(crate) fn write(&self, output: &OutputFile) -> Result<(), CliError> {
        let parts = match self {
            Self::Whole(model) => return output.write(|file| file.write_all(model)),
            Self::Parts(parts) => parts,
        };
        let path = output.path().with_file_name(parts.location());
        let fresh = !path.exists();
        // The name holds a digest of the data: a file of this name is the same data.
        OutputFile::new(&path, Existing::Replace)?.write(|file| parts.write_data(file))?;
        let written = output.write(|file| file.write_all(parts.model()));
        if written.is_err() && fresh {
            // The error that follows says what went wrong; a file left over is no other error.
            let _ = std::fs::remove_file(&path);
        }
        written
    }
}
