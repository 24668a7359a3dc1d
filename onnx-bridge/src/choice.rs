//! What a layer is to become: asked for by a job, resolved for one matrix.

use std::num::NonZeroUsize;

use quant_core::{Bits, Granularity, QuantScheme};
use serde::Serialize;
use tn_formats::{Layout, MatrixModes, Strategy, Truncation};

use crate::inspect::Format;
use crate::network::Network;
use crate::skip::SkipReason;

/// Which codes share a scale in the arrays of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CoreGranularity {
    /// One scale for each core.
    Core,
    /// One scale for each index of a core's output axis: the right rank, or the row mode where that rank is 1; of a table's
    /// train, one for each slice.
    Axis,
    /// One scale for each run of so many elements along the contracted axis.
    Block(NonZeroUsize),
}

/// How the arrays of a network become codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantization {
    /// Bits of a code.
    pub bits: Bits,
    /// Symmetric or affine.
    pub mapping: MappingChoice,
    /// Which codes share a scale.
    pub granularity: CoreGranularity,
}

/// Symmetric or affine codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappingChoice {
    /// Signed codes around zero, no zero points.
    Symmetric,
    /// Unsigned codes with a zero point beside each scale.
    Affine,
}

impl Default for Quantization {
    /// 8 bits, symmetric, one scale for each core.
    fn default() -> Self {
        Self {
            bits: Bits::B8,
            mapping: MappingChoice::Symmetric,
            granularity: CoreGranularity::Core,
        }
    }
}

impl Quantization {
    pub(crate) fn scheme(&self, granularity: Granularity) -> QuantScheme {
        let scheme = match self.mapping {
            MappingChoice::Symmetric => QuantScheme::symmetric(self.bits),
            MappingChoice::Affine => QuantScheme::affine(self.bits),
        };
        scheme.with_granularity(granularity)
    }
}

/// The form of a layer, resolved for its matrix.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum NetworkChoice {
    /// A TT-matrix; low rank is its split form of two cores.
    Tt {
        /// How the matrix is cut.
        modes: MatrixModes,
        /// Where the decomposition stops.
        truncation: Truncation,
    },
    /// A core and two factors.
    Tucker {
        /// Where the decomposition stops.
        truncation: Truncation,
    },
    /// The matrix itself in fewer bits.
    Dense,
}

/// What one layer becomes: a form and a quantization.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerChoice {
    network: NetworkChoice,
    format: Format,
    quantization: Quantization,
    strategy: Strategy,
}

impl LayerChoice {
    /// A choice of these two parts, the cores of a train quantized as they come.
    pub fn new(network: NetworkChoice, quantization: Quantization) -> Self {
        let format = match &network {
            NetworkChoice::Tt { modes, .. }
                if modes.layout() == Layout::Split && modes.cores() == 2 =>
            {
                Format::LowRank
            }
            NetworkChoice::Tt { .. } => Format::Tt,
            NetworkChoice::Tucker { .. } => Format::Tucker,
            NetworkChoice::Dense => Format::Dense,
        };
        Self {
            network,
            format,
            quantization,
            strategy: Strategy::Independent,
        }
    }

    /// The same choice, the cores of a train quantized in another way at the same bytes.
    #[must_use]
    pub fn with_strategy(self, strategy: Strategy) -> Self {
        Self { strategy, ..self }
    }

    /// The same choice under the name that its form has for the kernels of convolutions.
    #[must_use]
    pub(crate) fn named(self, format: Format) -> Self {
        Self { format, ..self }
    }

    /// The form.
    pub fn network(&self) -> &NetworkChoice {
        &self.network
    }

    /// The quantization.
    pub fn quantization(&self) -> &Quantization {
        &self.quantization
    }

    /// How the cores of a train are quantized.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// The name of the form.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// The form that a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FormatRule {
    /// Dense codes, or low rank or a train where it beats them in bytes and in weight error. See [`Spec`].
    #[default]
    Auto,
    /// A form named outright.
    Use(Format),
    /// The weight stays.
    Keep,
}

/// What a job asks for one weight. The default is [`FormatRule::Auto`] at 8 bits.
///
/// `Auto` looks at the weight alone: the dense matrix at the asked bits is what every other form has to beat, in bytes
/// **and** in relative Frobenius error. One of at most half the dense form's bytes may have up to twice its error, since
/// each further factor adds a rounding error of its own. A weight without structure ends dense; one with a low rank or
/// with a train's structure does not.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// The form.
    pub format: FormatRule,
    /// The layout of a train; interleaved where nothing is said.
    pub layout: Option<Layout>,
    /// Row (output) and column (input) modes of a train; balanced where nothing is said.
    pub modes: Option<(Vec<usize>, Vec<usize>)>,
    /// The number of row modes where `modes` says nothing; 2 by default.
    pub order: Option<usize>,
    /// Where the decomposition stops; a relative error of 0.1 where nothing is said.
    pub truncation: Option<Truncation>,
    /// The quantization.
    pub quantization: Quantization,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            format: FormatRule::Auto,
            layout: None,
            modes: None,
            order: None,
            truncation: None,
            quantization: Quantization::default(),
        }
    }
}

