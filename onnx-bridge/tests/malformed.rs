//! Bytes that are no model, and models that break a rule: an error that names the place, never a panic.

mod common;

use common::{floats, node, proto, value};
use onnx_bridge::proto::ModelProto;
use onnx_bridge::{Error, Folder, Model};

/// A message that decodes well, to be broken.
fn good() -> ModelProto {
    let weight = floats("w", &[3, 2], |i| i as f32);
    let nodes = vec![
        node("MatMul", &["x", "w"], "h", vec![]),
        node("Relu", &["h"], "y", vec![]),
    ];
    proto(
        17,
        vec![weight],
        nodes,
        value("x", &[0, 3]),
        value("y", &[0, 2]),
    )
}

fn bytes(proto: &ModelProto) -> Vec<u8> {
    prost::Message::encode_to_vec(proto)
}

fn check(label: &str, bytes: Vec<u8>, expected: &[&str]) {
    let error = Model::decode(bytes).expect_err(label).to_string();
    for part in expected {
        assert!(
            error.contains(part),
            "{label}: expected {part:?} in {error:?}"
        );
    }
    assert!(
        !error.contains('\n'),
        "{label}: more than a line: {error:?}"
    );
}

#[test]
fn bytes_that_are_no_model() {
    let whole = bytes(&good());
    check("empty", Vec::new(), &["empty file"]);
    check(
        "text",
        b"# A readme\nwith words in it".to_vec(),
        &["text file", "# A readme"],
    );
    check("json", br#"{"ir_version": 8}"#.to_vec(), &["text file"]);
    check("noise", vec![0xff; 64], &["not an ONNX model"]);
    check(
        "cut short",
        whole[..whole.len() / 2].to_vec(),
        &["cut short"],
    );
}

#[test]
fn every_prefix_and_every_damaged_byte_is_an_error_or_a_model() {
    let whole = bytes(&good());
    for end in 0..whole.len() {
        // A prefix that ends between fields may still be a message; it never is a panic.
        let _ = Model::decode(whole[..end].to_vec());
    }
    for at in 0..whole.len() {
        for flip in [0x01, 0x08, 0x80, 0xff] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            if let Ok(model) = Model::decode(damaged) {
                let _ = onnx_bridge::inspect(&model);
            }
        }
    }
}

#[test]
fn models_that_break_a_rule() {
    type Break = fn(&mut ModelProto);
    let table: [(&str, Break, &[&str]); 14] = [
        (
            "weight too short",
            |m| {
                let w = &mut m.graph.as_mut().unwrap().initializer[0];
                w.raw_data = Some(w.raw_data.as_ref().unwrap().slice(..20));
            },
            &["tensor `w`", "raw_data", "24 bytes", "20 bytes"],
        ),
        (
            "too few floats",
            |m| {
                let w = &mut m.graph.as_mut().unwrap().initializer[0];
                (w.raw_data, w.float_data) = (None, vec![1.0; 5]);
            },
            &["tensor `w`", "float_data", "6 elements", "5 elements"],
        ),
        (
            "negative size",
            |m| m.graph.as_mut().unwrap().initializer[0].dims = vec![-3, 2],
            &["tensor `w`", "dims", "-3"],
        ),
        (
            "huge size",
            |m| m.graph.as_mut().unwrap().initializer[0].dims = vec![i64::MAX, 4],
            &["tensor `w`", "dims"],
        ),
        (
            "unknown type",
            |m| m.graph.as_mut().unwrap().initializer[0].data_type = Some(99),
            &["tensor `w`", "data_type", "99"],
        ),
        (
            "undefined input",
            |m| m.graph.as_mut().unwrap().node[1].input[0] = "nowhere".into(),
            &["Relu_y", "input", "nowhere"],
        ),
        (
            "undefined output",
            |m| m.graph.as_mut().unwrap().output[0].name = Some("z".into()),
            &["output", "`z`"],
        ),
        (
            "defined twice",
            |m| m.graph.as_mut().unwrap().node[1].output[0] = "h".into(),
            &["defined once", "`h`"],
        ),
        (
            "no operator",
            |m| m.graph.as_mut().unwrap().node[0].op_type = None,
            &["op_type"],
        ),
        (
            "no result",
            |m| m.graph.as_mut().unwrap().node[0].output.clear(),
            &["MatMul", "output"],
        ),
        ("no opset", |m| m.opset_import.clear(), &["opset_import"]),
        (
            "newer format",
            |m| m.ir_version = Some(999),
            &["ir_version", "999"],
        ),
        ("no graph", |m| m.graph = None, &["graph"]),
        (
            "bad permutation",
            |m| {
                let n = &mut m.graph.as_mut().unwrap().node[1];
                n.op_type = Some("Transpose".into());
                n.attribute = vec![common::ints("perm", &[0, 7])];
            },
            &["perm", "[0, 7]"],
        ),
    ];
    for (label, break_it, expected) in table {
        let mut broken = good();
        break_it(&mut broken);
        check(label, bytes(&broken), expected);
    }
    Model::decode(bytes(&good())).unwrap();
}

