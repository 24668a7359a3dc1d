//! Tables of few levels whose rows are unpacked when they are looked up.

use super::Activations;
use super::form::{Factor, Scratch};
use crate::axes::place;
use crate::blocks::{Levels, Word, scale_of};
use crate::recognise::StoredBlocks;

/// A table `[rows, blocks, block]`; with `right`, a row is multiplied by it.
#[derive(Debug)]
pub(super) struct Table {
    levels: Levels,
    shape: [usize; 3],
    /// Rows packed one by one.
    words: Vec<u8>,
    /// `[rows, blocks]`, one byte each.
    steps: Vec<u8>,
    /// The scale of every step.
    scales: Box<[f32; 256]>,
    right: Option<Factor>,
}

impl Table {
    /// A stored table; none where the shape is another or `right` does not fit it.
    pub(super) fn new(
        blocks: &StoredBlocks,
        shape: [usize; 3],
        right: Option<Factor>,
    ) -> Option<Self> {
        let [count, per_row, block] = shape;
        let values = blocks.values();
        let width = per_row * block;
        let fits = values.codes.len() == count * width
            && values.steps.len() == count * per_row
            && right.as_ref().is_none_or(|r| r.k() == width);
        let levels = blocks.levels();
        let rows = values.codes.chunks(width.max(1));
        fits.then(|| Self {
            levels,
            shape,
            words: rows.flat_map(|row| levels.pack(row)).collect(),
            steps: values.steps.clone(),
            scales: Box::new(std::array::from_fn(|s| scale_of(s as u8, values.unit))),
            right,
        })
    }

    /// Elements of a row that is looked up.
    pub(super) fn width(&self) -> usize {
        self.right.as_ref().map_or(self.stored_width(), Factor::n)
    }

    fn stored_width(&self) -> usize {
        self.shape[1] * self.shape[2]
    }

    pub(super) fn bytes(&self) -> usize {
        let right = self.right.as_ref().map_or(0, Factor::bytes);
        self.words.len() + self.steps.len() + size_of_val(&*self.scales) + right
    }

    /// Rows by their indices; one below zero counts from the end.
    ///
    /// # Errors
    /// The index that is none.
    pub(super) fn look_up(
        &self,
        indices: &[i64],
        out: &mut [f32],
        activations: Activations,
        scratch: &mut Scratch,
    ) -> Result<(), String> {
        let width = self.stored_width().max(1);
        let Some(right) = &self.right else {
            return self.unpack_rows(indices, out.chunks_mut(width));
        };
        let mut state = std::mem::take(&mut scratch.between[0]);
        state.resize(indices.len() * width, 0.0);
        let done = self
            .unpack_rows(indices, state.chunks_mut(width))
            .and_then(|()| {
                right
                    .multiply(&state, out, activations, scratch)
                    .map_err(|e| e.to_string())
            });
        scratch.between[0] = state;
        done
    }

    fn unpack_rows<'o>(
        &self,
        indices: &[i64],
        out: impl Iterator<Item = &'o mut [f32]>,
    ) -> Result<(), String> {
        let rows = self.shape[0];
        for (&index, out) in indices.iter().zip(out) {
            let row = place(index, rows)
                .ok_or_else(|| format!("expected an index below {rows}, found {index}"))?;
            self.unpack(row, out);
        }
        Ok(())
    }

    /// Digit `d` of word `w` is code `d P + w` of a row of P words, see [`Levels::pack`].
    fn unpack(&self, row: usize, out: &mut [f32]) {
        let [_, blocks, block] = self.shape;
        let width = self.stored_width();
        let bytes = self.levels.packed_bytes(width);
        let words = &self.words[row * bytes..][..bytes];
        let (radix, zero) = (u32::from(self.levels.count()), self.levels.zero());
        let place = self.levels.words(width).max(1);
        let digits = |value: u32, w: usize, out: &mut [f32]| {
            let mut rest = value;
            for o in out.iter_mut().skip(w).step_by(place) {
                *o = (rest % radix) as f32 - zero;
                rest /= radix;
            }
        };
        match self.levels.packing().0 {
            Word::U8 => (words.iter().enumerate()).for_each(|(w, &b)| digits(b.into(), w, out)),
            Word::U16 => words
                .as_chunks::<2>()
                .0
                .iter()
                .enumerate()
                .for_each(|(w, &b)| digits(u16::from_le_bytes(b).into(), w, out)),
        }
        let steps = &self.steps[row * blocks..][..blocks];
        for (out, &step) in out.chunks_mut(block.max(1)).zip(steps) {
            let scale = self.scales[usize::from(step)];
            out.iter_mut().for_each(|o| *o *= scale);
        }
    }
}
