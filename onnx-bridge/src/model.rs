//! A decoded and validated model.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::error::{Error, Result};
use crate::external::{ExternalData, NoExternalData};
use crate::proto::{self, GraphProto, ModelProto, OperatorSetIdProto};
use crate::validate;

/// The most that one protobuf message can hold.
pub(crate) const PROTOBUF_LIMIT: u64 = (1 << 31) - 1;

/// An ONNX model that keeps the rules which the rest of this crate relies on: every value is defined once, every name
/// refers to a value, every tensor's data fits its shape, external data is in memory.
///
/// ```
/// use onnx_bridge::{Error, Model};
///
/// let error = Model::decode(&b"# a readme"[..]).unwrap_err();
/// assert!(matches!(error, Error::Text { .. }));
/// ```
#[derive(Debug, Clone)]
pub struct Model {
    proto: ModelProto,
    /// Where the data of external tensors came from.
    external: Arc<dyn ExternalData>,
}

/// Two models are equal where their messages are.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.proto == other.proto
    }
}

impl Model {
    /// Decodes a model that stands in one file.
    ///
    /// # Errors
    /// [`Error::Empty`], [`Error::Text`], [`Error::Decode`] for bytes that are no model; [`Error::IrVersion`] for a
    /// model newer than the schema; the other variants for a model that breaks a rule of ONNX, and
    /// [`Error::External`] for one that refers to other files.
    pub fn decode(bytes: impl Into<Bytes>) -> Result<Self> {
        Self::decode_with(bytes, NoExternalData)
    }

    /// Decodes a model and takes in the tensors that it keeps in other files, a range of bytes for each; several may share one range.
    ///
    /// # Errors
    /// As [`Model::decode`]; [`Error::External`] for a location that leaves the folder, a missing file, a range
    /// outside the file, ranges that overlap in part.
    pub fn decode_with(
        bytes: impl Into<Bytes>,
        external: impl ExternalData + 'static,
    ) -> Result<Self> {
        let bytes: Bytes = bytes.into();
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        let mut proto =
            ModelProto::decode(bytes.clone()).map_err(|source| refuse(&bytes, source))?;
        if proto.graph.is_none() && looks_like_text(&bytes) {
            return Err(text_error(&bytes));
        }
        check_version(&proto)?;
        crate::external::resolve(&mut proto, &external)?;
        Ok(Self {
            external: Arc::new(external),
            ..Self::from_proto(proto)?
        })
    }

    /// Takes a message that was built in memory, with the same checks as a decoded one.
    ///
    /// # Errors
    /// Those of [`Model::decode`] that concern the content.
    pub fn from_proto(proto: ModelProto) -> Result<Self> {
        check_version(&proto)?;
        validate::model(&proto)?;
        Ok(Self {
            proto,
            external: Arc::new(NoExternalData),
        })
    }

    /// The message that this model encodes to.
    pub fn proto(&self) -> &ModelProto {
        &self.proto
    }

    /// The main graph.
    pub fn graph(&self) -> &GraphProto {
        self.proto
            .graph
            .as_ref()
            .expect("validation refuses a model without a graph")
    }

    /// The version of the standard operators.
    pub fn opset(&self) -> i64 {
        let standard = self
            .proto
            .opset_import
            .iter()
            .find(|o| proto::is_standard_domain(o.domain()));
        standard.map_or(1, OperatorSetIdProto::version)
    }

    /// The version of the file format.
    pub fn ir_version(&self) -> i64 {
        self.proto.ir_version()
    }

    /// The bytes that [`Model::encode`] writes.
    pub fn encoded_len(&self) -> u64 {
        self.proto.encoded_len() as u64
    }

    /// Encodes the model into one file. A model that was decoded from one file in the schema's field order, as
    /// every exporter writes it, encodes to the same bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`] above 2 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let found = self.encoded_len();
        if found > PROTOBUF_LIMIT {
            return Err(Error::TooLarge {
                limit: PROTOBUF_LIMIT,
                found,
            });
        }
        Ok(self.proto.encode_to_vec())
    }

    /// The same model with another main graph, and with the domains that it needs beside its own.
    ///
    /// # Errors
    /// Those of [`Model::from_proto`].
    pub(crate) fn with_graph(
        &self,
        graph: GraphProto,
        domains: &BTreeMap<String, i64>,
    ) -> Result<Self> {
        let mut proto = self.proto.clone();
        proto.graph = Some(graph);
        for (domain, version) in domains {
            if !proto.opset_import.iter().any(|o| o.domain() == domain) {
                proto.opset_import.push(OperatorSetIdProto {
                    domain: Some(domain.clone()),
                    version: Some(*version),
                });
            }
        }
        self.with_proto(proto)
    }

    /// Another message that refers to the same external data.
    ///
    /// # Errors
    /// Those of [`Model::from_proto`].
    pub(crate) fn with_proto(&self, proto: ModelProto) -> Result<Self> {
        Ok(Self {
            external: Arc::clone(&self.external),
            ..Self::from_proto(proto)?
        })
    }

    /// Gives back the memory of external data: see [`ExternalData::release`].
    pub fn release(&self) {
        self.external.release();
    }
}

fn check_version(proto: &ModelProto) -> Result<()> {
    let found = match proto.ir_version {
        Some(v) => v,
        None => {
            return Err(Error::MissingField {
                place: "model".into(),
                field: "ir_version",
            });
        }
    };
    if (1..=proto::NEWEST_IR_VERSION).contains(&found) {
        Ok(())
    } else {
        Err(Error::IrVersion {
            found,
            newest: proto::NEWEST_IR_VERSION,
        })
    }
}

fn refuse(bytes: &Bytes, source: prost::DecodeError) -> Error {
    if looks_like_text(bytes) {
        text_error(bytes)
    } else {
        Error::Decode {
            bytes: bytes.len(),
            source,
        }
    }
}

fn text_error(bytes: &[u8]) -> Error {
    let start: String = String::from_utf8_lossy(&bytes[..bytes.len().min(64)])
        .chars()
        .take(24)
        .collect();
    Error::Text { start }
}

fn looks_like_text(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(512)];
    let valid = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&head[..e.valid_up_to()]).unwrap_or("")
        }
        Err(_) => return false,
    };
    !valid.is_empty()
        && valid
            .chars()
            .all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}