/// Where a decomposition stops when nobody says.
const DEFAULT_EPSILON: f64 = 0.1;

impl Spec {
    /// The weight stays.
    pub fn keep() -> Self {
        Self {
            format: FormatRule::Keep,
            ..Self::default()
        }
    }

    /// A form, everything else as by default.
    pub fn of(format: Format) -> Self {
        Self {
            format: FormatRule::Use(format),
            ..Self::default()
        }
    }

    /// Where a decomposition stops.
    pub(crate) fn truncation(&self) -> Truncation {
        let default = Truncation::RelativeError(DEFAULT_EPSILON);
        self.truncation.clone().unwrap_or(default)
    }

    /// Resolves a form that is named outright for a matrix `[M, N]`.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] where the modes do not make up the matrix.
    pub(crate) fn resolve(
        &self,
        format: Format,
        [rows, cols]: [usize; 2],
    ) -> Result<LayerChoice, SkipReason> {
        let misfit = |e: tn_formats::Error| SkipReason::Misfit {
            problem: e.to_string(),
        };
        let truncation = self.truncation();
        let network = match format {
            Format::Dense => NetworkChoice::Dense,
            Format::Tucker => NetworkChoice::Tucker { truncation },
            Format::LowRank => NetworkChoice::Tt {
                modes: MatrixModes::low_rank(rows, cols).map_err(misfit)?,
                truncation,
            },
            Format::Tt => {
                let layout = self.layout.unwrap_or(Layout::Interleaved);
                let modes = match &self.modes {
                    Some((row, col)) => MatrixModes::new(layout, row.clone(), col.clone()),
                    None => MatrixModes::balanced(layout, rows, cols, self.order.unwrap_or(2)),
                };
                let modes = modes.map_err(misfit)?;
                modes.check(rows, cols).map_err(misfit)?;
                NetworkChoice::Tt { modes, truncation }
            }
        };
        Ok(LayerChoice::new(network, self.quantization))
    }
}

/// What happens to a weight whose codes, with the operators around them, take more bytes than the weight itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Growth {
    /// It stays, so that no file grows.
    #[default]
    Refused,
    /// It is rewritten all the same: for experiments on small layers.
    Allowed,
}

/// What a whole run is to do: one [`Spec`] for each weight that has its own, one for all others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Job {
    default: Spec,
    growth: Growth,
    weights: std::collections::BTreeMap<String, Spec>,
    importance: std::collections::BTreeMap<String, Vec<f64>>,
    networks: std::collections::BTreeMap<String, (LayerChoice, Network)>,
}

impl Job {
    /// The same for every weight.
    pub fn new(default: Spec) -> Self {
        Self {
            default,
            growth: Growth::default(),
            weights: std::collections::BTreeMap::new(),
            importance: std::collections::BTreeMap::new(),
            networks: std::collections::BTreeMap::new(),
        }
    }

    /// The same job with its own spec for one weight, by the name under which it is stored.
    pub fn with_weight(mut self, name: impl Into<String>, spec: Spec) -> Self {
        self.weights.insert(name.into(), spec);
        self
    }

    /// The same job with how much each row of a table counts, by the name under which it is stored: a table of low rank
    /// is nearest where that is large.
    pub fn with_importance(mut self, name: impl Into<String>, rows: Vec<f64>) -> Self {
        self.importance.insert(name.into(), rows);
        self
    }

    /// How much each row of a table counts, where that is known.
    pub fn importance(&self, weight: &str) -> Option<&[f64]> {
        self.importance.get(weight).map(Vec::as_slice)
    }

    /// Gives it networks that are made already, by the name of their weight.
    #[cfg(feature = "tract")]
    pub(crate) fn set_networks(
        &mut self,
        networks: std::collections::BTreeMap<String, (LayerChoice, Network)>,
    ) {
        self.networks = networks;
    }

    /// The network of a weight that is made already.
    pub(crate) fn network(&self, weight: &str) -> Option<&(LayerChoice, Network)> {
        self.networks.get(weight)
    }

    /// The same job with another word on growth.
    pub fn with_growth(mut self, growth: Growth) -> Self {
        self.growth = growth;
        self
    }

    /// What happens to a weight that would grow.
    pub fn growth(&self) -> Growth {
        self.growth
    }

    /// The same job with another number of bits for every weight; networks that were fitted are not kept.
    pub fn with_bits(mut self, bits: Bits) -> Self {
        let specs = std::iter::once(&mut self.default).chain(self.weights.values_mut());
        specs.for_each(|spec| spec.quantization.bits = bits);
        self.networks.clear();
        self
    }

    /// The spec of a weight.
    pub fn spec(&self, weight: &str) -> &Spec {
        self.weights.get(weight).unwrap_or(&self.default)
    }

    /// The weights that have their own spec.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        self.weights.keys().map(String::as_str)
    }
}
