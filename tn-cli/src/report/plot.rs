//! Plots as SVG that stretches with the page: places along x are in percent, along y in pixels, so that text keeps its size
//! on a phone. Every mark has a tooltip and carries its numbers in full in `data-` attributes.

use maud::{Markup, html};

/// How numbers are laid along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Log,
}

/// One axis: its ends, and the places of its labels.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Axis {
    /// An axis over the values that it can show, with at most `most` labels; `None` where there are none.
    pub(super) fn over(
        scale: Scale,
        values: impl Iterator<Item = f64>,
        most: usize,
    ) -> Option<Self> {
        let shown = values.filter(|v| v.is_finite() && (scale == Scale::Linear || *v > 0.0));
        let (low, high) = shown.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
            (l.min(v), h.max(v))
        });
        (low <= high).then(|| match scale {
            Scale::Linear => Self::linear(low, high, most),
            Scale::Log => Self::log(low, high, most),
        })
    }

    /// A linear axis with just these ends.
    pub(super) fn exact(low: f64, high: f64, most: usize) -> Self {
        let mut axis = Self::linear(low, high, most);
        (axis.low, axis.high) = (low, high.max(low + f64::MIN_POSITIVE));
        axis.ticks.retain(|t| (low..=high).contains(t));
        axis
    }

    fn linear(low: f64, high: f64, most: usize) -> Self {
        let extent = (high - low).max(1e-9 * high.abs()).max(f64::MIN_POSITIVE);
        let power = 10f64.powf((extent / most as f64).log10().floor());
        let fits = |step: &f64| (high / step).ceil() - (low / step).floor() < most as f64;
        let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].map(|factor| factor * power);
        let step = steps.into_iter().find(fits).unwrap_or(100.0 * power);
        let first = (low / step).floor();
        let last = (high / step).ceil().max(first + 1.0);
        let count = (last - first) as usize;
        Self {
            scale: Scale::Linear,
            low: first * step,
            high: last * step,
            ticks: (0..=count).map(|k| (first + k as f64) * step).collect(),
        }
    }

    fn log(low: f64, high: f64, most: usize) -> Self {
        // Values that are all alike still get an axis with room on both sides.
        let (low, high) = (low.max(1e-300), high.clamp(1e-300, 1e300));
        let room = (0.06 * (high.ln() - low.ln())).exp().clamp(1.15, 10.0);
        let (low, high) = (low / room, high * room);
        let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
        let ticks = |factors: &[f64], every: i32| -> Vec<f64> {
            let powers = powers.clone().filter(|p| p.rem_euclid(every) == 0);
            let all = powers.flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p)));
            all.filter(|t| (low..=high).contains(t)).collect()
        };
        let offers = [
            ticks(&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0], 1),
            ticks(&[1.0, 2.0, 5.0], 1),
            ticks(&[1.0, 3.0], 1),
            ticks(&[1.0], 1),
            ticks(&[1.0], 2),
            ticks(&[1.0], 3),
        ];
        let ticks = offers.into_iter().find(|t| t.len() <= most);
        Self {
            scale: Scale::Log,
            low,
            high,
            ticks: ticks.unwrap_or_default(),
        }
    }

    /// Where a value stands, from 0 to 1; what the axis does not reach stands at its end.
    fn part(&self, value: f64) -> f64 {
        let at = |v: f64| match self.scale {
            Scale::Linear => v,
            Scale::Log => v.max(f64::MIN_POSITIVE).log10(),
        };
        let part = (at(value) - at(self.low)) / (at(self.high) - at(self.low));
        if part.is_finite() {
            part.clamp(0.0, 1.0)
        } else {
            0.0
        }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (self.scale == Scale::Linear || value > 0.0)
    }
}

/// What a point looks like, and its class in the style sheet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Dot,
    Square,
    Diamond,
    Cross,
}

/// A point with what it says.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) class: &'static str,
    pub(super) shape: Shape,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) tooltip: String,
    /// Text beside the point, if it is one that a reader looks for.
    pub(super) label: Option<String>,
}

/// A line through points, in their order.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) class: &'static str,
    pub(super) points: Vec<(f64, f64)>,
}

/// A straight line across the plot.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) axis: Direction,
    pub(super) at: f64,
    pub(super) label: String,
}

/// The axis that a [`Rule`] stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    X,
    Y,
}

