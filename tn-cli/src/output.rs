//! Files that appear whole or not at all.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::CliError;
use crate::temporary::Temporary;

/// What to do with a file that stands where the output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Refuse.
    Keep,
    /// Replace it once the new one is complete.
    Replace,
}

/// A place that can be written to, checked before the work starts.
#[derive(Debug)]
pub(crate) struct OutputFile {
    path: PathBuf,
    existing: Existing,
}

impl OutputFile {
    /// Check that the folder of `path` takes a new file, and that nothing is in the way.
    ///
    /// # Errors
    ///
    /// [`CliError::Exists`] where a file may not be replaced, [`CliError::Write`] where none can be made.
    pub(crate) fn new(path: &Path, existing: Existing) -> Result<Self, CliError> {
        let file = Self {
            path: path.to_owned(),
            existing,
        };
        file.check_free()?;
        file.temporary()?;
        Ok(file)
    }

    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Write the file through `fill` beside its place, then move it there. On an error nothing is left.
    ///
    /// # Errors
    ///
    /// [`CliError::Exists`] where a file may not be replaced, [`CliError::Write`] where writing fails.
    pub(crate) fn write<F>(&self, fill: F) -> Result<(), CliError>
    where
        F: FnOnce(&mut BufWriter<&mut fs::File>) -> io::Result<()>,
    {
        self.check_free()?;
        let mut temporary = self.temporary()?;
        let written = (|| {
            let mut writer = BufWriter::new(temporary.file());
            fill(&mut writer)?;
            writer.flush()?;
            drop(writer);
            if let Ok(before) = fs::metadata(&self.path) {
                temporary.file().set_permissions(before.permissions())?;
            }
            temporary.file().sync_all()
        })();
        written.map_err(|source| self.failed(source))?;
        temporary
            .place(&self.path, self.existing)
            .map_err(|source| self.failed(source))
    }

    fn check_free(&self) -> Result<(), CliError> {
        match fs::symlink_metadata(&self.path) {
            Ok(meta) if meta.is_dir() => {
                Err(self.failed(io::Error::other("expected a file name, found a folder")))
            }
            Ok(meta) if !meta.is_file() && !meta.is_symlink() => Err(self.failed(
                io::Error::other("expected a file, found a device or a pipe"),
            )),
            Ok(_) if self.existing == Existing::Keep => Err(CliError::Exists {
                path: self.path.clone(),
            }),
            _ => Ok(()),
        }
    }

    fn temporary(&self) -> Result<Temporary, CliError> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        Temporary::new(folder).map_err(|source| self.failed(source))
    }

    fn failed(&self, source: io::Error) -> CliError {
        CliError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_when_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let out = OutputFile::new(&path, Existing::Keep).unwrap();
        assert!(names(folder.path()).is_empty());
        out.write(|w| w.write_all(b"whole")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        fs::write(&path, "old").unwrap();
        let out = OutputFile::new(&path, Existing::Replace).unwrap();
        let fail = out.write(|w| w.write_all(b"half").and(Err(io::Error::other("full"))));
        assert!(fail.unwrap_err().to_string().contains("full"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out"]);
    }

    #[test]
    fn a_file_in_the_way_is_refused_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let out = OutputFile::new(&path, Existing::Keep).unwrap();
        fs::write(&path, "appeared since").unwrap();
        assert!(matches!(
            out.write(|w| w.write_all(b"new")),
            Err(CliError::Exists { .. })
        ));
        assert!(matches!(
            OutputFile::new(&path, Existing::Keep),
            Err(CliError::Exists { .. })
        ));
        OutputFile::new(&path, Existing::Replace)
            .unwrap()
            .write(|w| w.write_all(b"new"))
            .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_missing_folder_and_a_folder_as_target_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path().join("absent/out"), folder.path().to_owned()] {
            assert!(matches!(
                OutputFile::new(&path, Existing::Replace),
                Err(CliError::Write { .. })
            ));
        }
    }
}
