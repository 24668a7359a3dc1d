//! A study as something to read: table, plot, conclusion.

use std::fmt::Write;

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{QatError, Result};

/// A line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, `(x, y)`.
    pub points: Vec<(f64, f64)>,
}

/// A table, a plot and a conclusion.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudyReport {
    /// What was studied.
    pub title: String,
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// The table's cells, as many in each row as there are columns.
    pub rows: Vec<Vec<String>>,
    /// Label of the plot's x axis.
    pub x_label: String,
    /// Label of the plot's y axis.
    pub y_label: String,
    /// The plot's lines.
    pub series: Vec<Series>,
    /// Sentences computed from the numbers.
    pub conclusion: Vec<String>,
}

/// A result that can be reported.
pub trait Study: Serialize {
    /// Table, plot and conclusion.
    fn report(&self) -> StudyReport;
}

impl StudyReport {
    /// Table and conclusion in Markdown, which reads well as plain text too.
    pub fn markdown(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self.rows.iter().filter_map(|r| r.get(c));
                cells
                    .chain([&self.columns[c]])
                    .map(|s| s.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let line = |cells: &[String]| {
            let cells = cells
                .iter()
                .zip(&widths)
                .map(|(cell, &w)| format!(" {cell:>w$} "));
            format!("|{}|\n", cells.collect::<Vec<_>>().join("|"))
        };
        let mut text = format!("### {}\n\n{}", self.title, line(&self.columns));
        let rules = widths.iter().map(|w| format!("{}:", "-".repeat(w + 1)));
        // Writing to a string does not fail.
        let _ = writeln!(text, "|{}|", rules.collect::<Vec<_>>().join("|"));
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text.push('\n');
        for sentence in &self.conclusion {
            let _ = writeln!(text, "{sentence}");
        }
        text
    }

    /// The plot as an SVG document; both axes logarithmic.
    ///
    /// # Errors
    /// [`QatError::Plot`] when the drawing backend refuses.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        let points = || {
            self.series
                .iter()
                .flat_map(|s| &s.points)
                .filter(|p| p.0 > 0.0 && p.1 > 0.0)
        };
        let range = |value: fn(&(f64, f64)) -> f64| {
            let low = points().map(value).fold(f64::INFINITY, f64::min);
            let high = points().map(value).fold(0.0, f64::max);
            if low.is_finite() && high > 0.0 {
                low / 1.2..high * 1.2
            } else {
                0.5..2.0
            }
        };
        let failed = |e: &dyn std::fmt::Display| QatError::Plot(e.to_string());
        {
            let root = SVGBackend::with_string(&mut text, (760, 480)).into_drawing_area();
            root.fill(&WHITE).map_err(|e| failed(&e))?;
            let mut chart = ChartBuilder::on(&root)
                .caption(&self.title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(40)
                .y_label_area_size(70)
                .build_cartesian_2d(range(|p| p.0).log_scale(), range(|p| p.1).log_scale())
                .map_err(|e| failed(&e))?;
            chart
                .configure_mesh()
                .x_desc(&self.x_label)
                .y_desc(&self.y_label)
                .y_label_formatter(&|v| format!("{v:.2e}"))
                .draw()
                .map_err(|e| failed(&e))?;
            for (k, series) in self.series.iter().enumerate() {
                let colour = Palette99::pick(k).to_rgba();
                let drawn = series
                    .points
                    .iter()
                    .copied()
                    .filter(|p| p.0 > 0.0 && p.1 > 0.0);
                chart
                    .draw_series(LineSeries::new(drawn.clone(), colour.stroke_width(2)))
                    .map_err(|e| failed(&e))?
                    .label(&series.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
                chart
                    .draw_series(drawn.map(|p| Circle::new(p, 3, colour.filled())))
                    .map_err(|e| failed(&e))?;
            }
            chart
                .configure_series_labels()
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK)
                .draw()
                .map_err(|e| failed(&e))?;
            root.present().map_err(|e| failed(&e))?;
        }
        Ok(text)
    }
}

/// A number with three digits that count.
pub(super) fn digits(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else if value.abs() < 1e-3 || value.abs() >= 1e5 {
        format!("{value:.2e}")
    } else {
        let places = (2 - value.abs().log10().floor() as i32).clamp(0, 5) as usize;
        format!("{value:.places$}")
    }
}

/// Numbers with commas between.
pub(super) fn list<T: ToString>(values: &[T]) -> String {
    values
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
