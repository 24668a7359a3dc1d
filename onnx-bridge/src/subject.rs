//! What the forms of a weight depend on beside its numbers: whether it is a matrix, the kernel of a convolution or a table.

use ndarray::ArrayView2;
use tn_formats::{Layout, MatrixModes, Strategy, Truncation};

use crate::choice::{LayerChoice, NetworkChoice, Spec};
use crate::conv_layer::ConvLayer;
use crate::emit;
use crate::inspect::Format;
use crate::network::Network;
use crate::skip::SkipReason;
use crate::table::CodedTable;
use crate::table_layer::TableLayer;
use crate::table_train::{self, TableTrain};
use crate::view::GraphView;

/// A weight to be rewritten, as `W [M, N]`.
///
/// Every form of a kernel other than dense codes is a split train of it, and every core of that train becomes one node:
///
/// | form | column modes | row modes | nodes |
/// |---|---|---|---|
/// | low rank | `[in * taps]` | `[out]` | the whole window onto r channels, then 1x1 |
/// | tucker | `[in, taps]` | `[out]` | 1x1, the whole window on few channels, 1x1: partial Tucker over the channel modes |
/// | tt | `[in, k_1, k_2, ..]` | `[out]` | 1x1, one node for each spatial axis, 1x1 |
///
/// Tucker-2 is that train because its core `[r_in, taps, r_out]` is a core of a train as it stands; so a kernel takes part
/// in all that trains have: TT-SVD with its certificate, gauges, compensated rounding.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// The matrix of dense layers.
    Matrix([usize; 2]),
    /// The kernel of a convolution.
    Kernel(&'a GraphView<'a>, &'a ConvLayer),
    /// A table, rows by columns, and how much each row counts where that is known.
    Table([usize; 2], Option<&'a [f64]>),
    /// A tensor that is replaced where it is stored, as a matrix: it takes dense codes and no other form.
    Stored([usize; 2]),
}

impl Subject<'_> {
    /// The choice for a form that is named outright.
    ///
    /// # Errors
    /// Why this weight cannot take the form.
    pub(crate) fn resolve(&self, spec: &Spec, format: Format) -> Result<LayerChoice, SkipReason> {
        match self {
            Self::Matrix(shape) => spec.resolve(format, *shape),
            Self::Stored(shape) if format == Format::Dense => spec.resolve(format, *shape),
            Self::Stored(_) => Err(SkipReason::Misfit {
                problem: format!(
                    "expected the format dense, the only one for this use of a weight, found {}",
                    format.name()
                ),
            }),
            Self::Kernel(view, layer) => {
                if let Some(reason) = layer.refuses(format, view) {
                    return Err(reason);
                }
                if format == Format::Dense {
                    return Ok(LayerChoice::new(NetworkChoice::Dense, spec.quantization));
                }
                if let Some(modes) = spec.modes.as_ref().filter(|_| format == Format::Tt) {
                    return Err(SkipReason::Misfit {
                        problem: format!(
                            "expected no modes for a kernel, which is cut into channels and taps, found {modes:?}"
                        ),
                    });
                }
                kernel_train(layer, format, spec, spec.truncation())
            }
            Self::Table(shape, _) => match TableLayer::refuses(format) {
                Some(reason) => Err(reason),
                None if format == Format::Tt => {
                    table_train::choice(spec, *shape, spec.truncation())
                }
                None => spec.resolve(format, *shape),
            },
        }
    }

    /// The forms that dense codes are measured against.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] where the modes of the job do not make up the matrix.
    pub(crate) fn rivals(
        &self,
        spec: &Spec,
        truncation: &Truncation,
    ) -> Result<Vec<LayerChoice>, SkipReason> {
        match self {
            Self::Matrix(shape) => {
                let modes = matrix_rivals(spec, *shape)?.into_iter();
                let choice = |modes| {
                    let truncation = truncation.clone();
                    LayerChoice::new(NetworkChoice::Tt { modes, truncation }, spec.quantization)
                };
                Ok(modes.map(choice).collect())
            }
            Self::Stored(_) => Ok(Vec::new()),
            Self::Kernel(view, layer) => [Format::LowRank, Format::Tucker, Format::Tt]
                .into_iter()
                .filter(|format| layer.refuses(*format, view).is_none())
                .map(|format| kernel_train(layer, format, spec, truncation.clone()))
                .collect(),
            Self::Table([rows, columns], _) => {
                let modes = MatrixModes::low_rank(*rows, *columns).map_err(misfit)?;
                let low_rank = NetworkChoice::Tt {
                    modes,
                    truncation: truncation.clone(),
                };
                Ok(vec![
                    LayerChoice::new(low_rank, spec.quantization),
                    table_train::choice(spec, [*rows, *columns], truncation.clone())?,
                ])
            }
        }
    }

    /// The network of a choice.
    ///
    /// # Errors
    /// As [`Network::build`].
    pub(crate) fn build(
        &self,
        w: ArrayView2<'_, f32>,
        choice: &LayerChoice,
    ) -> Result<Network, SkipReason> {
        let quantization = choice.quantization();
        match (self, choice.network()) {
            (Self::Table(..), NetworkChoice::Dense) => {
                CodedTable::rows(w, quantization).map(Network::Table)
            }
            (Self::Table(_, importance), NetworkChoice::Tt { modes, truncation })
                if choice.format() == Format::Tt =>
            {
                let table = TableTrain::build(w, *importance, (modes, truncation), quantization);
                table.map(Network::TableTrain)
            }
            (Self::Table(_, importance), NetworkChoice::Tt { truncation, .. }) => {
                let table = CodedTable::low_rank(w, *importance, truncation, quantization);
                table.map(Network::Table)
            }
            _ => Network::build(w, choice),
        }
    }

    /// The bytes of the initializers that stand for a network.
    ///
    /// # Errors
    /// [`SkipReason::Misfit`] for a network that has no operators here.
    pub(crate) fn stored_bytes(&self, network: &Network) -> Result<u64, SkipReason> {
        match self {
            Self::Matrix(_) | Self::Stored(_) => emit::stored_bytes(network),
            Self::Kernel(..) => emit::kernel_bytes(network),
            Self::Table(..) => match network {
                Network::Table(table) => Ok(table.bytes()),
                Network::TableTrain(table) => Ok(emit::table_train_bytes(table)),
                other => emit::stored_bytes(other),
            },
        }
    }
}

