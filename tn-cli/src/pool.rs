//! One pool of threads, the one that `--threads` sizes.
#![allow(
    unsafe_code,
    reason = "candle has no other switch for its threads than the environment"
)]

use std::env;

/// Has candle add tensors up in the thread that asks for it, unless the environment says otherwise.
///
/// It keeps threads of its own beside rayon's, whose waiting by spinning takes the processor from them: 8 to 10 % of a
/// training step of MiniLM on two cores. Call it first of all.
pub(crate) fn only_one() {
    const CANDLE: &str = "CANDLE_NUM_THREADS";
    if env::var_os(CANDLE).is_none() {
        // SAFETY: no other thread has been started that could read the environment meanwhile.
        unsafe { env::set_var(CANDLE, "1") };
    }
}
