//! GELU as exporters write it before opset 20.

use super::Finder;
use crate::proto::{self, NodeProto};

/// The last node of every `x * (1 + erf(x / sqrt 2)) / 2`, as `Gelu`.
pub(super) fn find(finder: &Finder<'_>) -> Vec<(usize, NodeProto)> {
    let found = finder.nodes("Erf").map(|erf| gelu(finder, erf));
    found.flatten().collect()
}

fn gelu<'a>(finder: &Finder<'a>, erf: &'a NodeProto) -> Option<(usize, NodeProto)> {
    let scaled = finder.producers.get(erf.input.first()?.as_str())?;
    let x = match scaled.op_type() {
        "Div" if finder.scalars.contains_key(scaled.input.get(1)?.as_str()) => {
            finder.beside(scaled, std::f32::consts::SQRT_2)?
        }
        "Mul" => finder.beside(scaled, std::f32::consts::FRAC_1_SQRT_2)?,
        _ => return None,
    };
    let (_, sum) = finder.reader(erf.output.first()?, "Add")?;
    finder.beside(sum, 1.0)?;
    let sum = sum.output.first()?;
    // x * sum * 0.5 in either order of the products.
    let (at, product) = finder.reader(sum, "Mul")?;
    let (last, whole) = if product.input.iter().any(|i| i == x) {
        let (at, half) = finder.reader(product.output.first()?, "Mul")?;
        finder.beside(half, 0.5)?;
        (at, half)
    } else {
        let other = product.input.iter().find(|i| *i != sum)?;
        let half = finder.producer(other, "Mul")?;
        (finder.beside(half, 0.5)? == x).then_some(())?;
        (at, product)
    };
    let output = whole.output.first()?;
    let fused = proto::node("Gelu", whole.name(), &[x], output, Vec::new());
    Some((last, fused))
}
