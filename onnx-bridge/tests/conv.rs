//! Convolutions rewritten: every form, window and width runs in tract and agrees with the dense reconstruction of the same
//! codes.

#![cfg(feature = "tract")]

mod common;

use common::{floats, int, ints, node, noise, proto, value};
use onnx_bridge::proto::{AttributeProto, AttributeType};
use onnx_bridge::{
    CoreGranularity, Format, Growth, Job, MappingChoice, Model, Outcome, Quantization, SkipReason,
    Spec, Verdict, compress, dense_reference, inspect, verify_synthesized,
};
use quant_core::Bits;
use tn_formats::Truncation;

/// A convolution of an image `size` with open batch; `weight` is the shape of its kernel.
struct Case {
    label: &'static str,
    op: &'static str,
    weight: &'static [usize],
    channels: usize,
    size: &'static [usize],
    attributes: Vec<AttributeProto>,
}

impl Case {
    fn model(&self) -> Model {
        let group = self.attributes.iter().find(|a| a.name() == "group");
        let outputs = match self.op {
            "Conv" => self.weight[0],
            _ => self.weight[1] * group.map_or(1, |g| g.i() as usize),
        };
        let initializer = vec![
            floats("w", self.weight, |i| noise(1, i)),
            floats("b", &[outputs], |i| noise(2, i)),
        ];
        let nodes = vec![node(
            self.op,
            &["x", "w", "b"],
            "y",
            self.attributes.clone(),
        )];
        let shape: Vec<usize> = [0, self.channels]
            .iter()
            .chain(self.size)
            .copied()
            .collect();
        let mut output = value("y", &[0]);
        output.r#type = None;
        let input = value("x", &shape);
        let mut made = proto(13, initializer, nodes, input, output);
        // An output without a stated shape: what it is follows from the window.
        made.graph.as_mut().unwrap().output = vec![onnx_bridge::proto::ValueInfoProto {
            name: Some("y".into()),
            ..Default::default()
        }];
        Model::from_proto(made).unwrap()
    }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto {
        name: Some(name.into()),
        r#type: Some(AttributeType::String as i32),
        s: Some(value.as_bytes().to_vec()),
        ..Default::default()
    }
}

fn cases() -> Vec<Case> {
    let case = |label, op, weight, channels, size, attributes| Case {
        label,
        op,
        weight,
        channels,
        size,
        attributes,
    };
    vec![
        case("plain", "Conv", &[12, 10, 3, 3], 10, &[9, 8], vec![]),
        case(
            "strided, padded, dilated",
            "Conv",
            &[12, 10, 3, 5],
            10,
            &[13, 14],
            vec![
                ints("kernel_shape", &[3, 5]),
                ints("strides", &[2, 1]),
                ints("dilations", &[1, 2]),
                ints("pads", &[1, 0, 2, 3]),
            ],
        ),
        case(
            "same, above",
            "Conv",
            &[12, 10, 4, 3],
            10,
            &[9, 8],
            vec![text("auto_pad", "SAME_UPPER"), ints("strides", &[2, 2])],
        ),
        case(
            "same, below",
            "Conv",
            &[12, 10, 2, 3],
            10,
            &[9, 8],
            vec![text("auto_pad", "SAME_LOWER")],
        ),
        case(
            "valid",
            "Conv",
            &[12, 10, 2, 3],
            10,
            &[9, 8],
            vec![text("auto_pad", "VALID"), ints("strides", &[1, 2])],
        ),
        case(
            "one place, strided",
            "Conv",
            &[24, 20, 1, 1],
            20,
            &[5, 6],
            vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 0, 0])],
        ),
        case(
            "one axis",
            "Conv",
            &[12, 10, 5],
            10,
            &[17],
            vec![ints("pads", &[2, 2])],
        ),
        case(
            "three axes, one of one place",
            "Conv",
            &[8, 6, 3, 1, 2],
            6,
            &[5, 4, 5],
            vec![
                ints("strides", &[1, 2, 2]),
                ints("pads", &[1, 1, 0, 1, 0, 1]),
            ],
        ),
        case(
            "groups",
            "Conv",
            &[12, 5, 3, 3],
            10,
            &[6, 6],
            vec![int("group", 2)],
        ),
        case(
            "depthwise",
            "Conv",
            &[64, 1, 3, 3],
            64,
            &[6, 6],
            vec![int("group", 64), ints("pads", &[1, 1, 1, 1])],
        ),
        case(
            "transposed",
            "ConvTranspose",
            &[12, 10, 3, 4],
            12,
            &[4, 5],
            vec![
                ints("strides", &[2, 3]),
                ints("pads", &[1, 0, 0, 2]),
                ints("output_padding", &[1, 0]),
            ],
        ),
        case(
            "transposed, one axis",
            "ConvTranspose",
            &[12, 10, 3],
            12,
            &[7],
            vec![ints("dilations", &[2])],
        ),
        case(
            "transposed groups",
            "ConvTranspose",
            &[12, 5, 3, 3],
            12,
            &[4, 5],
            vec![int("group", 3), ints("strides", &[2, 2])],
        ),
    ]
}

