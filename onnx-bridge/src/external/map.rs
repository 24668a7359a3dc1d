//! A file in the address space: its pages come into memory when they are read.
#![allow(unsafe_code, reason = "mapping a file, and giving its pages back")]

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::Mmap;

/// A file mapped read-only.
#[derive(Debug)]
pub(super) struct FileMap(Mmap);

/// Keeps a map alive as long as bytes of it are.
struct Owner(Arc<FileMap>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0.0
    }
}

impl FileMap {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("expected a file"));
        }
        // SAFETY: the map is read-only and private. That nobody shortens the file while it is in use is what `Folder` asks for.
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self(map))
    }

    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Bytes `offset .. offset + length`, not copied; `None` outside the file.
    pub(super) fn slice(self: &Arc<Self>, offset: u64, length: u64) -> Option<Bytes> {
        let end = offset
            .checked_add(length)
            .filter(|&end| end <= self.len())?;
        let range = usize::try_from(offset).ok()?..usize::try_from(end).ok()?;
        Some(Bytes::from_owner(Owner(Arc::clone(self))).slice(range))
    }

    /// Takes the pages out of memory; they are read from the file again when they are asked for.
    pub(super) fn release(&self) {
        #[cfg(unix)]
        // SAFETY: pages of a read-only map of a file hold nothing but the file, so dropping them changes no byte.
        // An advice that the system does not take is no harm.
        let _ = unsafe { self.0.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}
