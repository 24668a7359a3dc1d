//! What a user may say about how a layer is compressed, as values that parse.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use clap::ValueEnum;
use quant_core::Bits;

/// The family a weight is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Integers, or low rank or a train where that beats them in bytes and in error of the weight
    Auto,
    /// A tensor train of the weight matrix
    Tt,
    /// Two factors: a split train of order 2
    LowRank,
    /// A Tucker core and its factors
    Tucker,
    /// The matrix itself, in integers
    Dense,
    /// The matrix on few levels plus a low-rank correction of its error; only with a goal
    Corrected,
}

impl Format {
    /// The word for it on the command line and in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tt => "tt",
            Self::LowRank => "low-rank",
            Self::Tucker => "tucker",
            Self::Dense => "dense",
            Self::Corrected => "corrected",
        }
    }
}

/// How the modes of a weight are dealt to the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Layout {
    /// Core k holds input mode k and output mode k
    Interleaved,
    /// First the input modes, then the output modes
    Split,
}

/// How integers stand for real numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scheme {
    /// Zero is code 0
    Symmetric,
    /// A zero point per scale
    Affine,
}

/// How many numbers share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granularity {
    /// One scale per core or factor.
    Core,
    /// One scale per index of a core's output axis.
    Axis,
    /// One scale per block of that many numbers.
    Block(NonZeroUsize),
}

impl FromStr for Granularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "core" => Ok(Self::Core),
            None if text == "axis" => Ok(Self::Axis),
            Some(("block", size)) => match size.parse() {
                Ok(size) => Ok(Self::Block(size)),
                Err(_) => Err(format!(
                    "expected a block size of at least 1, found {size:?}"
                )),
            },
            _ => Err(format!("expected core, axis or block:SIZE, found {text:?}")),
        }
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core => f.write_str("core"),
            Self::Axis => f.write_str("axis"),
            Self::Block(size) => write!(f, "block:{size}"),
        }
    }
}

/// How many ranks a decomposition keeps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ranks {
    /// At most this many at every bond.
    Max(usize),
    /// At most these, one per bond.
    Each(Vec<usize>),
    /// As many as a relative error of the weight needs.
    Eps(f64),
}

impl FromStr for Ranks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(eps) = text.strip_prefix("eps=") {
            return match eps.parse() {
                Ok(eps) if (0.0..1.0).contains(&eps) => Ok(Self::Eps(eps)),
                _ => Err(format!(
                    "expected a relative error from 0 to below 1 after eps=, found {eps:?}"
                )),
            };
        }
        let rank = |part: &str| match part.parse() {
            Ok(rank) if rank > 0 => Ok(rank),
            _ => Err(format!(
                "expected a rank (8), ranks (4,8,4) or eps=0.02, found {text:?}"
            )),
        };
        let ranks = text
            .split(',')
            .map(rank)
            .collect::<Result<Vec<usize>, _>>()?;
        Ok(match ranks[..] {
            [rank] => Self::Max(rank),
            _ => Self::Each(ranks),
        })
    }
}

impl fmt::Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max(rank) => write!(f, "{rank}"),
            Self::Each(ranks) => f.write_str(&join(ranks, ",")),
            Self::Eps(eps) => write!(f, "eps={eps}"),
        }
    }
}

/// `IN:OUT`, the modes of a layer's inputs and of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Modes {
    /// Their product is the number of the layer's inputs.
    pub(crate) input: Vec<usize>,
    /// Their product is the number of the layer's outputs.
    pub(crate) output: Vec<usize>,
}