/// A plot of lines and points.
pub(super) struct Plot<'a> {
    /// What it shows, for who cannot see it.
    pub(super) summary: String,
    pub(super) height: u32,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) x_title: &'a str,
    pub(super) y_title: &'a str,
    pub(super) x_label: &'a dyn Fn(f64) -> String,
    pub(super) y_label: &'a dyn Fn(f64) -> String,
    pub(super) bars: Vec<Bar>,
    pub(super) lines: Vec<Line>,
    pub(super) rules: Vec<Rule>,
    pub(super) marks: Vec<Mark>,
}

/// A bar from the foot of the plot.
#[derive(Debug)]
pub(super) struct Bar {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) y: f64,
    pub(super) tooltip: String,
}

fn percent(part: f64) -> String {
    format!("{:.2}%", 100.0 * part)
}

/// Room between two labels, in pixels.
const LINE: f64 = 15.0;

impl Plot<'_> {
    fn at_x(&self, x: f64) -> String {
        percent(self.x.part(x))
    }

    fn at_y(&self, y: f64) -> f64 {
        let down = (1.0 - self.y.part(y)) * f64::from(self.height);
        (10.0 * down).round() / 10.0
    }

    /// Where the labels of marks go: beside them, pushed apart where they would overlap.
    fn labels(&self) -> Vec<(&Mark, f64)> {
        let mut labels: Vec<(&Mark, f64)> = self
            .marks
            .iter()
            .filter(|m| m.label.is_some() && self.x.shows(m.x) && self.y.shows(m.y))
            .map(|m| (m, self.at_y(m.y)))
            .collect();
        labels.sort_by(|a, b| a.1.total_cmp(&b.1));
        for k in 1..labels.len() {
            labels[k].1 = labels[k].1.max(labels[k - 1].1 + LINE);
        }
        // What was pushed out at the foot goes up again, with all that is then too near.
        let mut most = f64::from(self.height) - 4.0;
        for label in labels.iter_mut().rev() {
            label.1 = label.1.min(most);
            most = label.1 - LINE;
        }
        labels
    }

    pub(super) fn markup(&self) -> Markup {
        let height = f64::from(self.height);
        html! {
            div.plot {
                p.axis-title.y-title { (self.y_title) }
                svg.y-axis width="58" height=(self.height + 24) aria-hidden="true" focusable="false" {
                    @for &tick in &self.y.ticks {
                        text x="52" y=(self.at_y(tick) + 4.0) text-anchor="end" { ((self.y_label)(tick)) }
                    }
                }
                svg.area width="100%" height=(self.height + 24) role="img" aria-label=(self.summary) focusable="false" {
                    @for &tick in &self.y.ticks {
                        line.grid x1="0" x2="100%" y1=(self.at_y(tick)) y2=(self.at_y(tick)) {}
                    }
                    @for (k, &tick) in self.x.ticks.iter().enumerate() {
                        line.grid x1=(self.at_x(tick)) x2=(self.at_x(tick)) y1="0" y2=(height) {}
                        // Where the page is narrow there is room for every second label.
                        @let minor = k % 2 == 1 && self.x.ticks.len() > 4;
                        text.minor[minor] x=(self.at_x(tick)) y=(height + 17.0) text-anchor=(anchor(self.x.part(tick))) {
                            ((self.x_label)(tick))
                        }
                    }
                    @for bar in &self.bars { (self.bar(bar)) }
                    @for rule in &self.rules { (self.rule(rule)) }
                    @for line in &self.lines { (self.line(line)) }
                    @for mark in &self.marks { (self.mark(mark)) }
                    @for (mark, y) in self.labels() {
                        @let right = self.x.part(mark.x) > 0.6;
                        text.label x=(self.at_x(mark.x)) dx=(if right { "-11" } else { "11" }) y=(y + 4.0)
                            text-anchor=(if right { "end" } else { "start" }) { (mark.label.as_deref().unwrap_or_default()) }
                    }
                    line.foot x1="0" x2="100%" y1=(height) y2=(height) {}
                }
                p.axis-title.x-title { (self.x_title) }
            }
        }
    }

    fn bar(&self, bar: &Bar) -> Markup {
        let (from, to) = (self.x.part(bar.from), self.x.part(bar.to));
        let top = self.at_y(bar.y);
        html! {
            rect.bar x=(percent(from)) width=(percent(to - from)) y=(top) height=(f64::from(self.height) - top)
                data-from=(bar.from) data-to=(bar.to) data-count=(bar.y) { title { (bar.tooltip) } }
        }
    }

    fn rule(&self, rule: &Rule) -> Markup {
        match rule.axis {
            Direction::X => {
                let x = self.at_x(rule.at);
                let right = self.x.part(rule.at) > 0.6;
                html! {
                    line.rule x1=(x) x2=(x) y1="0" y2=(self.height) data-at=(rule.at) { title { (rule.label) } }
                    text.label x=(x) y="12" dx=(if right { "-5" } else { "5" })
                        text-anchor=(if right { "end" } else { "start" }) { (rule.label) }
                }
            }
            Direction::Y => {
                let y = self.at_y(rule.at);
                html! {
                    line.rule x1="0" x2="100%" y1=(y) y2=(y) data-at=(rule.at) { title { (rule.label) } }
                    text.label x="4" y=(if y > 20.0 { y - 5.0 } else { y + 15.0 }) { (rule.label) }
                }
            }
        }
    }

    fn line(&self, line: &Line) -> Markup {
        let shown: Vec<&(f64, f64)> = line
            .points
            .iter()
            .filter(|(x, y)| self.x.shows(*x) && self.y.shows(*y))
            .collect();
        let points: Vec<String> = shown.iter().map(|(x, y)| format!("{x},{y}")).collect();
        html! {
            g class=(line.class) data-points=(points.join(" ")) {
                @for pair in shown.windows(2) {
                    line x1=(self.at_x(pair[0].0)) y1=(self.at_y(pair[0].1)) x2=(self.at_x(pair[1].0)) y2=(self.at_y(pair[1].1)) {}
                }
            }
        }
    }

    /// A point: a nested `svg` puts its shape at a place in percent.
    fn mark(&self, mark: &Mark) -> Markup {
        if !(self.x.shows(mark.x) && self.y.shows(mark.y)) {
            return html! {};
        }
        html! {
            svg class=(format!("mark {}", mark.class)) x=(self.at_x(mark.x)) y=(self.at_y(mark.y)) overflow="visible"
                data-x=(mark.x) data-y=(mark.y) {
                title { (mark.tooltip) }
                circle.reach r="10" {}
                @match mark.shape {
                    Shape::Dot => { circle r="3.5" {} }
                    Shape::Square => { rect x="-5" y="-5" width="10" height="10" {} }
                    Shape::Diamond => { path d="M0-9 9 0 0 9-9 0Z" {} }
                    Shape::Cross => { path.stroke d="M-5-5 5 5M-5 5 5-5" {} }
                }
            }
        }
    }
}

