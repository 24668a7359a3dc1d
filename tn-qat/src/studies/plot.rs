//! The plot of a study as SVG.

use std::fmt::Display;
use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::report::{Axis, Scale, Series, Stroke, StudyReport};
use crate::error::{QatError, Result};

/// Pixels of the picture, and of the legend at its right.
const SIZE: (u32, u32) = (860, 480);
const LEGEND: u32 = 160;

/// Colours that people with any colour vision tell apart on white (Okabe and Ito 2008, without their yellow).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

fn failed(error: impl Display) -> QatError {
    QatError::Plot(error.to_string())
}

/// What an axis shows: its ends and the places of its labels, in its own unit.
#[derive(Debug, Clone)]
struct Span {
    scale: Scale,
    ends: Range<f64>,
    ticks: Vec<f64>,
}

impl Span {
    fn new(axis: &Axis, values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        match axis.scale {
            _ if !(low.is_finite() && high.is_finite()) => Self::linear(0.0, 1.0),
            Scale::Linear => Self::linear(low, high),
            Scale::Log => Self::log(low, high),
        }
    }

    /// Four to nine labels at 1, 2 or 5 times a power of ten.
    fn linear(low: f64, high: f64) -> Self {
        let extent = (high - low).max(1e-9 * high.abs()).max(f64::MIN_POSITIVE);
        let power = 10f64.powf((extent / 5.0).log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = steps.into_iter().find(|s| extent / s <= 7.0);
        let step = step.unwrap_or(10.0 * power);
        let (first, last) = ((low / step).floor(), (high / step).ceil());
        let last = last.max(first + 1.0);
        Self {
            scale: Scale::Linear,
            ends: first * step..last * step,
            ticks: (0..=(last - first) as usize)
                .map(|k| (first + k as f64) * step)
                .collect(),
        }
    }

    /// Labels at powers of ten, with 2 and 5 times them where that leaves few enough.
    fn log(low: f64, high: f64) -> Self {
        let ends = low / 1.15..high * 1.15;
        let powers = ends.start.log10().floor() as i32..=ends.end.log10().ceil() as i32;
        let ticks = |factors: &[f64]| -> Vec<f64> {
            let all = powers
                .clone()
                .flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p)));
            all.filter(|t| ends.contains(t)).collect()
        };
        let mut chosen = ticks(&[1.0, 2.0, 5.0]);
        if chosen.len() > 9 {
            chosen = ticks(&[1.0]);
        }
        Self {
            scale: Scale::Log,
            ends,
            ticks: chosen,
        }
    }
}

