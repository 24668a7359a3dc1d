//! The header of a `.npy` file: magic, version, and a Python dictionary literal.

use crate::error::{Error, Result, checked_product};

/// Element types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dtype {
    F16,
    F32,
    F64,
    I64,
    I32,
    I8,
    U8,
    Bool,
}

impl Dtype {
    const ALL: [(Dtype, &'static str, usize); 8] = [
        (Dtype::F16, "<f2", 2),
        (Dtype::F32, "<f4", 4),
        (Dtype::F64, "<f8", 8),
        (Dtype::I64, "<i8", 8),
        (Dtype::I32, "<i4", 4),
        (Dtype::I8, "|i1", 1),
        (Dtype::U8, "|u1", 1),
        (Dtype::Bool, "|b1", 1),
    ];

    pub(super) fn bytes(self) -> usize {
        Self::ALL.iter().find(|d| d.0 == self).map_or(1, |d| d.2)
    }

    fn descr(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|d| d.0 == self)
            .map_or("|u1", |d| d.1)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) dtype: Dtype,
    pub(super) fortran: bool,
    pub(super) shape: Vec<usize>,
}

/// Longest header that is read; numpy itself refuses above 10,000 bytes.
pub(super) const MAX_HEADER: usize = 10_000;
/// numpy's limit on the number of axes.
const MAX_AXES: usize = 64;

pub(super) fn bad(place: &str, expected: impl Into<String>, found: impl Into<String>) -> Error {
    Error::Npy {
        place: place.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

impl Header {
    /// Parses the dictionary, e.g. `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut p = Parser { rest: text.trim() };
        let (mut dtype, mut fortran, mut shape) = (None, None, None);
        p.expect("{")?;
        while !p.eat("}") {
            let key = p.string()?;
            p.expect(":")?;
            match key {
                "descr" => dtype = Some(parse_dtype(p.string()?)?),
                "fortran_order" => fortran = Some(p.boolean()?),
                "shape" => shape = Some(p.tuple()?),
                other => return Err(bad("header", "the keys descr, fortran_order, shape", other)),
            }
            if !p.eat(",") {
                p.expect("}")?;
                break;
            }
        }
        if !p.rest.trim().is_empty() {
            return Err(bad("header", "nothing after the dictionary", p.rest.trim()));
        }
        match (dtype, fortran, shape) {
            (Some(dtype), Some(fortran), Some(shape)) => {
                checked_product(&shape)?;
                Ok(Self {
                    dtype,
                    fortran,
                    shape,
                })
            }
            _ => Err(bad(
                "header",
                "the keys descr, fortran_order, shape",
                text.trim(),
            )),
        }
    }

    /// The bytes before the data: version 1.0, padded to a multiple of 64 as numpy pads.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let shape = match self.shape.as_slice() {
            [n] => format!("({n},)"),
            more => format!(
                "({})",
                more.iter()
                    .map(usize::to_string)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let order = if self.fortran { "True" } else { "False" };
        let mut dict = format!(
            "{{'descr': '{}', 'fortran_order': {order}, 'shape': {shape}, }}",
            self.dtype.descr()
        );
        let unpadded = 10 + dict.len() + 1;
        dict.push_str(&" ".repeat(unpadded.next_multiple_of(64) - unpadded));
        dict.push('\n');
        let mut out = b"\x93NUMPY\x01\x00".to_vec();
        out.extend((dict.len() as u16).to_le_bytes());
        out.extend(dict.as_bytes());
        out
    }
}

fn parse_dtype(descr: &str) -> Result<Dtype> {
    let native = descr.replace('=', "<");
    let known = Dtype::ALL.iter().find(|(_, name, bytes)| {
        native == *name || (*bytes == 1 && native.len() == 3 && native.get(1..) == name.get(1..))
    });
    known.map(|d| d.0).ok_or_else(|| {
        bad(
            "header, descr",
            "little-endian f2, f4, f8, i8, i4, or i1, u1, b1",
            descr,
        )
    })
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<()> {
        if self.eat(token) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{token}`")))
        }
    }

    fn unexpected(&self, expected: &str) -> Error {
        bad(
            "header",
            expected,
            self.rest.chars().take(20).collect::<String>(),
        )
    }

    fn string(&mut self) -> Result<&'a str> {
        self.rest = self.rest.trim_start();
        let quote = self.rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let quote = quote.ok_or_else(|| self.unexpected("a quoted string"))?;
        let body = &self.rest[1..];
        let end = body
            .find(quote)
            .ok_or_else(|| self.unexpected("a closing quote"))?;
        self.rest = &body[end + 1..];
        Ok(&body[..end])
    }

    fn boolean(&mut self) -> Result<bool> {
        if self.eat("True") {
            Ok(true)
        } else {
            self.eat("False")
                .then_some(false)
                .ok_or_else(|| self.unexpected("True or False"))
        }
    }

    fn tuple(&mut self) -> Result<Vec<usize>> {
        self.expect("(")?;
        let mut out = Vec::new();
        while !self.eat(")") {
            self.rest = self.rest.trim_start();
            let digits = self
                .rest
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(self.rest.len());
            let n = self.rest[..digits]
                .parse()
                .map_err(|_| self.unexpected("a size"))?;
            self.rest = &self.rest[digits..];
            out.push(n);
            if out.len() > MAX_AXES {
                return Err(bad("header, shape", "at most 64 axes", "more"));
            }
            if !self.eat(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numpy_headers_parse() {
        let parse = |text: &str| Header::parse(text).map(|h| (h.dtype, h.fortran, h.shape));
        let full = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }   \n";
        assert_eq!(parse(full).unwrap(), (Dtype::F32, false, vec![3, 4]));
        let scalar = "{'descr': '|b1', 'fortran_order': True, 'shape': ()}";
        assert_eq!(parse(scalar).unwrap(), (Dtype::Bool, true, vec![]));
        let one = "{\"shape\": (7,), \"fortran_order\": False, \"descr\": \"<i8\"}";
        assert_eq!(parse(one).unwrap(), (Dtype::I64, false, vec![7]));
    }

    #[test]
    fn broken_headers_are_errors() {
        for text in [
            "",
            "{}",
            "{'descr': '>f4', 'fortran_order': False, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 'y'}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} tail",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999, 9999999999)}",
            "{'descr': '<f4",
            "{'descr': 'ģ1', 'fortran_order': False, 'shape': (3,)}",
        ] {
            assert!(Header::parse(text).is_err(), "{text}");
        }
    }
}