/// Labels at the ends of an axis stay within the plot.
fn anchor(part: f64) -> &'static str {
    match part {
        p if p < 0.04 => "start",
        p if p > 0.96 => "end",
        _ => "middle",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_round_numbers_within_the_axis_and_few() {
        let cases = [
            (Scale::Linear, 0.0, 37.0),
            (Scale::Linear, -3.2e-4, 5e-4),
            (Scale::Linear, 7.0, 7.0),
            (Scale::Linear, 0.0, 0.0),
            (Scale::Log, 1e-9, 2.0),
            (Scale::Log, 5.1e6, 9.9e7),
            (Scale::Log, 3.0, 3.0),
            (Scale::Log, 1e-300, 1e300),
        ];
        for (scale, low, high) in cases {
            let axis = Axis::over(scale, [low, high].into_iter(), 6).unwrap();
            assert!(
                axis.ticks.len() <= 7,
                "{scale:?} {low} {high}: {:?}",
                axis.ticks
            );
            assert!(axis.low <= low && high <= axis.high, "{axis:?}");
            for tick in &axis.ticks {
                assert!((axis.low..=axis.high).contains(tick), "{axis:?}");
            }
            assert!((0.0..=1.0).contains(&axis.part(low)));
        }
    }

    #[test]
    fn values_that_an_axis_cannot_show_are_passed_over() {
        assert!(Axis::over(Scale::Log, [0.0, -1.0, f64::NAN].into_iter(), 5).is_none());
        let axis = Axis::over(Scale::Log, [0.0, 2.0, f64::INFINITY].into_iter(), 5).unwrap();
        assert!(!axis.shows(0.0) && axis.shows(1.0) && axis.high < 3.0);
    }
}