impl FromStr for Modes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected IN:OUT, for example 4x7x4x7:4x8x8x4, found {text:?}");
        let side = |side: &str| -> Result<Vec<usize>, String> {
            let modes: Option<Vec<usize>> = side
                .split('x')
                .map(|mode| mode.parse().ok().filter(|&n| n > 0))
                .collect();
            let modes = modes.ok_or_else(wrong)?;
            let fits = modes
                .iter()
                .try_fold(1usize, |product, &n| product.checked_mul(n));
            fits.map(|_| modes)
                .ok_or_else(|| format!("the product of the modes {side} overflows"))
        };
        let (input, output) = text.split_once(':').ok_or_else(wrong)?;
        Ok(Self {
            input: side(input)?,
            output: side(output)?,
        })
    }
}

impl fmt::Display for Modes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", join(&self.input, "x"), join(&self.output, "x"))
    }
}

/// The family an array is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ArrayFormat {
    /// A tensor train; of a matrix, a train of its row and column modes
    Tt,
    /// Two factors of a matrix
    LowRank,
    /// A Tucker core and its factors
    Tucker,
}

/// How the cores of a train share their rounding errors, all at the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyName {
    /// Each core as it comes, on its own
    Independent,
    /// The bonds' weight shared evenly
    Symmetric,
    /// The same, and a Hadamard rotation in every bond
    Rotated,
    /// The same with a rotation that is learned
    Learned,
    /// Rotated, then core after core solved for and rounded against the others
    Compensated,
}

/// Modes of an array: those of both sides of a matrix, or sizes to reshape to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ArrayModes {
    /// `IN:OUT`.
    Matrix(Modes),
    /// `8x8x16`.
    Array(Vec<usize>),
}

impl ArrayModes {
    /// How many elements an array of these modes has.
    pub(crate) fn elements(&self) -> usize {
        let product = |sizes: &[usize]| sizes.iter().fold(1, |n: usize, &m| n.saturating_mul(m));
        match self {
            Self::Matrix(modes) => product(&modes.input).saturating_mul(product(&modes.output)),
            Self::Array(sizes) => product(sizes),
        }
    }
}

impl FromStr for ArrayModes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(':') {
            return text.parse().map(Self::Matrix);
        }
        let wrong = || format!("expected sizes such as 8x8x16, or IN:OUT, found {text:?}");
        let sizes = text
            .split('x')
            .map(|size| size.parse().ok().filter(|&n| n > 0));
        sizes
            .collect::<Option<Vec<usize>>>()
            .map(Self::Array)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for ArrayModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Matrix(modes) => modes.fmt(f),
            Self::Array(sizes) => f.write_str(&join(sizes, "x")),
        }
    }
}

/// How wide a stored number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// A float of the array's own type.
    Float,
    /// An integer.
    Bits(Bits),
}

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "float" {
            return Ok(Self::Float);
        }
        let bits = parse_bits(text);
        bits.map(Self::Bits)
            .map_err(|_| format!("expected 2 to 8 bits or float, found {text:?}"))
    }
}

/// A number of bits, 2 to 8.
pub(crate) fn parse_bits(text: &str) -> Result<Bits, String> {
    let bits = text.parse().ok().and_then(|bits| Bits::new(bits).ok());
    bits.ok_or_else(|| format!("expected 2 to 8 bits, found {text:?}"))
}

/// Choices for one layer or for all; what is `None` is left to a default.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) format: Option<Format>,
    pub(crate) layout: Option<Layout>,
    pub(crate) modes: Option<Modes>,
    pub(crate) ranks: Option<Ranks>,
    pub(crate) bits: Option<Bits>,
    pub(crate) scheme: Option<Scheme>,
    pub(crate) granularity: Option<Granularity>,
}

impl Settings {
    /// These settings, with what `over` says in place of what stands here.
    pub(crate) fn overlaid(self, over: &Self) -> Self {
        Self {
            format: over.format.or(self.format),
            layout: over.layout.or(self.layout),
            modes: over.modes.clone().or(self.modes),
            ranks: over.ranks.clone().or(self.ranks),
            bits: over.bits.or(self.bits),
            scheme: over.scheme.or(self.scheme),
            granularity: over.granularity.or(self.granularity),
        }
    }
}

