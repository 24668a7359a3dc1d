//! Where results of jobs are kept, so that an interrupted plan goes on where it stopped.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Keeps results by key. Keys are short names of letters and digits; the same key always stands for the same result.
pub trait Store: Sync {
    /// What was kept under a key; `None` where nothing was, or where it cannot be read any more.
    fn get(&self, key: &str) -> Option<Vec<u8>>;

    /// Keeps a result. One that cannot be kept is computed again later.
    fn put(&self, key: &str, result: &[u8]);
}

/// A store that lasts as long as the value does.
///
/// ```
/// use onnx_bridge::plan::{MemoryStore, Store};
///
/// let store = MemoryStore::default();
/// assert_eq!(store.get("a"), None);
/// store.put("a", b"result");
/// assert_eq!(store.get("a").as_deref(), Some(&b"result"[..]));
/// ```
#[derive(Debug, Default)]
pub struct MemoryStore {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl MemoryStore {
    /// The keys that something is kept under.
    pub fn keys(&self) -> Vec<String> {
        self.kept
            .lock()
            .map(|k| k.keys().cloned().collect())
            .unwrap_or_default()
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.kept.lock().ok()?.get(key).cloned()
    }

    fn put(&self, key: &str, result: &[u8]) {
        if let Ok(mut kept) = self.kept.lock() {
            kept.insert(key.to_string(), result.to_vec());
        }
    }
}
