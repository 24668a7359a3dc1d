//! Telling apart what jobs and files hold.

/// A 128-bit digest of bytes, for keys. Not for security: it tells apart what people have, not what they forge.
///
/// # Source
/// Two passes of FNV-1a over 64-bit words with different offsets and a final mix (Vigna's splitmix64).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Digest([u64; 2]);

impl Default for Digest {
    fn default() -> Self {
        Self([0xcbf2_9ce4_8422_2325, 0x6c62_272e_07bb_0142])
    }
}

impl Digest {
    /// Takes in bytes and their length.
    pub(crate) fn add(mut self, bytes: &[u8]) -> Self {
        self.word(bytes.len() as u64);
        let words = bytes.chunks_exact(8);
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        for word in words {
            let mut w = [0; 8];
            w.copy_from_slice(word);
            self.word(u64::from_le_bytes(w));
        }
        self.word(u64::from_le_bytes(last));
        self
    }

    fn word(&mut self, word: u64) {
        self.0[0] = (self.0[0] ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29);
        self.0[1] = (self.0[1].rotate_left(31) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// 32 hexadecimal digits.
    pub(crate) fn key(self) -> String {
        let mix = |z: u64| {
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        format!("{:016x}{:016x}", mix(self.0[0]), mix(self.0[1] ^ self.0[0]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_bytes_apart() {
        let key = |parts: &[&[u8]]| parts.iter().fold(Digest::default(), |d, p| d.add(p)).key();
        let keys = [
            key(&[]),
            key(&[b""]),
            key(&[b"a"]),
            key(&[b"b"]),
            key(&[b"a", b"b"]),
            key(&[b"ab"]),
            key(&[b"a\0"]),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
        assert_eq!(key(&[b"model", b"data"]), key(&[b"model", b"data"]));
    }
}