impl Ranged for Span {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, &value: &f64, (first, last): (i32, i32)) -> i32 {
        let place = |v: f64| match self.scale {
            Scale::Linear => v,
            Scale::Log => v.log10(),
        };
        let (low, high) = (place(self.ends.start), place(self.ends.end));
        let part = (place(value) - low) / (high - low);
        first + (part * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

/// A label without digits that say nothing: `0.0001`, `20k`, `1.5M`.
fn label(value: f64) -> String {
    let (value, unit) = match value.abs() {
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let text = format!("{value:.6}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{}{unit}", if text == "-0" { "0" } else { text })
}

impl StudyReport {
    /// The plot as an SVG document.
    ///
    /// # Errors
    /// [`QatError::Plot`] when the drawing backend refuses.
    pub fn svg(&self) -> Result<String> {
        let shown = |p: &(f64, f64)| {
            let fits =
                |axis: &Axis, v: f64| v.is_finite() && (axis.scale == Scale::Linear || v > 0.0);
            fits(&self.x, p.0) && fits(&self.y, p.1)
        };
        let points = self.series.iter().flat_map(|s| &s.points).copied();
        let points = points.filter(shown);
        let x = Span::new(&self.x, points.clone().map(|p| p.0));
        let y = Span::new(&self.y, points.map(|p| p.1));
        let mut text = String::new();
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(failed)?;
        self.draw(&root, (x, y), &shown)?;
        self.legend(&root)?;
        root.present().map_err(failed)?;
        drop(root);
        Ok(text)
    }

    fn draw(
        &self,
        root: &Root<'_>,
        (x, y): (Span, Span),
        shown: &dyn Fn(&(f64, f64)) -> bool,
    ) -> Result<()> {
        let mut chart = ChartBuilder::on(root)
            .caption(&self.title, ("sans-serif", 18))
            .margin(12)
            .margin_right(LEGEND)
            .x_label_area_size(44)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .x_desc(&self.x.label)
            .y_desc(&self.y.label)
            .x_label_formatter(&|&v| label(v))
            .y_label_formatter(&|&v| label(v))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .label_style(("sans-serif", 13))
            .draw()
            .map_err(failed)?;
        for (k, series) in self.series.iter().enumerate() {
            let style = self.style(k, series);
            let drawn = || series.points.iter().copied().filter(|p| shown(p));
            match series.stroke {
                Stroke::Solid => chart
                    .draw_series(LineSeries::new(drawn(), style))
                    .map(drop)
                    .map_err(failed)?,
                Stroke::Dashed => chart
                    .draw_series(DashedLineSeries::new(drawn(), 6, 4, style))
                    .map(drop)
                    .map_err(failed)?,
            }
            let dot = ShapeStyle {
                filled: true,
                ..style
            };
            chart
                .draw_series(drawn().map(|p| Circle::new(p, style.stroke_width / 2 + 2, dot)))
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Earlier lines are the wider ones, so that one on top of another leaves it visible.
    fn style(&self, k: usize, series: &Series) -> ShapeStyle {
        let width = 1 + (self.series.len() - k).min(6) as u32;
        let colour = COLOURS[series.colour % COLOURS.len()];
        colour.stroke_width(if self.overlap() { width } else { 2 })
    }

    /// Whether two lines share a point.
    fn overlap(&self) -> bool {
        let pairs = (0..self.series.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
        let shared = |(a, b): (usize, usize)| {
            let other = &self.series[b].points;
            self.series[a]
                .points
                .iter()
                .filter(|p| other.contains(p))
                .count()
                > 1
        };
        pairs.into_iter().any(shared)
    }

    fn legend(&self, root: &Root<'_>) -> Result<()> {
        let left = (SIZE.0 - LEGEND + 12) as i32;
        for (k, series) in self.series.iter().enumerate() {
            let (y, style) = (60 + 22 * k as i32, self.style(k, series));
            let dashes: &[(i32, i32)] = match series.stroke {
                Stroke::Solid => &[(0, 26)],
                Stroke::Dashed => &[(0, 6), (10, 16), (20, 26)],
            };
            for &(from, to) in dashes {
                let line = PathElement::new([(left + from, y), (left + to, y)], style);
                root.draw(&line).map_err(failed)?;
            }
            let font = ("sans-serif", 13)
                .into_text_style(root)
                .pos(Pos::new(HPos::Left, VPos::Center));
            let name = Text::new(series.name.as_str(), (left + 34, y), font);
            root.draw(&name).map_err(failed)?;
        }
        Ok(())
    }
}

type Root<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_stand_at_round_numbers() {
        let check = |span: Span, ends: Range<f64>, ticks: &[f64]| {
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1.0);
            assert!(
                close(span.ends.start, ends.start) && close(span.ends.end, ends.end),
                "{:?}",
                span.ends
            );
            assert_eq!(span.ticks.len(), ticks.len(), "{:?}", span.ticks);
            assert!(span.ticks.iter().zip(ticks).all(|(&a, &b)| close(a, b)));
        };
        let hundredths: Vec<f64> = (93..=100).map(|k| f64::from(k) / 100.0).collect();
        check(Span::linear(0.933, 0.996), 0.93..1.0, &hundredths);
        check(
            Span::linear(19.4, 95.5),
            0.0..100.0,
            &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0],
        );
        check(Span::linear(3.0, 3.0), 3.0..3.000_000_001, &[3.0, 3.0]);
        let log = Span::log(1000.0, 60_000.0);
        assert_eq!(log.ticks, [1e3, 2e3, 5e3, 1e4, 2e4, 5e4]);
        assert_eq!(Span::log(1e-4, 0.5).ticks.len(), 4);
    }

    #[test]
    fn labels_have_no_idle_digits() {
        let texts = [0.0001, 0.5, 20.0, 20_000.0, 1.5e6, 0.0].map(label);
        assert_eq!(texts, ["0.0001", "0.5", "20", "20k", "1.5M", "0"]);
    }
}