/// The numbers with a separator between them.
pub(crate) fn join(numbers: &[usize], separator: &str) -> String {
    numbers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr<Err = String> + PartialEq + fmt::Debug + fmt::Display>(
        text: &str,
        want: Result<T, &str>,
    ) {
        match (text.parse::<T>(), want) {
            (Ok(got), Ok(want)) => {
                assert_eq!(got, want, "{text}");
                assert_eq!(got.to_string(), text);
            }
            (Err(got), Err(want)) => assert!(got.contains(want), "{text}: {got}"),
            (got, want) => panic!("{text}: expected {want:?}, found {got:?}"),
        }
    }

    #[test]
    fn ranks_are_one_number_a_list_or_an_error() {
        check("8", Ok(Ranks::Max(8)));
        check("4,8,4", Ok(Ranks::Each(vec![4, 8, 4])));
        check("eps=0.02", Ok(Ranks::Eps(0.02)));
        for wrong in [
            "", "0", "4,,4", "-1", "x", "eps=1", "eps=-0.1", "eps=nan", "eps=",
        ] {
            check::<Ranks>(wrong, Err("expected"));
        }
    }

    #[test]
    fn modes_are_inputs_then_outputs() {
        check(
            "4x7x4x7:4x8x8x4",
            Ok(Modes {
                input: vec![4, 7, 4, 7],
                output: vec![4, 8, 8, 4],
            }),
        );
        check(
            "784:10",
            Ok(Modes {
                input: vec![784],
                output: vec![10],
            }),
        );
        for wrong in ["", "4x7", "4x:2", "0x4:4", "4x7:4x8:4", "axb:2"] {
            check::<Modes>(wrong, Err("expected IN:OUT"));
        }
        check::<Modes>("4294967296x4294967296:2", Err("overflows"));
    }

    #[test]
    fn granularity_is_core_axis_or_block() {
        check("core", Ok(Granularity::Core));
        check("axis", Ok(Granularity::Axis));
        check(
            "block:32",
            Ok(Granularity::Block(NonZeroUsize::new(32).unwrap())),
        );
        for wrong in ["", "block", "block:", "block:0", "row"] {
            check::<Granularity>(wrong, Err("expected"));
        }
    }

    #[test]
    fn modes_of_an_array_are_sizes_or_two_sides() {
        check("8x8x16", Ok(ArrayModes::Array(vec![8, 8, 16])));
        let sides = Modes {
            input: vec![4, 7],
            output: vec![16],
        };
        check("4x7:16", Ok(ArrayModes::Matrix(sides)));
        check::<ArrayModes>("8x0", Err("expected sizes such as 8x8x16"));
        check::<ArrayModes>("8:x", Err("expected IN:OUT"));
        assert_eq!("float".parse(), Ok(Width::Float));
        assert_eq!("4".parse(), Ok(Width::Bits(Bits::B4)));
        assert!("9".parse::<Width>().unwrap_err().contains("or float"));
    }

    #[test]
    fn bits_are_two_to_eight() {
        for bits in 2..=8 {
            assert_eq!(parse_bits(&bits.to_string()).unwrap().get(), bits);
        }
        for wrong in ["1", "9", "", "four", "-4"] {
            assert!(
                parse_bits(wrong)
                    .unwrap_err()
                    .contains("expected 2 to 8 bits")
            );
        }
    }

    #[test]
    fn a_later_setting_replaces_only_what_it_says() {
        let base = Settings {
            format: Some(Format::Tt),
            bits: Some(Bits::B8),
            ..Settings::default()
        };
        let over = Settings {
            bits: Some(Bits::B4),
            ranks: Some(Ranks::Max(2)),
            ..Settings::default()
        };
        let want = Settings {
            bits: Some(Bits::B4),
            ranks: Some(Ranks::Max(2)),
            ..base.clone()
        };
        assert_eq!(base.overlaid(&over), want);
    }
}
