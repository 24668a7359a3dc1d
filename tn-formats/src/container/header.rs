//! The metadata of a container, and its checksum.

use quant_core::QuantScheme;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::modes::{Layout, MatrixModes};

/// The version this crate writes and reads.
pub(super) const VERSION: u32 = 1;
/// Metadata key of the JSON header.
pub(super) const KEY: &str = "tnq";
/// Metadata key of the checksum.
pub(super) const CRC_KEY: &str = "tnq.crc32";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    TensorTrain,
    TtMatrix,
    Tucker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum LayoutName {
    Interleaved,
    Split,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Modes {
    pub(super) layout: LayoutName,
    pub(super) row_modes: Vec<usize>,
    pub(super) col_modes: Vec<usize>,
}

impl Modes {
    pub(super) fn of(modes: &MatrixModes) -> Self {
        let layout = match modes.layout() {
            Layout::Interleaved => LayoutName::Interleaved,
            Layout::Split => LayoutName::Split,
        };
        Self {
            layout,
            row_modes: modes.row_modes().to_vec(),
            col_modes: modes.col_modes().to_vec(),
        }
    }

    pub(super) fn check(self) -> Result<MatrixModes> {
        let layout = match self.layout {
            LayoutName::Interleaved => Layout::Interleaved,
            LayoutName::Split => Layout::Split,
        };
        MatrixModes::new(layout, self.row_modes, self.col_modes)
    }
}

/// One core or factor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheme: Option<QuantScheme>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) modes: Option<Modes>,
    pub(super) parts: Vec<Part>,
}

impl Header {
    /// The name the k-th part must have.
    pub(super) fn part_name(kind: Kind, k: usize) -> String {
        match (kind, k) {
            (Kind::Tucker, 0) => "core".into(),
            (Kind::Tucker, _) => format!("factor.{}", k - 1),
            _ => format!("core.{k}"),
        }
    }
}

pub(super) fn bad(
    place: impl Into<String>,
    expected: impl Into<String>,
    found: impl Into<String>,
) -> Error {
    Error::Container {
        place: place.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// CRC-32 as zlib, gzip and Python's `zlib.crc32` compute it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crc32(u32);

const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut i = 0;
    while i < 256 {
        let mut c = i as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 {
                0xEDB8_8320 ^ (c >> 1)
            } else {
                c >> 1
            };
            bit += 1;
        }
        table[i] = c;
        i += 1;
    }
    table
};

impl Crc32 {
    pub(super) fn new() -> Self {
        Self(!0)
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = TABLE[usize::from(self.0 as u8 ^ b)] ^ (self.0 >> 8);
        }
    }

    /// Eight lower-case hexadecimal digits.
    pub(super) fn hex(self) -> String {
        format!("{:08x}", !self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_zlibs() {
        let mut crc = Crc32::new();
        crc.update(b"123456789");
        assert_eq!(crc.hex(), "cbf43926");
    }
}
