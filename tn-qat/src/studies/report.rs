//! A study as something to read: table, plot, conclusion.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// How an axis of a plot runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// Evenly.
    #[default]
    Linear,
    /// By factors; points that are not positive are left out.
    Log,
}

/// An axis of a plot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axis {
    /// What it shows, and its unit.
    pub label: String,
    /// How it runs.
    pub scale: Scale,
}

impl Axis {
    pub(super) fn linear(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            scale: Scale::Linear,
        }
    }

    pub(super) fn log(label: &str) -> Self {
        Self {
            label: label.to_owned(),
            scale: Scale::Log,
        }
    }
}

/// How a line of a plot is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stroke {
    /// Through.
    #[default]
    Solid,
    /// In dashes.
    Dashed,
}

/// A line of a plot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// Its points, `(x, y)`.
    pub points: Vec<(f64, f64)>,
    /// Lines of one number have one colour.
    pub colour: usize,
    /// How it is drawn.
    pub stroke: Stroke,
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
    /// The plot's x axis.
    pub x: Axis,
    /// The plot's y axis.
    pub y: Axis,
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