/// A kernel as a train, one core for each node of the chain.
fn kernel_train(
    layer: &ConvLayer,
    format: Format,
    spec: &Spec,
    truncation: Truncation,
) -> Result<LayerChoice, SkipReason> {
    let spatial = layer.spatial_axes().into_iter().map(|k| layer.kernel()[k]);
    let columns = match format {
        Format::Tt => std::iter::once(layer.channels()).chain(spatial).collect(),
        Format::Tucker => vec![layer.channels(), layer.taps()],
        Format::LowRank | Format::Dense => vec![layer.inputs()],
    };
    let modes = MatrixModes::new(Layout::Split, vec![layer.outputs()], columns).map_err(misfit)?;
    let network = NetworkChoice::Tt { modes, truncation };
    Ok(LayerChoice::new(network, spec.quantization)
        .with_strategy(Strategy::BEST)
        .named(format))
}

fn matrix_rivals(spec: &Spec, [rows, cols]: [usize; 2]) -> Result<Vec<MatrixModes>, SkipReason> {
    let mut rivals = vec![MatrixModes::low_rank(rows, cols).map_err(misfit)?];
    rivals.push(match &spec.modes {
        Some((row, col)) => {
            let layout = spec.layout.unwrap_or(Layout::Interleaved);
            let modes = MatrixModes::new(layout, row.clone(), col.clone()).map_err(misfit)?;
            modes.check(rows, cols).map_err(misfit)?;
            modes
        }
        None => MatrixModes::balanced(Layout::Interleaved, rows, cols, 2).map_err(misfit)?,
    });
    Ok(rivals)
}

fn misfit(error: tn_formats::Error) -> SkipReason {
    SkipReason::Misfit {
        problem: error.to_string(),
    }
}
