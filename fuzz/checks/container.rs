//! A `.safetensors` container: what is read is written and read again as the same.

use tn_formats::Container;

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(container) = Container::read(bytes) {
        let mut again = Vec::new();
        container.write(&mut again).expect("memory takes all bytes");
        let back = Container::read(&again).expect("what is written reads back");
        // NaN is like nothing, itself included: the bytes are compared.
        let mut twice = Vec::new();
        back.write(&mut twice).expect("memory takes all bytes");
        assert_eq!(again, twice);
    }
}
