//! Models damaged in many ways, by a seed: decoding, looking at and rewriting them ends in a result or an error, never in a
//! panic, and what is written reads back.

mod common;

use common::{floats, gemm, int, ints, matmul, node, noise, proto, value};
use onnx_bridge::plan::Plan;
use onnx_bridge::proto::{
    AttributeProto, AttributeType, GraphProto, ModelProto, NodeProto, TensorProto,
};
use onnx_bridge::{
    Engine, Format, Growth, Job, Model, Spec, compress, graph_text, inspect, synthesize,
};
use prost::Message;
use quant_core::Bits;

/// Models that are damaged, and plans.
const MODELS: usize = 200_000;
const PLANS: usize = 20_000;

/// One in so many models that decode is rewritten, one in so many given to the engine.
const REWRITTEN: usize = 8;
const LOADED: usize = 150;

/// The most memory that the whole test may have taken: 256 MB above what the engine and the test itself take.
const MOST_MEMORY: u64 = 640 << 20;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn one<'t, T>(&mut self, of: &'t [T]) -> Option<&'t T> {
        if of.is_empty() {
            None
        } else {
            Some(&of[self.below(of.len())])
        }
    }

    /// A number of the sort that breaks things.
    fn number(&mut self) -> i64 {
        const ODD: [i64; 14] = [
            0,
            1,
            -1,
            2,
            3,
            7,
            8,
            16,
            255,
            -128,
            1 << 31,
            i64::MAX,
            i64::MIN,
            1 << 40,
        ];
        ODD[self.below(ODD.len())]
    }
}

/// Models of all that is read and written here.
fn corpus() -> Vec<ModelProto> {
    let rewritten = |format, bits, ranks| {
        let mut spec = Spec::of(format);
        spec.quantization.bits = bits;
        spec.truncation = Some(tn_formats::Truncation::MaxRank(ranks));
        let (model, report) = compress(
            &matmul(32, 48),
            &Job::new(spec).with_growth(Growth::Allowed),
        )
        .unwrap();
        assert_eq!(report.rewritten().count(), 1, "{format:?}");
        model.proto().clone()
    };
    let lookup = {
        let table = floats("table", &[20, 16], |i| noise(3, i));
        let mut ids = value("ids", &[0]);
        ids.r#type = value("ids", &[0]).r#type.map(|mut t| {
            if let Some(onnx_bridge::proto::type_proto::Value::TensorType(t)) = &mut t.value {
                t.elem_type = Some(onnx_bridge::proto::DataType::Int64 as i32);
            }
            t
        });
        let nodes = vec![node("Gather", &["table", "ids"], "y", vec![int("axis", 0)])];
        proto(17, vec![table], nodes, ids, value("y", &[0, 16]))
    };
    let chain = {
        let weight = floats("w", &[24, 16], |i| noise(4, i));
        let nodes = vec![
            node("Transpose", &["w"], "t", vec![ints("perm", &[1, 0])]),
            node("Identity", &["t"], "i", vec![]),
            node("MatMul", &["x", "i"], "h", vec![]),
            node("Relu", &["h"], "y", vec![]),
        ];
        proto(
            13,
            vec![weight],
            nodes,
            value("x", &[0, 16]),
            value("y", &[0, 24]),
        )
    };
    let branches = {
        let body = |name: &str| AttributeProto {
            name: Some(name.into()),
            r#type: Some(AttributeType::Graph as i32),
            g: Some(GraphProto {
                name: Some(name.into()),
                initializer: vec![floats(&format!("{name}_w"), &[16, 8], |i| noise(5, i))],
                node: vec![node(
                    "MatMul",
                    &["x", &format!("{name}_w")],
                    &format!("{name}_y"),
                    vec![],
                )],
                output: vec![value(&format!("{name}_y"), &[0, 8])],
                ..Default::default()
            }),
            ..Default::default()
        };
        let condition = TensorProto {
            name: Some("c".into()),
            data_type: Some(onnx_bridge::proto::DataType::Bool as i32),
            raw_data: Some(vec![1].into()),
            ..Default::default()
        };
        let nodes = vec![node(
            "If",
            &["c"],
            "y",
            vec![body("then_branch"), body("else_branch")],
        )];
        proto(
            17,
            vec![condition],
            nodes,
            value("x", &[0, 16]),
            value("y", &[0, 8]),
        )
    };
    vec![
        matmul(24, 16).proto().clone(),
        gemm(16, 24, vec![int("transB", 1)]).proto().clone(),
        rewritten(Format::LowRank, Bits::B3, 4),
        rewritten(Format::Tt, Bits::B8, 3),
        rewritten(Format::Tucker, Bits::B5, 4),
        rewritten(Format::Dense, Bits::B4, 1),
        lookup,
        chain,
        branches,
    ]
}

