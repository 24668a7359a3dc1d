//! A model whose tensors stand in another file, of which every byte is the fuzzer's.

use bytes_of::Data;
use onnx_bridge::Model;

mod bytes_of {
    use onnx_bridge::ExternalData;

    /// A file of the model's folder, whatever its name.
    #[derive(Debug)]
    pub(crate) struct Data(pub(crate) Vec<u8>);

    impl ExternalData for Data {
        fn read(&self, _: &str, offset: u64, length: u64) -> Result<bytes::Bytes, String> {
            let end = offset.checked_add(length).ok_or("too far")?;
            let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
            let found = range.and_then(|(from, to)| self.0.get(from..to));
            found
                .map(bytes::Bytes::copy_from_slice)
                .ok_or_else(|| "too short".to_string())
        }
    }
}

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    let at = bytes
        .first()
        .map_or(0, |b| usize::from(*b))
        .min(bytes.len());
    let (data, model) = bytes.split_at(at);
    if let Ok(model) = Model::decode_with(model.to_vec(), Data(data.to_vec())) {
        let _ = onnx_bridge::inspect(&model);
        let _ = model.encode_external("x");
    }
}
