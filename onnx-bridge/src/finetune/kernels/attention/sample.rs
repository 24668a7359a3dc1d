//! One sample's attention, head by head.

use pulp::NullaryFnOnce;

use super::super::simd::vectorized;
use super::super::small::{Matrix, multiply};
use super::super::softmax::{normalize, normalize_back};

/// How far below the largest a score may lie before its probability, below 1e-19, is 0.
///
/// Gradients that went through it would be numbers too small to be normal, which products take a hundred times as long for.
const REACH: f32 = 44.0;

/// Samples, heads, positions of queries and of keys, width of both, width of values.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) samples: usize,
    pub(super) heads: usize,
    pub(super) length: usize,
    pub(super) seen: usize,
    pub(super) width: usize,
    pub(super) given: usize,
}

impl Sizes {
    /// Elements of a sample's queries, which its gradients have as well.
    pub(super) fn queries(&self) -> usize {
        self.length * self.heads * self.width
    }

    pub(super) fn keys(&self) -> usize {
        self.seen * self.heads * self.width
    }

    pub(super) fn values(&self) -> usize {
        self.seen * self.heads * self.given
    }

    /// Elements of a sample's result.
    pub(super) fn result(&self) -> usize {
        self.length * self.heads * self.given
    }

    /// Elements of a sample's scores.
    pub(super) fn scores(&self) -> usize {
        self.heads * self.length * self.seen
    }
}

/// The mask of every row of scores.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    pub(super) data: &'a [f32],
    pub(super) steps: [usize; 4],
}

impl Mask<'_> {
    /// `dims` are broadcast to four axes.
    pub(super) fn steps(dims: &[usize]) -> [usize; 4] {
        let mut steps = [0; 4];
        let mut step = 1;
        for (k, &n) in dims.iter().enumerate().rev() {
            steps[k + 4 - dims.len()] = if n == 1 { 0 } else { step };
            step *= n;
        }
        steps
    }

    #[inline(always)]
    fn add(&self, sample: usize, head: usize, row: usize, scores: &mut [f32]) {
        let [b, h, l, s] = self.steps;
        let row = &self.data[sample * b + head * h + row * l..];
        if s == 0 {
            scores.iter_mut().for_each(|v| *v += row[0]);
        } else {
            scores.iter_mut().zip(row).for_each(|(v, m)| *v += m);
        }
    }
}

/// Masks the scores of one head and makes them probabilities.
struct Probabilities<'a> {
    scores: &'a mut [f32],
    mask: Option<Mask<'a>>,
    /// Sample and head.
    at: [usize; 2],
    seen: usize,
}

impl NullaryFnOnce for Probabilities<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        if let Some(mask) = self.mask {
            for (row, scores) in self.scores.chunks_exact_mut(self.seen).enumerate() {
                mask.add(self.at[0], self.at[1], row, scores);
            }
        }
        normalize(self.scores, self.seen, REACH);
    }
}

/// One head of a sample in `[L, H, D]`.
fn head(data: &[f32], [length, heads, width]: [usize; 3], head: usize) -> Matrix<'_> {
    Matrix {
        data: &data[head * width..],
        shape: [length, width],
        strides: [heads * width, 1],
    }
}

/// What attention reads, in memory.
pub(super) struct Whole<'a> {
    pub(super) sizes: Sizes,
    pub(super) queries: &'a [f32],
    pub(super) keys: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) mask: Option<Mask<'a>>,
    pub(super) scale: f32,
}

impl Whole<'_> {
    pub(super) fn sample(&self, index: usize) -> Sample<'_> {
        let of = |data, size| chunk(data, size, index);
        Sample {
            index,
            sizes: self.sizes,
            queries: of(self.queries, self.sizes.queries()),
            keys: of(self.keys, self.sizes.keys()),
            values: of(self.values, self.sizes.values()),
            mask: self.mask,
            scale: self.scale,
        }
    }
}

/// The elements of chunk `index` of `size` elements each.
pub(super) fn chunk(data: &[f32], size: usize, index: usize) -> &[f32] {
    &data[index * size..(index + 1) * size]
}

/// One sample's part of what attention reads.
pub(super) struct Sample<'a> {
    index: usize,
    sizes: Sizes,
    queries: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    mask: Option<Mask<'a>>,
    scale: f32,
}

impl Sample<'_> {
    /// Queries, keys and values of a head.
    fn of(&self, at: usize) -> [Matrix<'_>; 3] {
        let s = self.sizes;
        [
            head(self.queries, [s.length, s.heads, s.width], at),
            head(self.keys, [s.seen, s.heads, s.width], at),
            head(self.values, [s.seen, s.heads, s.given], at),
        ]
    }

    /// The probabilities of one head.
    fn probabilities(&self, at: usize, scores: &mut [f32], room: &mut Vec<f32>) {
        let seen = self.sizes.seen;
        let [queries, keys, _] = self.of(at);
        multiply(self.scale, queries, keys.t(), (scores, seen), room);
        vectorized(Probabilities {
            scores,
            mask: self.mask,
            at: [self.index, at],
            seen: seen.max(1),
        });
    }

    pub(super) fn forward(&self, out: &mut [f32]) {
        let s = self.sizes;
        let mut scores = vec![0.0; s.length * s.seen];
        let mut room = Vec::new();
        for at in 0..s.heads {
            self.probabilities(at, &mut scores, &mut room);
            let [_, _, values] = self.of(at);
            let probabilities = Matrix::dense(&scores, [s.length, s.seen]);
            let out = (&mut out[at * s.given..], s.heads * s.given);
            multiply(1.0, probabilities, values, out, &mut room);
        }
    }

    /// Writes the gradients of queries, keys and values, and those of the scores where there is room for them.
    pub(super) fn backward(&self, gradient: &[f32], [dq, dk, dv, all]: [&mut [f32]; 4]) {
        let s = self.sizes;
        let shape = [s.length, s.seen];
        let mut scores = vec![0.0; s.length * s.seen];
        let mut slopes = scores.clone();
        let mut room = Vec::new();
        for at in 0..s.heads {
            self.probabilities(at, &mut scores, &mut room);
            let [queries, keys, values] = self.of(at);
            let g = head(gradient, [s.length, s.heads, s.given], at);
            let probabilities = Matrix::dense(&scores, shape);
            let dv = (&mut dv[at * s.given..], s.heads * s.given);
            multiply(1.0, probabilities.t(), g, dv, &mut room);
            multiply(1.0, g, values.t(), (&mut slopes, s.seen), &mut room);
            normalize_back(&scores, &mut slopes, s.seen.max(1));
            if !all.is_empty() {
                all[at * slopes.len()..][..slopes.len()].copy_from_slice(&slopes);
            }
            let slopes = Matrix::dense(&slopes, shape);
            let dq = (&mut dq[at * s.width..], s.heads * s.width);
            multiply(self.scale, slopes, keys, dq, &mut room);
            let dk = (&mut dk[at * s.width..], s.heads * s.width);
            multiply(self.scale, slopes.t(), queries, dk, &mut room);
        }
    }
}