fn spec(format: Format, bits: u8, mapping: MappingChoice, granularity: CoreGranularity) -> Spec {
    Spec {
        quantization: Quantization {
            bits: Bits::new(bits).unwrap(),
            mapping,
            granularity,
        },
        truncation: Some(Truncation::MaxRank(4)),
        ..Spec::of(format)
    }
}

fn granularities() -> [CoreGranularity; 3] {
    let block = CoreGranularity::Block(std::num::NonZeroUsize::new(7).unwrap());
    [CoreGranularity::Core, CoreGranularity::Axis, block]
}

/// What the model says that its kernel can become.
fn formats(model: &Model) -> Vec<Format> {
    match &inspect(model).weights[0].verdict {
        Verdict::CanBecome {
            formats, refused, ..
        } => {
            assert_eq!(formats.len() + refused.len(), Format::ALL.len());
            formats.clone()
        }
        Verdict::Stays(reason) => panic!("{reason}"),
    }
}

fn check(label: &str, model: &Model, spec: &Spec) {
    let job = Job::new(spec.clone()).with_growth(Growth::Allowed);
    let (rewritten, report) = compress(model, &job).unwrap();
    let outcome = &report.weights[0].outcome;
    assert!(
        matches!(outcome, Outcome::Rewritten(_)),
        "{label}: {outcome:?}"
    );
    let bytes = rewritten.encode().unwrap();
    assert_eq!(Model::decode(bytes.clone()).unwrap(), rewritten, "{label}");
    let again = compress(model, &job).unwrap().0.encode().unwrap();
    assert_eq!(again, bytes, "{label}: a second run");
    let reference = dense_reference(model, &report).unwrap();
    let found = verify_synthesized(&reference, &rewritten, 3, 1).unwrap();
    assert!(found.relative_l2 < 1e-5, "{label}: {found:?}");
}

#[test]
fn every_window_in_every_form() {
    for case in cases() {
        let model = case.model();
        let formats = formats(&model);
        assert!(formats.contains(&Format::Dense), "{}", case.label);
        for format in formats {
            for granularity in granularities() {
                let label = format!("{} {} {granularity:?}", case.label, format.name());
                let spec = spec(format, 8, MappingChoice::Symmetric, granularity);
                check(&label, &model, &spec);
            }
        }
    }
}

#[test]
fn every_width_and_scale() {
    let model = cases()[1].model();
    for format in Format::ALL {
        for bits in 2..=8 {
            for mapping in [MappingChoice::Symmetric, MappingChoice::Affine] {
                for granularity in granularities() {
                    let label = format!("{} {bits} {mapping:?} {granularity:?}", format.name());
                    check(&label, &model, &spec(format, bits, mapping, granularity));
                }
            }
        }
    }
}