fn graph_of(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.get_or_insert_default()
}

/// Some name that the graph uses.
fn a_name(graph: &GraphProto, random: &mut Random) -> String {
    let nodes = graph
        .node
        .iter()
        .flat_map(|n| n.input.iter().chain(&n.output).cloned());
    let stored = graph.initializer.iter().map(|t| t.name().to_string());
    let mut names: Vec<String> = nodes.chain(stored).collect();
    names.extend([
        String::new(),
        "\u{0}".into(),
        "../../etc/passwd".into(),
        "x".repeat(2000),
    ]);
    random.one(&names).cloned().unwrap_or_default()
}

fn damage_tensor(tensor: &mut TensorProto, random: &mut Random) {
    match random.below(10) {
        0 => tensor.dims.swap_remove_at(random),
        1 => tensor.dims.push(random.number()),
        2 => {
            let (at, number) = (random.below(tensor.dims.len()), random.number());
            if let Some(dim) = tensor.dims.get_mut(at) {
                *dim = number;
            }
        }
        3 => tensor.dims.reverse(),
        4 => tensor.data_type = Some(random.below(30) as i32 - 2),
        5 => tensor.raw_data = None,
        6 => {
            let raw = tensor.raw_data.clone().unwrap_or_default();
            tensor.raw_data = Some(raw.slice(..random.below(raw.len() + 1)));
        }
        7 => {
            // Numbers that are none: NaN, infinite, denormal.
            let odd = [
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                1e-45,
                f32::MAX,
                -0.0,
            ];
            let value = odd[random.below(odd.len())].to_le_bytes();
            let mut raw = tensor.raw_data.clone().unwrap_or_default().to_vec();
            let every = 1 + random.below(40);
            raw.chunks_exact_mut(4)
                .step_by(every)
                .for_each(|c| c.copy_from_slice(&value));
            tensor.raw_data = Some(raw.into());
        }
        8 => {
            tensor.float_data = vec![1.5; random.below(800)];
            if random.below(2) == 0 {
                tensor.raw_data = None;
            }
        }
        _ => tensor.data_location = Some(random.below(3) as i32),
    }
}

/// Removing at random, of vectors of any kind.
trait SwapRemoveAt {
    fn swap_remove_at(&mut self, random: &mut Random);
}

impl<T> SwapRemoveAt for Vec<T> {
    fn swap_remove_at(&mut self, random: &mut Random) {
        if !self.is_empty() {
            self.swap_remove(random.below(self.len()));
        }
    }
}

const OPERATORS: [&str; 19] = [
    "MatMul",
    "Gemm",
    "Add",
    "Mul",
    "Reshape",
    "Transpose",
    "Cast",
    "Identity",
    "Gather",
    "Conv",
    "DequantizeLinear",
    "Mod",
    "Floor",
    "Concat",
    "If",
    "Loop",
    "Constant",
    "Shape",
    "",
];

const ATTRIBUTES: [&str; 12] = [
    "perm",
    "axis",
    "transA",
    "transB",
    "alpha",
    "beta",
    "to",
    "value",
    "allowzero",
    "kernel_shape",
    "group",
    "body",
];