#[test]
fn nodes_in_a_circle_and_long_chains_end() {
    let mut circle = good();
    let graph = circle.graph.as_mut().unwrap();
    graph.node.push(node("Identity", &["p"], "q", vec![]));
    graph.node.push(node("Identity", &["q"], "p", vec![]));
    graph.node[1] = node("Add", &["h", "p"], "y", vec![]);
    let mut chain = good();
    let graph = chain.graph.as_mut().unwrap();
    graph.node[0].input[1] = "i20000".into();
    graph.node.push(node("Identity", &["w"], "i0", vec![]));
    for k in 0..20_000 {
        let (from, to) = (format!("i{k}"), format!("i{}", k + 1));
        graph
            .node
            .push(node("Identity", &[from.as_str()], &to, vec![]));
    }
    for proto in [circle, chain] {
        let model = Model::decode(bytes(&proto)).unwrap();
        assert_eq!(onnx_bridge::inspect(&model).weights.len(), 1);
    }
}

#[test]
fn external_data_stays_in_its_folder() {
    let folder = std::env::temp_dir().join(format!("tnq-external-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("w.bin"), [0u8; 32]).unwrap();
    let external = |location: &str, offset: &str, length: &str| {
        let mut proto = good();
        let w = &mut proto.graph.as_mut().unwrap().initializer[0];
        w.raw_data = None;
        w.data_location = Some(onnx_bridge::proto::DataLocation::External as i32);
        for (key, value) in [
            ("location", location),
            ("offset", offset),
            ("length", length),
        ] {
            let (key, value) = (Some(key.to_string()), Some(value.to_string()));
            w.external_data
                .push(onnx_bridge::proto::StringStringEntryProto { key, value });
        }
        bytes(&proto)
    };
    let refused = [
        ("../w.bin", "0", "24", "inside the model's folder"),
        ("/etc/passwd", "0", "24", "inside the model's folder"),
        ("", "0", "24", "inside the model's folder"),
        ("missing.bin", "0", "24", "No such file"),
        ("w.bin", "16", "24", "32 bytes"),
        ("w.bin", "-1", "24", "offset"),
        ("w.bin", "0", "23", "length"),
        ("w.bin", "18446744073709551615", "24", "32 bytes"),
    ];
    for (location, offset, length, expected) in refused {
        let error = Model::decode_with(external(location, offset, length), Folder::new(&folder))
            .unwrap_err();
        assert!(matches!(error, Error::External { .. }), "{error}");
        assert!(
            error.to_string().contains(expected),
            "expected {expected:?} in {error}"
        );
    }
    let model = Model::decode_with(external("w.bin", "8", "24"), Folder::new(&folder)).unwrap();
    assert_eq!(
        model.graph().initializer[0]
            .raw_data
            .as_ref()
            .unwrap()
            .len(),
        24
    );
    assert!(matches!(
        Model::decode(external("w.bin", "8", "24")),
        Err(Error::External { .. })
    ));

    // A second tensor may stand in the same place, as tied weights do, but not across another's.
    let twice = |offset: &str| {
        let mut proto: ModelProto =
            prost::Message::decode(&external("w.bin", "8", "24")[..]).unwrap();
        let graph = proto.graph.as_mut().unwrap();
        let mut second = graph.initializer[0].clone();
        second.name = Some("second".to_string());
        second.external_data[1].value = Some(offset.to_string());
        graph.initializer.push(second);
        Model::decode_with(bytes(&proto), Folder::new(&folder))
    };
    assert!(twice("8").is_ok());
    for offset in ["0", "4"] {
        let error = twice(offset).unwrap_err();
        assert!(error.to_string().contains("overlapping"), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