#[test]
fn groups_have_only_dense_codes_and_say_why() {
    for (case, channels) in cases().into_iter().filter_map(|case| {
        let weight = case.weight;
        (case.label == "groups" || case.label == "depthwise").then_some((case, weight[1]))
    }) {
        let model = case.model();
        assert_eq!(formats(&model), [Format::Dense], "{}", case.label);
        let spec = Spec::of(Format::Tucker);
        let (same, report) = compress(&model, &Job::new(spec)).unwrap();
        assert_eq!(same, model);
        let Outcome::Skipped(SkipReason::Grouped {
            channels: found, ..
        }) = &report.weights[0].outcome
        else {
            panic!("{:?}", report.weights[0].outcome);
        };
        assert_eq!(*found, channels);
    }
}

#[test]
fn a_kernel_of_low_rank_becomes_tucker_of_those_ranks() {
    // Two input channels and three output channels say it all.
    let (out, inner) = (24, 20);
    let weight = floats("w", &[out, inner, 3, 3], |i| {
        let (tap, c, o) = (i % 9, i / 9 % inner, i / 9 / inner);
        let mut sum = 0.0;
        for a in 0..3 {
            for b in 0..2 {
                let core = noise(9, (a * 2 + b) * 9 + tap);
                sum += noise(7, o * 3 + a) * core * noise(8, c * 2 + b);
            }
        }
        sum
    });
    let nodes = vec![node("Conv", &["x", "w"], "y", vec![])];
    let model = Model::from_proto(proto(
        17,
        vec![weight],
        nodes,
        value("x", &[0, inner, 7, 7]),
        value("y", &[0, out, 5, 5]),
    ))
    .unwrap();
    let (_, report) = compress(&model, &Job::default().with_growth(Growth::Allowed)).unwrap();
    let (_, rewritten) = report.rewritten().next().unwrap();
    assert_eq!(rewritten.format, Format::Tucker);
    assert_eq!(rewritten.ranks, [2, 3]);
    assert!(rewritten.error < 0.03, "{}", rewritten.error);
}

#[test]
fn a_kernel_that_is_too_large_to_fold_is_joined_again() {
    let weight = floats("w", &[400, 300, 3, 3], |i| noise(4, i));
    let nodes = vec![node("Conv", &["x", "w"], "y", vec![])];
    let model = Model::from_proto(proto(
        17,
        vec![weight],
        nodes,
        value("x", &[0, 300, 4, 4]),
        value("y", &[0, 400, 2, 2]),
    ))
    .unwrap();
    let dense = spec(
        Format::Dense,
        8,
        MappingChoice::Symmetric,
        CoreGranularity::Axis,
    );
    check("400x300x3x3", &model, &dense);
    let (rewritten, _) = compress(&model, &Job::new(dense)).unwrap();
    for tensor in &rewritten.graph().initializer {
        let elements = tensor.dims.iter().product::<i64>();
        assert!(elements <= onnx_bridge::FOLDED_ELEMENTS as i64);
    }
}

#[test]
fn a_shared_kernel_is_stored_once() {
    let weight = floats("w", &[16, 16, 3, 3], |i| noise(4, i));
    let nodes = vec![
        node("Conv", &["x", "w"], "h", vec![ints("pads", &[1, 1, 1, 1])]),
        node("Conv", &["h", "w"], "y", vec![ints("strides", &[2, 2])]),
    ];
    let model = Model::from_proto(proto(
        17,
        vec![weight],
        nodes,
        value("x", &[0, 16, 7, 7]),
        value("y", &[0, 16, 3, 3]),
    ))
    .unwrap();
    for format in Format::ALL {
        let spec = spec(format, 4, MappingChoice::Symmetric, CoreGranularity::Core);
        check(format.name(), &model, &spec);
    }
}

