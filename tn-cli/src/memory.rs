//! How freed memory goes back to the system.
#![allow(unsafe_code, reason = "the C library's allocator has no other switch")]

/// Has arrays of 256 KiB and more mapped one by one, so that they are gone as soon as they are freed.
///
/// The C library of GNU systems raises that threshold to the largest array it has seen freed, and what lies below it comes from
/// a heap for each thread, whose holes stay in memory: planning MiniLM then takes twice as much as is ever in use.
/// Heaps of threads are given up and made anew whatever is asked to be kept, so that there is one for all of them.
/// Call it first of all. Elsewhere it does nothing.
pub(crate) fn give_back() {
    one_heap();
    set(256 << 10, 128 << 10);
}

/// Has freed arrays kept for the next ones, as long as the guard lives; then [`give_back`] holds again.
///
/// A training step allocates what the step before it freed. To be handed every page anew, zeroed, took 45 % of a step of MiniLM.
#[must_use = "what is freed after the guard is dropped goes back to the system"]
pub(crate) fn reuse() -> Reuse {
    set(i32::MAX, i32::MAX);
    Reuse
}

/// While it lives, freed memory is kept.
#[derive(Debug)]
pub(crate) struct Reuse;

impl Drop for Reuse {
    fn drop(&mut self) {
        give_back();
    }
}

/// Arrays of `mapped` bytes and more are mapped one by one; `kept` free bytes at the end of the heap stay there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(mapped: i32, kept: i32) {
    // SAFETY: `mallopt` takes two numbers and touches only the allocator's own settings, under its lock. A refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, mapped);
        libc::mallopt(libc::M_TRIM_THRESHOLD, kept);
    }
}

/// Threads that have allocated nothing yet share one heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn one_heap() {
    // SAFETY: as in `set`.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn one_heap() {}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(_mapped: i32, _kept: i32) {}
