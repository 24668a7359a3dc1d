//! Archives of arrays.

use std::io::{Read, Seek, Write};

use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::array::{NpyArray, read_npy, write_npy};
use super::header::bad;
use crate::error::{Error, Result};

/// An open `.npz` archive, stored or deflated as `numpy.savez` and `numpy.savez_compressed` write it.
///
/// ```
/// use std::io::Cursor;
/// use ndarray::array;
/// use tn_formats::npy::{Npz, NpyArray, write_npz};
/// let labels = NpyArray::I64(array![3i64, 1, 4].into_dyn());
/// let mut file = Cursor::new(Vec::new());
/// write_npz(&mut file, [("labels", &labels)])?;
/// let mut npz = Npz::open(file)?;
/// assert_eq!(npz.names(), ["labels"]);
/// assert_eq!(npz.read("labels")?, labels);
/// assert!(npz.read("images").is_err());
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug)]
pub struct Npz<R> {
    archive: ZipArchive<R>,
    names: Vec<String>,
}

impl<R: Read + Seek> Npz<R> {
    /// Reads the directory of an archive.
    ///
    /// # Errors
    /// [`Error::Npy`] when it is not a zip archive, holds a name twice or a member that is not `.npy`.
    pub fn open(reader: R) -> Result<Self> {
        let mut archive = ZipArchive::new(reader).map_err(|e| zip_error("archive", e))?;
        let mut names: Vec<String> = Vec::with_capacity(archive.len());
        for k in 0..archive.len() {
            let member = archive
                .by_index_raw(k)
                .map_err(|e| zip_error("archive", e))?;
            let name = member.name();
            let name = name
                .strip_suffix(".npy")
                .ok_or_else(|| bad("archive", "members named *.npy", name))?;
            if names.iter().any(|n| n == name) {
                return Err(bad("archive", "every name once", name));
            }
            names.push(name.to_owned());
        }
        Ok(Self { archive, names })
    }

    /// Names of the arrays, in the order of the archive.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads one array by name.
    ///
    /// # Errors
    /// [`Error::MissingArray`], and the errors of [`read_npy`].
    pub fn read(&mut self, name: &str) -> Result<NpyArray> {
        let index = self.names.iter().position(|n| n == name);
        let index = index.ok_or_else(|| Error::MissingArray {
            name: name.to_owned(),
            found: self.names.clone(),
        })?;
        let mut member = self
            .archive
            .by_index(index)
            .map_err(|e| zip_error(name, e))?;
        let array = read_npy(&mut member).map_err(|e| in_member(name, e))?;
        // Reading to the end makes the archive's checksum count.
        let rest = std::io::copy(&mut member, &mut std::io::sink())
            .map_err(|e| bad(name, "a readable member", e.to_string()))?;
        if rest > 0 {
            return Err(bad(
                name,
                "nothing after the array",
                format!("{rest} bytes"),
            ));
        }
        Ok(array)
    }

    /// Reads all arrays, in the order of the archive.
    ///
    /// # Errors
    /// As [`Npz::read`].
    pub fn read_all(&mut self) -> Result<Vec<(String, NpyArray)>> {
        let names = self.names.clone();
        names
            .into_iter()
            .map(|name| self.read(&name).map(|array| (name, array)))
            .collect()
    }
}

/// Writes arrays as an uncompressed `.npz`; equal arrays give equal bytes.
///
/// # Errors
/// [`Error::Npy`] when a name comes twice, [`Error::Io`].
pub fn write_npz<'a, W: Write + Seek>(
    writer: W,
    arrays: impl IntoIterator<Item = (&'a str, &'a NpyArray)>,
) -> Result<()> {
    let mut zip = ZipWriter::new(writer);
    for (name, array) in arrays {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(array.len() > (1 << 28));
        zip.start_file(format!("{name}.npy"), options)
            .map_err(|e| zip_error(name, e))?;
        write_npy(&mut zip, array)?;
    }
    zip.finish().map_err(|e| zip_error("archive", e))?;
    Ok(())
}

fn zip_error(place: &str, error: ZipError) -> Error {
    match error {
        ZipError::Io(e) => Error::Io(e),
        other => bad(place, "a zip archive", other.to_string()),
    }
}

fn in_member(name: &str, error: Error) -> Error {
    match error {
        Error::Npy {
            place,
            expected,
            found,
        } => Error::Npy {
            place: format!("{name}: {place}"),
            expected,
            found,
        },
        Error::Io(e) => bad(name, "a readable member", e.to_string()),
        other => other,
    }
}
