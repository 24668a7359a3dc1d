//! The arguments of `tnq decompose`, checked against each other before the array is read.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use ndarray::ArrayD;
use quant_core::{Bits, QuantScheme};
use tn_formats::{Gauge, Layout, MatrixModes, Rotation, Strategy, Truncation};

use crate::args::DecomposeArgs;
use crate::error::CliError;
use crate::job::{existing, not_the_input};
use crate::output::OutputFile;
use crate::settings::{
    self, ArrayFormat, ArrayModes, Granularity, Ranks, Scheme, StrategyName, Width,
};

/// Relative error of a decomposition where no ranks are given.
const EPS: f64 = 0.1;
/// Modes on each side of a matrix where none are given.
const ORDER: usize = 2;

/// What the array becomes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    /// A train of the array, or of a reshaped one.
    Train(Vec<usize>),
    /// A matrix train.
    Matrix(MatrixModes),
    /// A Tucker network of the array, or of a reshaped one.
    Tucker(Vec<usize>),
}

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Store {
    /// As they are.
    Float,
    /// As integers of so many bits.
    Codes(Codes),
}

/// How integers stand for numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Codes {
    pub(crate) bits: Bits,
    pub(crate) scheme: Scheme,
    pub(crate) granularity: Granularity,
    pub(crate) strategy: Strategy,
}

/// All that `tnq decompose` needs to know.
#[derive(Debug)]
pub(crate) struct DecomposeJob {
    pub(crate) input: PathBuf,
    pub(crate) name: Option<String>,
    pub(crate) output: OutputFile,
    pub(crate) calib: Option<PathBuf>,
    pub(crate) truncation: Truncation,
    pub(crate) store: Store,
    format: ArrayFormat,
    layout: Option<settings::Layout>,
    modes: Option<ArrayModes>,
}

impl DecomposeJob {
    /// Check what can be checked before the array is read.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for choices that exclude each other, those of [`OutputFile::new`] for the output.
    pub(crate) fn new(args: &DecomposeArgs) -> Result<Self, CliError> {
        let usage = |problem: &str| Err(CliError::Usage(problem.to_owned()));
        if args.layout.is_some() && args.format != ArrayFormat::Tt {
            return usage("--layout: a layout needs the format tt");
        }
        if args.modes.is_some() && args.format == ArrayFormat::LowRank {
            return usage(
                "--modes: low rank has none; for more cores take --format tt --layout split",
            );
        }
        let sides = matches!(args.modes, Some(ArrayModes::Matrix(_)));
        if sides && args.format == ArrayFormat::Tucker {
            return usage("--modes: a Tucker network takes the sizes of an array, such as 8x8x16");
        }
        let array = matches!(args.modes, Some(ArrayModes::Array(_)));
        if array && args.layout.is_some() {
            return usage("--layout: a layout needs modes IN:OUT, the array is given other ones");
        }
        if args.calib.is_some() && (args.format == ArrayFormat::Tucker || array) {
            return usage(
                "--calib: inputs are of use to a matrix only (tt with modes IN:OUT, low-rank)",
            );
        }
        let store = match args.bits {
            Width::Float => {
                let told = [
                    ("--scheme", args.scheme.is_some()),
                    ("--granularity", args.granularity.is_some()),
                    ("--strategy", args.strategy.is_some()),
                ];
                if let Some((flag, _)) = told.iter().find(|(_, told)| *told) {
                    return usage(&format!("{flag}: floats have none; give --bits 2 to 8"));
                }
                Store::Float
            }
            Width::Bits(bits) => Store::Codes(Codes {
                bits,
                scheme: args.scheme.unwrap_or(Scheme::Symmetric),
                granularity: args.granularity.unwrap_or(Granularity::Core),
                strategy: strategy(args.strategy, args.compute.seed),
            }),
        };
        not_the_input(&args.input, &args.output)?;
        if let Some(calib) = &args.calib {
            not_the_input(calib, &args.output)?;
        }
        Ok(Self {
            input: args.input.clone(),
            name: args.name.clone(),
            output: OutputFile::new(&args.output, existing(args.force))?,
            calib: args.calib.clone(),
            truncation: match &args.ranks {
                None => Truncation::RelativeError(EPS),
                Some(Ranks::Max(rank)) => Truncation::MaxRank(*rank),
                Some(Ranks::Each(ranks)) => Truncation::Ranks(ranks.clone()),
                Some(Ranks::Eps(eps)) => Truncation::RelativeError(*eps),
            },
            store,
            format: args.format,
            layout: args.layout,
            modes: args.modes.clone(),
        })
    }

