//! Planning for convolutions: their windows are rows of a matrix like any other.

#![cfg(feature = "tract")]

mod common;

use common::{floats, ints, node, noise, proto, value};
use ndarray::Array;
use onnx_bridge::calibrate::Target;
use onnx_bridge::plan::{Candidate, Goal, MemoryStore, Planned, Session, compress_planned, replay};
use onnx_bridge::proto::AttributeProto;
use onnx_bridge::{Dataset, Model, RunsOn};
use tn_formats::npy::NpyArray;

/// Two convolutions of 32 channels over images of ten by nine, the first with these attributes.
fn model(attributes: Vec<AttributeProto>) -> Model {
    let initializer = vec![
        floats("w1", &[32, 32, 3, 3], |i| 0.1 * noise(1, i)),
        floats("b1", &[32], |i| 0.2 * noise(2, i)),
        floats("w2", &[24, 32, 3, 2], |i| 0.1 * noise(3, i)),
    ];
    let nodes = vec![
        node("Conv", &["x", "w1", "b1"], "c", attributes),
        node("Relu", &["c"], "r", vec![]),
        node("Conv", &["r", "w2"], "y", vec![]),
    ];
    let mut output = value("y", &[0, 24, 0, 0]);
    output.r#type = None;
    let input = value("x", &[0, 32, 10, 9]);
    Model::from_proto(proto(17, initializer, nodes, input, output)).unwrap()
}

/// Images whose 32 channels are mixtures of six.
fn data() -> Dataset {
    let x = Array::from_shape_fn((48, 32, 10, 9), |(n, c, h, w)| {
        let place = (n * 10 + h) * 9 + w;
        let mixed = (0..6).map(|k| noise(7, c * 6 + k) * noise(8 + k as u64, place));
        mixed.sum::<f32>() + 0.05 * noise(20, place * 32 + c)
    });
    Dataset::new(vec![("x".into(), NpyArray::F32(x.into_dyn()))]).unwrap()
}

fn session<'a>(
    data: &'a Dataset,
    goal: Goal,
    store: &'a MemoryStore,
    allow: &'a (dyn Fn(&Target, &Candidate) -> bool + Sync),
) -> Session<'a> {
    Session {
        data,
        goal,
        runs_on: RunsOn::Portable,
        allow,
        store,
        progress: &|_, _, _| {},
    }
}

fn planned(
    model: &Model,
    data: &Dataset,
    goal: Goal,
    allow: &(dyn Fn(&Target, &Candidate) -> bool + Sync),
) -> Planned {
    let store = MemoryStore::default();
    compress_planned(model, &session(data, goal, &store, allow)).unwrap()
}

#[test]
fn windows_run_here_give_what_tract_gives() {
    let same = |way: &str| AttributeProto {
        name: Some("auto_pad".into()),
        r#type: Some(onnx_bridge::proto::AttributeType::String as i32),
        s: Some(way.as_bytes().to_vec()),
        ..Default::default()
    };
    let windows = [
        vec![],
        vec![ints("pads", &[1, 0, 2, 1]), ints("strides", &[2, 1])],
        vec![ints("dilations", &[2, 3])],
        vec![same("SAME_UPPER"), ints("strides", &[2, 2])],
        vec![same("SAME_LOWER"), ints("strides", &[3, 2])],
        vec![same("VALID")],
    ];
    for window in windows {
        let label = format!("{window:?}");
        let model = model(window);
        let kept = planned(&model, &data(), Goal::default(), &|_, c| {
            *c == Candidate::Keep
        });
        let loss = kept.verification.relative_l2;
        assert!(loss < 1e-5, "{label}: {loss}");
    }
}

#[test]
fn kernels_are_chosen_for_a_size_and_a_plan_replays() {
    let (model, data) = (model(vec![ints("pads", &[1, 1, 1, 1])]), data());
    let goal = Goal {
        bytes: Some(model.encoded_len() / 8),
        ..Goal::default()
    };
    let every = planned(&model, &data, goal, &|_, _| true);
    assert_eq!(every.blocking, None);
    assert!(every.model.encode().unwrap().len() as u64 <= model.encoded_len() / 8);
    assert_eq!(every.plan.weights.len(), 2);
    let (store, all) = (MemoryStore::default(), |_: &Target, _: &Candidate| true);
    let again = replay(&model, &session(&data, goal, &store, &all), &every.plan).unwrap();
    assert_eq!(again.model, every.model);
    let dense = planned(&model, &data, goal, &|_, c| {
        matches!(c, Candidate::Dense { .. })
    });
    let [every, dense] = [every, dense].map(|p| p.verification.relative_l2);
    assert!(every <= 1.02 * dense, "{every} {dense}");
}

#[test]
fn tucker_follows_what_the_windows_hold() {
    let (model, data) = (model(vec![ints("strides", &[2, 2])]), data());
    let tucker = |data: &Dataset| {
        let goal = Goal {
            bytes: Some(model.encoded_len() / 6),
            ..Goal::default()
        };
        let found = planned(&model, data, goal, &|t, c| {
            matches!(c, Candidate::Kernel { .. }) || (t.name() != "w1" && *c == Candidate::Keep)
        });
        let nodes = &found.model.graph().node;
        assert!(nodes.iter().filter(|n| n.op_type() == "Conv").count() >= 4);
        found.model
    };
    // Calibrated on what it is given, it loses less than calibrated on noise.
    let other = Array::from_shape_fn((48, 32, 10, 9), |(n, c, h, w)| {
        noise(40, ((n * 32 + c) * 10 + h) * 9 + w)
    });
    let other = Dataset::new(vec![("x".into(), NpyArray::F32(other.into_dyn()))]).unwrap();
    let loss = |compressed: &Model| {
        onnx_bridge::verify(&model, compressed, &data)
            .unwrap()
            .relative_l2
    };
    let (fitted, blind) = (loss(&tucker(&data)), loss(&tucker(&other)));
    assert!(fitted < 0.8 * blind, "{fitted} {blind}");
}