/// Kernels in every form are trained toward the original, and the file holds what was measured.
#[cfg(feature = "finetune")]
#[test]
fn training_brings_kernels_to_their_teacher() {
    use onnx_bridge::finetune::{FinetuneConfig, Length, Silent, Start, finetune, interpret};
    use tn_formats::npy::NpyArray;

    let initializer = vec![
        floats("w1", &[16, 8, 3, 3], |i| 0.2 * noise(1, i)),
        floats("b1", &[16], |i| 0.1 * noise(2, i)),
        floats("w2", &[12, 16, 3], |i| 0.3 * noise(3, i)),
        floats("b2", &[12], |i| 0.1 * noise(4, i)),
        common::floats("w3", &[12, 5], |i| noise(5, i)),
    ];
    let flat = onnx_bridge::proto::TensorProto {
        name: Some("line".into()),
        dims: vec![3],
        data_type: Some(onnx_bridge::proto::DataType::Int64 as i32),
        int64_data: vec![0, 16, -1],
        ..Default::default()
    };
    let nodes = vec![
        node(
            "Conv",
            &["x", "w1", "b1"],
            "c1",
            vec![ints("pads", &[1, 1, 1, 1])],
        ),
        node("Relu", &["c1"], "r1", vec![]),
        node(
            "MaxPool",
            &["r1"],
            "p1",
            vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
        ),
        node("Reshape", &["p1", "line"], "l1", vec![]),
        node(
            "Conv",
            &["l1", "w2", "b2"],
            "c2",
            vec![ints("strides", &[2])],
        ),
        node("Relu", &["c2"], "r2", vec![]),
        node("GlobalAveragePool", &["r2"], "g", vec![]),
        node("Flatten", &["g"], "f", vec![]),
        node("MatMul", &["f", "w3"], "y", vec![]),
    ];
    let initializer = initializer.into_iter().chain([flat]).collect();
    let (x, y) = (value("x", &[0, 8, 6, 6]), value("y", &[0, 5]));
    let teacher = Model::from_proto(proto(17, initializer, nodes, x, y)).unwrap();
    let x: Vec<f32> = (0..256 * 288).map(|i| noise(9, i)).collect();
    let x = ndarray::Array::from_shape_vec((256, 8, 6, 6), x).unwrap();
    let data = onnx_bridge::Dataset::new(vec![("x".into(), NpyArray::F32(x.into_dyn()))]).unwrap();
    let config = |steps| FinetuneConfig {
        length: Length::Steps(steps),
        batch: Some(32),
        evaluations: 4,
        ..Default::default()
    };
    for format in [Format::Tucker, Format::LowRank, Format::Dense] {
        // Ranks that leave the rounding to be trained away. At 4 bits what low rank loses is cut ranks, which training gains little on.
        let bits = if format == Format::Tucker { 4 } else { 2 };
        let spec = Spec {
            truncation: Some(Truncation::MaxRank(12)),
            ..spec(
                format,
                bits,
                MappingChoice::Symmetric,
                CoreGranularity::Core,
            )
        };
        let job = Job::new(Spec::keep())
            .with_weight("w1", spec.clone())
            .with_weight("w2", spec)
            .with_growth(Growth::Allowed);
        let (student, report) = compress(&teacher, &job).unwrap();
        assert_eq!(report.rewritten().count(), 2);
        let outcome = finetune(
            &teacher,
            &student,
            &data,
            &config(400),
            &Start::default(),
            &mut Silent,
        )
        .unwrap();
        assert!(
            outcome.best_loss < 0.9 * outcome.first_loss,
            "{format:?}: {} -> {}",
            outcome.first_loss,
            outcome.best_loss
        );
        let floats = |arrays: Vec<(String, NpyArray)>| arrays[0].1.to_f32();
        let engine = onnx_bridge::Engine::load(&outcome.model).unwrap();
        let theirs = floats(engine.run_all(&data).unwrap());
        let ours = floats(interpret(&outcome.model, &data).unwrap());
        let gap = (&ours - &theirs).iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(gap < 1e-4, "{format:?}: {gap}");
    }
}
