//! Which form of a weight multiplies a batch.
//!
//! Estimates ([`super::cost`]) rule out what is far slower; what is left takes turns on the first batch of each size, and the
//! quickest stays. So the choice follows the machine that the model runs on.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::form::{Form, Scratch};
use super::{Activations, Route, cost};

/// A form whose estimate is so many times the lowest is not tried.
const FAR: f64 = 2.0;
/// What part of the stored form's time the dense matrix may take to be made, and unpacked factors.
const WORTH_MAKING: f64 = 0.97;
const WORTH_UNPACKING: f64 = 0.85;
/// Batches up to two to this power are told apart.
const MOST_ROWS: usize = 12;
/// Trying a form takes so many turns, fewer where they add up to more than this.
const TURNS: usize = 7;
const TRYING: Duration = Duration::from_millis(8);

/// A form of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As the file has it.
    Stored,
    /// The file's factors in `f32`.
    Unpacked,
    /// One matrix in `f32`.
    Dense,
}

/// A weight in the form that the file has, and in others where those are quicker for a batch.
#[derive(Debug)]
pub(super) struct Network {
    stored: Form,
    route: Route,
    unpacked: OnceLock<Form>,
    dense: OnceLock<Form>,
    /// By the power of two that the rows are rounded up to.
    taken: [OnceLock<Way>; MOST_ROWS + 1],
}

impl Network {
    pub(super) fn new(stored: Form, route: Route) -> Self {
        Self {
            stored,
            route,
            unpacked: OnceLock::new(),
            dense: OnceLock::new(),
            taken: Default::default(),
        }
    }

    /// Elements of a row of the result.
    pub(super) fn n(&self) -> usize {
        self.stored.n()
    }

    /// Elements of a row that is multiplied.
    pub(super) fn k(&self) -> usize {
        self.stored.k()
    }

    /// Cycles for so many rows in the form that the file has.
    pub(super) fn cost(&self, rows: usize) -> f64 {
        self.stored.cost(rows)
    }

    /// Bytes of the form that the file has.
    pub(super) fn bytes(&self) -> usize {
        self.stored.bytes()
    }

    /// Rows of `x` to rows of `out`.
    pub(super) fn run(
        &self,
        x: &[f32],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut Scratch,
    ) -> quant_core::Result<()> {
        let is_packed = matches!(self.stored, Form::Factors(_));
        let way = match self.route {
            Route::Cores | Route::Merged => Way::Stored,
            Route::Dense => Way::Dense,
            // One matrix is as dense as it gets, and the integer units are faster than anything in `f32`.
            Route::Auto if self.stored.is_one() => Way::Stored,
            Route::Auto if is_packed && activations == Activations::Int8 => Way::Stored,
            Route::Auto => {
                let rows = x.len().checked_div(self.stored.k()).unwrap_or(0);
                let size = rows.next_power_of_two().ilog2() as usize;
                let taken = &self.taken[size.min(MOST_ROWS)];
                match taken.get() {
                    Some(way) => *way,
                    None => {
                        let way = self.quickest(rows, x, out, scratch)?;
                        *taken.get_or_init(|| way)
                    }
                }
            }
        };
        self.form(way, scratch)?.run(x, out, activations, scratch)
    }

    /// Where a form is kept; the stored one is not made.
    fn cell(&self, way: Way) -> Option<&OnceLock<Form>> {
        match way {
            Way::Stored => None,
            Way::Unpacked => Some(&self.unpacked),
            Way::Dense => Some(&self.dense),
        }
    }

    fn form(&self, way: Way, scratch: &mut Scratch) -> quant_core::Result<&Form> {
        let Some(cell) = self.cell(way) else {
            return Ok(&self.stored);
        };
        if let Some(form) = cell.get() {
            return Ok(form);
        }
        let made = self.made(way, scratch)?;
        Ok(cell.get_or_init(|| made))
    }

    fn made(&self, way: Way, scratch: &mut Scratch) -> quant_core::Result<Form> {
        match way {
            Way::Unpacked => self.stored.unpacked(scratch),
            Way::Stored | Way::Dense => self.stored.dense(scratch),
        }
    }

    /// The ways that may be the quickest for so many rows, by their estimates, the stored one among them or not.
    fn near(&self, rows: usize) -> Vec<Way> {
        let (k, n) = (self.stored.k(), self.stored.n());
        let estimates = [
            (Way::Stored, Some(self.stored.cost(rows))),
            (Way::Unpacked, self.stored.unpacked_cost(rows)),
            (Way::Dense, Some(cost::right(rows, k, n))),
        ];
        let known = estimates.into_iter().filter_map(|(w, c)| Some((w, c?)));
        let known: Vec<(Way, f64)> = known.collect();
        let least = known.iter().map(|(_, c)| *c).fold(f64::INFINITY, f64::min);
        let near = known.into_iter().filter(|(_, c)| *c <= FAR * least);
        near.map(|(way, _)| way).collect()
    }

    /// The quickest way for these rows; a form that is not is dropped again.
    fn quickest(
        &self,
        rows: usize,
        x: &[f32],
        out: &mut [f32],
        scratch: &mut Scratch,
    ) -> quant_core::Result<Way> {
        let ways = match self.near(rows).as_slice() {
            [only] => return Ok(*only),
            several => several.to_vec(),
        };
        let mut made = Vec::new();
        for &way in &ways {
            if self.cell(way).is_some_and(|cell| cell.get().is_none()) {
                made.push((way, self.made(way, scratch)?));
            }
        }
        let mut times = vec![Duration::MAX; ways.len()];
        let start = Instant::now();
        for _ in 0..TURNS {
            for (&way, least) in ways.iter().zip(&mut times) {
                let form = match made.iter().find(|(w, _)| *w == way) {
                    Some((_, form)) => form,
                    None => self.form(way, scratch)?,
                };
                // Warm: what ran before took the caches.
                form.run(x, out, Activations::F32, scratch)?;
                let begin = Instant::now();
                form.run(x, out, Activations::F32, scratch)?;
                *least = begin.elapsed().min(*least);
            }
            if start.elapsed() > TRYING {
                break;
            }
        }
        let weighed = ways.iter().zip(&times).map(|(&way, time)| {
            let worth = match way {
                Way::Stored => 1.0,
                Way::Unpacked => WORTH_UNPACKING,
                Way::Dense => WORTH_MAKING,
            };
            (way, time.as_secs_f64() / worth)
        });
        let quickest = weighed.min_by(|a, b| a.1.total_cmp(&b.1));
        let quickest = quickest.map_or(Way::Stored, |(way, _)| way);
        for (way, form) in made.into_iter().filter(|(way, _)| *way == quickest) {
            if let Some(cell) = self.cell(way) {
                cell.get_or_init(|| form);
            }
        }
        Ok(quickest)
    }
}