fn damage_node(node: &mut NodeProto, name: String, random: &mut Random) {
    let place = |names: &mut Vec<String>, random: &mut Random, name: String| match random.below(4) {
        0 => names.swap_remove_at(random),
        1 => names.push(name),
        _ => {
            let at = random.below(names.len());
            if let Some(old) = names.get_mut(at) {
                *old = name;
            }
        }
    };
    match random.below(8) {
        0 | 1 => place(&mut node.input, random, name),
        2 => place(&mut node.output, random, name),
        3 => node.op_type = random.one(&OPERATORS).map(|op| (*op).to_string()),
        4 => node.attribute.swap_remove_at(random),
        5 => node.domain = Some(["", "ai.onnx", "com.microsoft", "?"][random.below(4)].into()),
        6 => {
            let at = random.below(node.attribute.len());
            let (number, kind) = (random.number(), random.below(16) as i32);
            if let Some(attribute) = node.attribute.get_mut(at) {
                attribute.i = Some(number);
                attribute.ints = vec![number; random.below(6)];
                attribute.r#type = Some(kind);
            }
        }
        _ => {
            let mut attribute = int(ATTRIBUTES[random.below(ATTRIBUTES.len())], random.number());
            if random.below(2) == 0 {
                attribute = ints(attribute.name(), &vec![random.number(); random.below(6)]);
            }
            node.attribute.push(attribute);
        }
    }
}

fn damage(model: &mut ModelProto, random: &mut Random) {
    let name = a_name(graph_of(model), random);
    let kind = random.below(16);
    match kind {
        0 => model.ir_version = Some(random.number()),
        1 => {
            let version = random.below(40) as i64 - 2;
            if let Some(opset) = model.opset_import.first_mut() {
                opset.version = Some(version);
            }
        }
        2 => model.opset_import.swap_remove_at(random),
        3..=6 => {
            let tensors = &mut graph_of(model).initializer;
            let at = random.below(tensors.len());
            if let Some(tensor) = tensors.get_mut(at) {
                damage_tensor(tensor, random);
            }
        }
        7..=10 => {
            let nodes = &mut graph_of(model).node;
            let at = random.below(nodes.len());
            if let Some(node) = nodes.get_mut(at) {
                damage_node(node, name, random);
            }
        }
        11 => graph_of(model).node.swap_remove_at(random),
        12 => {
            let graph = graph_of(model);
            if let Some(node) = random.one(&graph.node).cloned() {
                graph.node.insert(random.below(graph.node.len()), node);
            }
        }
        13 => {
            let graph = graph_of(model);
            match random.below(4) {
                0 => graph.input.swap_remove_at(random),
                1 => graph.output.swap_remove_at(random),
                2 => graph.initializer.swap_remove_at(random),
                _ => graph
                    .output
                    .push(value(&name, &[random.below(3), random.below(99)])),
            }
        }
        14 => {
            let tensors = &mut graph_of(model).initializer;
            if let Some(tensor) = tensors.first_mut() {
                tensor.name = Some(name);
            }
        }
        _ => {
            // A graph inside its own node, some levels deep.
            let mut inner = graph_of(model).clone();
            for _ in 0..random.below(12) {
                let mut holder = node("If", &["c"], "deep", vec![]);
                holder.attribute.push(AttributeProto {
                    name: Some("then_branch".into()),
                    r#type: Some(AttributeType::Graph as i32),
                    g: Some(inner),
                    ..Default::default()
                });
                inner = GraphProto {
                    node: vec![holder],
                    ..Default::default()
                };
            }
            graph_of(model).node.extend(inner.node);
        }
    }
}

