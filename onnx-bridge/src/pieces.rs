//! Running a model too large to load whole: piece by piece, each a small model of its own.

use std::borrow::Borrow;

use rayon::prelude::*;
use tn_formats::npy::NpyArray;

use crate::calibrate::{Stages, Values, segment};
use crate::engine::InputInfo;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::view::GraphView;

/// A model of more bytes than this runs in pieces.
const WHOLE: u64 = 1 << 30;

/// The most bytes of constants in a piece; a larger constant is a piece of its own.
const PIECE: u64 = 128 << 20;

/// A model cut into pieces. The engine loads a piece, runs it on all that it is given and forgets it.
pub(crate) struct Pieces {
    model: Model,
    cut: Stages,
}

impl Pieces {
    /// Cuts a model; `None` where it is small, or all its constants meet in one place.
    pub(crate) fn of(model: &Model) -> Option<Self> {
        if model.encoded_len() <= WHOLE {
            return None;
        }
        Some(Self::cut(model, PIECE)).filter(|pieces| pieces.cut.segments().len() > 1)
    }

    /// Cuts a model so that the stored constants of a piece take at most `piece` bytes, or are one.
    pub(crate) fn cut(model: &Model, piece: u64) -> Self {
        Self {
            cut: Stages::by_bytes(&GraphView::new(model), piece),
            model: model.clone(),
        }
    }

    /// Runs one batch, as [`crate::Engine::run`].
    pub(crate) fn run(
        &self,
        infos: &[InputInfo],
        inputs: &[impl Borrow<NpyArray>],
        outputs: &[String],
    ) -> Result<Vec<NpyArray>> {
        let named = infos.iter().map(|info| info.name.clone());
        let inputs = inputs.iter().map(|input| input.borrow().clone());
        let mut batch: [Values; 1] = [named.zip(inputs).collect()];
        self.run_batches(&mut batch)?;
        let [values] = batch;
        let output = |name: &String| {
            values.get(name).cloned().ok_or_else(|| Error::Engine {
                stage: "running in pieces",
                problem: format!("no piece made `{name}`"),
            })
        };
        outputs.iter().map(output).collect()
    }

    /// Runs many batches, given as the model's inputs by name and left as its outputs: one piece is in memory at a time, on
    /// each thread.
    ///
    /// # Errors
    /// Those of the engine.
    pub(crate) fn run_batches(&self, batches: &mut [Values]) -> Result<()> {
        let view = GraphView::new(&self.model);
        let cut = segment::Cut {
            model: &self.model,
            view: &view,
            targets: &[],
            stages: &self.cut,
        };
        let (operands, overrides) = (segment::Operands::new(), segment::Overrides::new());
        for s in 0..self.cut.segments().len() {
            batches
                .par_iter_mut()
                .try_for_each(|values| cut.run(s, &operands, &overrides, values))?;
            self.model.release();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Engine, synthesize};

    #[test]
    fn pieces_make_what_the_whole_makes() {
        let digits = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits/model.onnx");
        let model = Model::decode(std::fs::read(digits).unwrap()).unwrap();
        let engine = Engine::load(&model).unwrap();
        let data = synthesize(&model, 5, 1).unwrap();
        let input = data.input(&engine.inputs()[0].name).unwrap().clone();
        let whole = engine.run(std::slice::from_ref(&input)).unwrap();
        for piece in [1, 100_000, 600_000] {
            let pieces = Pieces::cut(&model, piece);
            assert!(pieces.cut.segments().len() > 1);
            let made = pieces
                .run(
                    engine.inputs(),
                    std::slice::from_ref(&input),
                    engine.outputs(),
                )
                .unwrap();
            assert_eq!(made, whole, "pieces of {piece} bytes");
        }
        assert_eq!(Pieces::cut(&model, 1 << 30).cut.segments().len(), 1);
        assert!(Pieces::of(&model).is_none());
    }
}
