//! How freed memory goes back to the system.
#![allow(unsafe_code, reason = "the C library's allocator has no other switch")]

/// Has arrays of 256 KiB and more mapped one by one, so that they are gone as soon as they are freed.
///
/// The C library of GNU systems raises that threshold to the largest array it has seen freed, and what lies below it comes from
/// a heap for each thread, whose holes stay in memory: planning MiniLM then takes twice as much as is ever in use.
/// Call it first of all. Elsewhere it does nothing.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and touches only the allocator's own settings, under its lock. A refusal changes nothing.
    let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD) };
}

/// Bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const THRESHOLD: libc::c_int = 256 << 10;
