//! The curve of a training.

use maud::{Markup, html};

use super::data::Training;
use super::layers::{count, short};
use super::plot::{Axis, Direction, Line, Mark, Plot, Rule, Scale, Shape};
use crate::table::figure;

/// Its losses over the steps, and the step that was written.
pub(super) fn section(training: &Training) -> Option<Markup> {
    let curve: Vec<(f64, f64)> = training
        .curve
        .iter()
        .map(|e| (e.step as f64, e.loss))
        .collect();
    let text = format!(
        "{} steps on {}: the loss on held-back samples went from {} to {}; the state after step {} is what was written.",
        training.steps,
        training.data,
        figure(training.loss_before),
        figure(training.loss_after),
        training.best_step
    );
    let positive = curve.iter().all(|(_, loss)| *loss > 0.0);
    let scale = if positive { Scale::Log } else { Scale::Linear };
    let axes = Axis::over(scale, curve.iter().map(|(_, loss)| *loss), 5);
    let plot = axes.filter(|_| curve.len() > 1).map(|y| Plot {
        summary: format!(
            "Loss on held-back samples over the steps, {} evaluations",
            curve.len()
        ),
        height: 220,
        x: Axis::exact(
            0.0,
            curve.iter().map(|(step, _)| *step).fold(1.0, f64::max),
            5,
        ),
        y,
        x_title: "step",
        y_title: "loss on held-back samples",
        x_label: &count,
        y_label: &short,
        bars: Vec::new(),
        lines: vec![Line {
            class: "training",
            points: curve.clone(),
        }],
        rules: vec![Rule {
            axis: Direction::X,
            at: training.best_step as f64,
            label: format!("written: step {}", training.best_step),
        }],
        marks: curve
            .iter()
            .map(|&(step, loss)| Mark {
                class: "training",
                shape: Shape::Dot,
                x: step,
                y: loss,
                tooltip: format!("step {step}: loss {}", figure(loss)),
                label: None,
            })
            .collect(),
    });
    Some(html! {
        p { (text) }
        @if let Some(plot) = plot { figure { (plot.markup()) } }
    })
}
