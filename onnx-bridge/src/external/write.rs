//! A model whose large tensors stand in a file beside it.

use std::io::{self, Write};

use bytes::Bytes;
use prost::Message;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::model::{Model, PROTOBUF_LIMIT};
use crate::proto::{DataLocation, StringStringEntryProto, TensorProto};

/// Tensors below this size stay in the model, as ONNX's own tools have it.
const SMALLEST: usize = 1024;

/// Where a tensor's data starts in the file: a multiple of the page size of most systems, so that it can be mapped.
const ALIGNMENT: u64 = 4096;

/// A model in two parts: the message, and the data it refers to.
#[derive(Debug)]
pub struct Parts {
    model: Vec<u8>,
    location: String,
    data: Vec<(u64, Bytes)>,
    len: u64,
    source: Model,
}

impl Parts {
    /// The encoded model.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// The name of the data file, in the folder of the model.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The bytes of the data file.
    pub fn data_len(&self) -> u64 {
        self.len
    }

    /// Writes the data file.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_data(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        for (offset, bytes) in &self.data {
            let padding = offset - at;
            to.write_all(&vec![0; padding as usize])?;
            to.write_all(bytes)?;
            at = offset + bytes.len() as u64;
            self.source.release();
        }
        Ok(())
    }
}

impl Model {
    /// Encodes the model with every tensor of 1024 bytes or more in a file beside it, at offsets that are multiples of 4096.
    /// The file is named `{stem}.{digest of the data}.data`, so it never stands in the way of another model's, nor of an
    /// older one of the same name. Tensors whose data is not in `raw_data` stay in the model.
    ///
    /// # Errors
    /// [`Error::TooLarge`] where what is left is above 2 GiB.
    pub fn encode_external(&self, stem: &str) -> Result<Parts> {
        let mut proto = self.proto().clone();
        let mut digest = Digest::default();
        crate::walk::tensors_mut(&mut proto, &mut |tensor| {
            if let Some(bytes) = is_large(tensor)
                .then_some(tensor.raw_data.as_ref())
                .flatten()
            {
                digest = digest.add(bytes);
                self.release();
            }
            Ok(())
        })?;
        let location = format!("{stem}.{}.data", &digest.key()[..16]);
        let (mut data, mut len) = (Vec::new(), 0u64);
        crate::walk::tensors_mut(&mut proto, &mut |tensor| {
            if let Some(bytes) = is_large(tensor).then(|| tensor.raw_data.take()).flatten() {
                let offset = len.next_multiple_of(ALIGNMENT);
                len = offset + bytes.len() as u64;
                refer(tensor, &location, offset, bytes.len());
                data.push((offset, bytes));
            }
            Ok(())
        })?;
        let found = proto.encoded_len() as u64;
        if found > PROTOBUF_LIMIT {
            return Err(Error::TooLarge {
                limit: PROTOBUF_LIMIT,
                found,
            });
        }
        Ok(Parts {
            model: proto.encode_to_vec(),
            location,
            data,
            len,
            source: self.clone(),
        })
    }
}

fn is_large(tensor: &TensorProto) -> bool {
    tensor
        .raw_data
        .as_ref()
        .is_some_and(|raw| raw.len() >= SMALLEST)
}

fn refer(tensor: &mut TensorProto, location: &str, offset: u64, length: usize) {
    let entry = |key: &str, value: String| StringStringEntryProto {
        key: Some(key.to_string()),
        value: Some(value),
    };
    tensor.external_data = vec![
        entry("location", location.to_string()),
        entry("offset", offset.to_string()),
        entry("length", length.to_string()),
    ];
    tensor.data_location = Some(DataLocation::External as i32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::external::Folder;

    #[test]
    fn a_model_in_two_parts_is_the_same_model() {
        let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits/model.onnx");
        let model = Model::decode(std::fs::read(digits).unwrap()).unwrap();
        let parts = model.encode_external("m.onnx").unwrap();
        assert!((parts.model().len() as u64) < parts.data_len() / 50);
        assert_eq!(
            parts.location(),
            model.encode_external("m.onnx").unwrap().location()
        );

        let folder = tempfile::tempdir().unwrap();
        let mut data = Vec::new();
        parts.write_data(&mut data).unwrap();
        assert_eq!(data.len() as u64, parts.data_len());
        std::fs::write(folder.path().join(parts.location()), &data).unwrap();
        let read = Model::decode_with(parts.model().to_vec(), Folder::new(folder.path())).unwrap();
        read.release();
        assert_eq!(read, model);
        assert_eq!(read.encode().unwrap(), model.encode().unwrap());
    }
}
