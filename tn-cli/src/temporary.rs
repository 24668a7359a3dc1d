//! A file that gets its name when it is complete. On Linux it has none before: a run that ends early, by Ctrl-C, `kill -9` or a
//! loss of power, leaves nothing behind; but where it replaces another file it has for an instant, complete, a name of its own.
//! Elsewhere it has a name of its own that goes on an error.

use std::fs::File;
use std::io;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::output::Existing;

/// How temporary files are called while they have a name.
const NAME: (&str, &str) = (".tnq-", ".partial");

/// A file under way.
#[derive(Debug)]
pub(crate) enum Temporary {
    /// Without a name.
    #[cfg(target_os = "linux")]
    Unnamed(File),
    /// Under a name of its own.
    Named(NamedTempFile),
}

impl Temporary {
    /// In a folder, with the permissions of any new file.
    ///
    /// # Errors
    ///
    /// Those of the system.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        // File systems that have no such files say so: then it is a named one.
        #[cfg(target_os = "linux")]
        if let Ok(file) = unnamed(folder) {
            return Ok(Self::Unnamed(file));
        }
        let mut builder = tempfile::Builder::new();
        builder.prefix(NAME.0).suffix(NAME.1);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        builder.tempfile_in(folder).map(Self::Named)
    }

    /// The file.
    pub(crate) fn file(&mut self) -> &mut File {
        match self {
            #[cfg(target_os = "linux")]
            Self::Unnamed(file) => file,
            Self::Named(file) => file.as_file_mut(),
        }
    }

    /// Give it its name.
    ///
    /// # Errors
    ///
    /// Those of the system: among them that of a name that is taken, where that is to be kept.
    pub(crate) fn place(self, path: &Path, existing: Existing) -> io::Result<()> {
        match (self, existing) {
            #[cfg(target_os = "linux")]
            (Self::Unnamed(file), Existing::Keep) => link(&file, path),
            #[cfg(target_os = "linux")]
            (Self::Unnamed(file), Existing::Replace) => {
                // A link replaces nothing: where a file is in the way, under a name of its own first, from there by a rename.
                match link(&file, path) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => return other,
                }
                let folder = path.parent().unwrap_or(Path::new(""));
                let mut k = 0_u32;
                let passing = loop {
                    let name = format!("{}{}-{k}{}", NAME.0, std::process::id(), NAME.1);
                    let passing = folder.join(name);
                    match link(&file, &passing) {
                        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => k += 1,
                        other => break other.map(|()| passing)?,
                    }
                };
                std::fs::rename(&passing, path).inspect_err(|_| {
                    // The error that follows says what went wrong; a file left over is no other error.
                    let _ = std::fs::remove_file(&passing);
                })
            }
            (Self::Named(file), Existing::Keep) => {
                file.persist_noclobber(path).map(drop).map_err(|e| e.error)
            }
            (Self::Named(file), Existing::Replace) => {
                file.persist(path).map(drop).map_err(|e| e.error)
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn unnamed(folder: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::OpenOptions::new()
        .write(true)
        .mode(0o666)
        .custom_flags(rustix::fs::OFlags::TMPFILE.bits() as i32)
        .open(folder)
}

#[cfg(target_os = "linux")]
fn link(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    use rustix::fs::{AtFlags, CWD, linkat};

    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_under_way_is_seen_by_nobody_and_placed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for (existing, text) in [(Existing::Keep, "first"), (Existing::Replace, "second")] {
            let mut file = Temporary::new(folder.path()).unwrap();
            file.file().write_all(text.as_bytes()).unwrap();
            if cfg!(target_os = "linux") {
                let seen = fs::read_dir(folder.path()).unwrap().count();
                assert_eq!(seen, usize::from(existing == Existing::Replace));
            }
            file.place(&path, existing).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        let file = Temporary::new(folder.path()).unwrap();
        let error = file.place(&path, Existing::Keep).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
    }
}