    /// What an array of this shape becomes.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for choices that do not fit the shape.
    pub(crate) fn shape(&self, shape: &[usize]) -> Result<Shape, CliError> {
        let (format, modes) = (self.format, self.modes.as_ref());
        let of_matrix = format == ArrayFormat::LowRank
            || self.layout.is_some()
            || self.calib.is_some()
            || matches!(modes, Some(ArrayModes::Matrix(_)));
        let tells =
            |problem: String| CliError::Usage(format!("{}: {problem}", self.input.display()));
        let array = |sizes: Option<&ArrayModes>| match sizes {
            Some(ArrayModes::Array(sizes)) if product(sizes) == product(shape) => Ok(sizes.clone()),
            Some(modes) => Err(CliError::Usage(format!(
                "--modes: {modes} has {} elements, expected {}",
                modes.elements(),
                product(shape)
            ))),
            None => Ok(shape.to_vec()),
        };
        let (rows, cols) = match (format, shape, of_matrix) {
            (ArrayFormat::Tucker, ..) => return Ok(Shape::Tucker(array(modes)?)),
            (_, &[rows, cols], true) => (rows, cols),
            (_, &[rows, cols], false) if modes.is_none() => (rows, cols),
            (_, _, true) => {
                let found = format!("expected a matrix, found shape {shape:?}");
                return Err(tells(found));
            }
            _ => return Ok(Shape::Train(array(modes)?)),
        };
        let wrong = |error: tn_formats::Error| CliError::Usage(format!("--modes: {error}"));
        let layout = match self.layout {
            Some(settings::Layout::Split) => Layout::Split,
            Some(settings::Layout::Interleaved) | None => Layout::Interleaved,
        };
        let chosen = match (format, modes) {
            (ArrayFormat::LowRank, _) => MatrixModes::low_rank(rows, cols),
            (_, Some(ArrayModes::Matrix(modes))) => {
                MatrixModes::new(layout, modes.output.clone(), modes.input.clone())
            }
            _ => MatrixModes::balanced(layout, rows, cols, ORDER),
        };
        let chosen = chosen.map_err(wrong)?;
        chosen.check(rows, cols).map_err(wrong)?;
        Ok(Shape::Matrix(chosen))
    }
}

impl Codes {
    /// The scheme of a whole core.
    pub(crate) fn whole(&self) -> QuantScheme {
        match self.scheme {
            Scheme::Symmetric => QuantScheme::symmetric(self.bits),
            Scheme::Affine => QuantScheme::affine(self.bits),
        }
    }

    /// The schemes of cores or factors of these shapes: scales along the longest axis of each, or in blocks of it.
    ///
    /// # Errors
    ///
    /// [`CliError::Usage`] for a block size that is none.
    pub(crate) fn each<'a>(
        &self,
        shapes: impl Iterator<Item = &'a [usize]>,
    ) -> Result<Vec<QuantScheme>, CliError> {
        let scheme = |shape: &[usize]| {
            let longest = (0..shape.len()).max_by_key(|&axis| (shape[axis], shape.len() - axis));
            let axis = longest.unwrap_or(0);
            Ok(match self.granularity {
                Granularity::Core => self.whole(),
                Granularity::Axis => self
                    .whole()
                    .with_granularity(quant_core::Granularity::per_axis(axis)),
                Granularity::Block(size) => self.whole().with_granularity(block(axis, size)?),
            })
        };
        shapes.map(scheme).collect()
    }
}

fn block(axis: usize, size: NonZeroUsize) -> Result<quant_core::Granularity, CliError> {
    quant_core::Granularity::per_block(axis, size.get())
        .map_err(|error| CliError::Usage(format!("--granularity: {error}")))
}

fn strategy(name: Option<StrategyName>, seed: u64) -> Strategy {
    match name.unwrap_or(StrategyName::Compensated) {
        StrategyName::Independent => Strategy::Independent,
        StrategyName::Symmetric => Strategy::Gauge(Gauge::Symmetric),
        StrategyName::Rotated => Strategy::Gauge(Gauge::Rotated(Rotation::Hadamard { seed })),
        StrategyName::Learned => {
            Strategy::Gauge(Gauge::Rotated(Rotation::Learned { seed, steps: 30 }))
        }
        StrategyName::Compensated => Strategy::Compensated { sweeps: 2, seed },
    }
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().product()
}

/// The same elements in another shape of as many.
pub(crate) fn reshaped<T>(array: ArrayD<T>, sizes: &[usize]) -> ArrayD<T> {
    array
        .into_shape_with_order(sizes)
        .expect("the sizes were checked against the shape")
}