/// Changes of single bytes and runs of them.
fn damage_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next() as u8),
            4 => drop(bytes.remove(at)),
            _ => {
                let end = (at + random.below(60)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

fn a_job(random: &mut Random) -> Job {
    let formats = [Format::Tt, Format::LowRank, Format::Tucker, Format::Dense];
    let mut spec = match random.below(5) {
        4 => Spec::default(),
        k => Spec::of(formats[k]),
    };
    let bits = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];
    spec.quantization.bits = bits[random.below(bits.len())];
    Job::new(spec).with_growth(Growth::Allowed)
}

#[test]
fn damaged_models_are_errors_or_models() {
    let corpus = corpus();
    let mut random = Random(2026);
    let (mut decoded, mut rewritten, mut ran) = (0, 0, 0);
    for k in 0..MODELS {
        let mut model = corpus[k % corpus.len()].clone();
        for _ in 0..=random.below(3) {
            damage(&mut model, &mut random);
        }
        let mut bytes = model.encode_to_vec();
        if random.below(3) == 0 {
            damage_bytes(&mut bytes, &mut random);
        }
        let Ok(model) = Model::decode(bytes) else {
            continue;
        };
        decoded += 1;
        let seen = inspect(&model);
        let sum: u64 = seen.weights.iter().map(|w| w.bytes).sum();
        assert_eq!(sum + seen.rest_bytes, seen.file_bytes, "case {k}");
        let _ = graph_text(&model);
        if decoded % REWRITTEN == 0 {
            // A model that cannot be written after all is an error; one that can be reads back.
            if let Ok((written, report)) = compress(&model, &a_job(&mut random)) {
                rewritten += report.rewritten().count();
                let bytes = written.encode().unwrap();
                assert!(Model::decode(bytes).is_ok(), "case {k} does not read back");
            }
        }
        if decoded % LOADED == 0
            && let Ok(data) = synthesize(&model, 2, 0)
            && let Ok(engine) = Engine::load(&model)
        {
            ran += usize::from(engine.run_samples(&data, 0..2).is_ok());
        }
    }
    let counts = [decoded, rewritten, ran];
    assert!(
        decoded > MODELS / 10 && rewritten > 100 && ran > 10,
        "{counts:?}"
    );
    assert!(peak_memory() < MOST_MEMORY, "{} bytes", peak_memory());
}

#[test]
fn damaged_plans_are_errors_or_plans() {
    let text = br#"{"schema":1,"base":"ab","goal":{"bytes":9000000,"loss":0.5,"drop":null,"speed":2.0},"weights":[
      {"name":"w","op":"MatMul","shape":[8,8],"choice":{"form":"dense","format":{"levels":6,"block":8}},
      "bytes_before":256,"bytes":34,"predicted_loss":0.1},{"name":"v","op":"Gather","shape":[90,8],"choice":{"form":
      "low-rank","rank":3,"format":{"levels":16,"block":128}},"bytes_before":256,"bytes":34,"predicted_loss":1e-9}],
      "predicted_loss":0.1,"bytes":100}"#;
    let words: [&[u8]; 9] = [
        b"1e999",
        b"-1",
        b"null",
        b"[]",
        b"{}",
        b"18446744073709551616",
        b"\"\\ud800\"",
        b"\"corrected\"",
        b"[[[[[[[[",
    ];
    assert_eq!(
        serde_json::from_slice::<Plan>(text).unwrap().weights.len(),
        2
    );
    let mut random = Random(7);
    let mut read = 0;
    for _ in 0..PLANS {
        let mut bytes = text.to_vec();
        if random.below(2) == 0 {
            let (at, word) = (random.below(bytes.len()), words[random.below(words.len())]);
            let end = (at + random.below(12)).min(bytes.len());
            bytes.splice(at..end, word.iter().copied());
        } else {
            damage_bytes(&mut bytes, &mut random);
        }
        read += usize::from(serde_json::from_slice::<Plan>(&bytes).is_ok());
    }
    assert!(read > 100 && read < PLANS / 2, "{read}");
}

/// The most memory that this process has held at once; 0 where the system does not say.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    1024 * kilobytes.unwrap_or(0)
}
