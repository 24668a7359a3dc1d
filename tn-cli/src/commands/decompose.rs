//! `tnq decompose`: one array into a container of cores.

mod report;

use std::io;
use std::path::Path;

use ndarray::{Array2, ArrayD, Ix2};
use tn_formats::npy::NpyArray;
use tn_formats::{
    Container, Real, Strategy, TensorTrain, TtMatrix, TtQuantizer, Tucker, TuckerQuantizer,
};

use self::report::{
    Errors, Part, Report, Total, coded_parts, distance, float_parts, strategy_name, text, truncated,
};
use super::{print, print_json};
use crate::args::DecomposeArgs;
use crate::array_job::{DecomposeJob, Shape, Store, reshaped};
use crate::error::CliError;
use crate::job::use_threads;
use crate::model::read_array;
use crate::progress::Progress;

/// What the array became.
struct Made {
    container: Container,
    kind: &'static str,
    ranks: Vec<usize>,
    parts: Vec<Part>,
    errors: Errors,
    strategy: Option<Strategy>,
}

/// Run the command.
pub(crate) fn run(args: &DecomposeArgs) -> Result<(), CliError> {
    let job = DecomposeJob::new(args)?;
    use_threads(args.compute.threads)?;
    let progress = Progress::detect(args.talk.quiet);
    let stage = progress.stage("reading", 0);
    let array = read_array(&job.input, job.name.as_deref())?;
    let calib = job.calib.as_deref().map(second_moment).transpose()?;
    drop(stage);
    let stage = progress.stage("decomposing", 0);
    let (data_type, dense_bytes) = (array.dtype(), array.len() * element_bytes(&array));
    let (found, made) = match array {
        NpyArray::F64(array) => (array.shape().to_vec(), make(&job, array, calib.as_ref())?),
        other => (
            other.shape().to_vec(),
            make(&job, other.to_f32(), calib.as_ref())?,
        ),
    };
    drop(stage);
    let mut file = Vec::new();
    let failed = |error: tn_formats::Error| CliError::content(&job.input, error);
    made.container.write(&mut file).map_err(failed)?;
    job.output
        .write(|writer| io::Write::write_all(writer, &file))?;

    let sum = |count: fn(&Part) -> usize| made.parts.iter().map(count).sum::<usize>();
    let stored = sum(|part| part.bytes);
    let report = Report {
        schema: super::SCHEMA,
        command: "decompose",
        version: env!("CARGO_PKG_VERSION"),
        input: job.input.display().to_string(),
        name: job.name.clone(),
        output: job.output.path().display().to_string(),
        kind: made.kind,
        data_type,
        total: Total {
            dense_parameters: found.iter().product(),
            dense_bytes,
            parameters: sum(|part| part.parameters),
            bits: sum(|part| part.bits),
            bytes: stored,
            file_bytes: file.len(),
            ratio: dense_bytes as f64 / stored as f64,
        },
        shape: found,
        ranks: made.ranks,
        parts: made.parts,
        errors: made.errors,
        calib: job.calib.as_deref().map(|path| path.display().to_string()),
        strategy: made.strategy.map(strategy_name),
    };
    if args.talk.json {
        print_json(&report)
    } else {
        print(text(&report).as_bytes())
    }
}

/// Decompose, quantize, measure.
fn make<T: Real>(
    job: &DecomposeJob,
    array: ArrayD<T>,
    calib: Option<&Array2<f64>>,
) -> Result<Made, CliError>
where
    Container: From<TensorTrain<T>> + From<TtMatrix<T>> + From<Tucker<T>>,
{
    let failed = |error: tn_formats::Error| CliError::content(&job.input, error);
    match job.shape(array.shape())? {
        Shape::Train(sizes) => {
            let array = reshaped(array, &sizes);
            let (train, certificate) =
                TensorTrain::decompose(array.view(), &job.truncation).map_err(failed)?;
            let mut errors = truncated(&certificate);
            let (ranks, kind) = (train.ranks(), "tensor_train");
            let Store::Codes(codes) = &job.store else {
                errors.measured = distance(array.view(), train.to_dense().view());
                let parts = train.cores().iter().map(|c| c.view().shape().to_vec());
                let parts = float_parts::<T>(parts, core_name);
                return Ok(Made {
                    container: train.into(),
                    kind,
                    ranks,
                    parts,
                    errors,
                    strategy: None,
                });
            };
            let shapes: Vec<_> = train
                .cores()
                .iter()
                .map(|c| c.view().shape().to_vec())
                .collect();
            let quantizer = TtQuantizer::new(codes.whole())
                .with_core_schemes(codes.each(shapes.iter().map(Vec::as_slice))?)
                .with_strategy(codes.strategy);
            let (coded, error) = quantizer.quantize_measured(&train).map_err(failed)?;
            errors.quantized(&error);
            errors.measured = distance(array.view(), coded.dequantize().to_dense().view());
            let shapes = coded.cores().iter().map(|c| c.shape().to_vec());
            Ok(Made {
                kind,
                ranks,
                parts: coded_parts(shapes, coded.report().cores(), core_name),
                errors,
                strategy: Some(error.used),
                container: coded.into(),
            })
        }
        Shape::Matrix(modes) => {
            let dense = array.into_dimensionality::<Ix2>();
            let dense = dense.map_err(|error| CliError::content(&job.input, error))?;
            let (n, found) = (dense.ncols(), calib.map(Array2::nrows));
            if let (Some(found), Some(path)) = (found.filter(|found| *found != n), &job.calib) {
                let problem = format!("expected {n} columns, as the matrix has, found {found}");
                return Err(CliError::content(path, problem));
            }
            let (train, certificate) = match calib {
                Some(c) => {
                    TtMatrix::decompose_weighted(dense.view(), c.view(), &modes, &job.truncation)
                }
                None => TtMatrix::decompose(dense.view(), &modes, &job.truncation),
            }
            .map_err(failed)?;
            let mut errors = truncated(&certificate);
            let (ranks, kind) = (train.ranks(), "tt_matrix");
            let Store::Codes(codes) = &job.store else {
                errors.of_matrix(dense.view(), train.to_dense().view(), calib);
                let parts = train.cores().iter().map(|c| c.shape().to_vec());
                let parts = float_parts::<T>(parts, core_name);
                return Ok(Made {
                    container: train.into(),
                    kind,
                    ranks,
                    parts,
                    errors,
                    strategy: None,
                });
            };
            let shapes: Vec<_> = train.cores().iter().map(|c| c.shape()).collect();
            let quantizer = TtQuantizer::new(codes.whole())
                .with_core_schemes(codes.each(shapes.iter().map(|s| &s[..]))?)
                .with_strategy(codes.strategy);
            let (coded, error) = match calib {
                Some(c) => quantizer.quantize_matrix_weighted(&train, c.view()),
                None => quantizer.quantize_matrix_measured(&train),
            }
            .map_err(failed)?;
            errors.quantized(&error);
            errors.of_matrix(dense.view(), coded.dequantize().to_dense().view(), calib);
            let shapes = coded.cores().iter().map(|c| c.shape().to_vec());
            Ok(Made {
                kind,
                ranks,
                parts: coded_parts(shapes, coded.report().cores(), core_name),
                errors,
                strategy: Some(error.used),
                container: coded.into(),
            })
        }
        Shape::Tucker(sizes) => make_tucker(job, &reshaped(array, &sizes)),
    }
}

fn make_tucker<T: Real>(job: &DecomposeJob, array: &ArrayD<T>) -> Result<Made, CliError>
where
    Container: From<Tucker<T>>,
{
    let failed = |error: tn_formats::Error| CliError::content(&job.input, error);
    let (network, certificate) =
        Tucker::decompose(array.view(), &job.truncation).map_err(failed)?;
    let mut errors = truncated(&certificate);
    let (ranks, kind) = (network.multilinear_ranks(), "tucker");
    let Store::Codes(codes) = &job.store else {
        errors.measured = distance(array.view(), network.to_dense().view());
        let factors = network.factors().iter().map(|f| f.shape().to_vec());
        let shapes = std::iter::once(ranks.clone()).chain(factors);
        let parts = float_parts::<T>(shapes, tucker_name);
        return Ok(Made {
            container: network.into(),
            kind,
            ranks,
            parts,
            errors,
            strategy: None,
        });
    };
    let factors = network.factors().iter().map(|f| f.shape());
    let schemes = codes.each(std::iter::once(&ranks[..]).chain(factors))?;
    let quantizer = TuckerQuantizer::new(codes.whole())
        .with_part_schemes(schemes)
        .with_strategy(codes.strategy);
    let (coded, error) = quantizer.quantize_measured(&network).map_err(failed)?;
    errors.quantization = Some(error.relative);
    errors.measured = distance(array.view(), coded.dequantize().to_dense().view());
    let factors = coded.factors().iter().map(|f| f.shape().to_vec());
    let shapes = std::iter::once(coded.core().shape().to_vec()).chain(factors);
    Ok(Made {
        kind,
        ranks,
        parts: coded_parts(shapes, coded.report().cores(), tucker_name),
        errors,
        strategy: Some(error.used),
        container: coded.into(),
    })
}

fn core_name(k: usize) -> String {
    format!("core {k}")
}

fn tucker_name(k: usize) -> String {
    match k {
        0 => "core".to_owned(),
        _ => format!("factor {}", k - 1),
    }
}

fn element_bytes(array: &NpyArray) -> usize {
    match array.dtype() {
        "float64" | "int64" => 8,
        "float32" | "int32" => 4,
        "float16" => 2,
        _ => 1,
    }
}

/// `E[x xᵀ]` from samples in rows, or the symmetric matrix that it is already.
fn second_moment(path: &Path) -> Result<Array2<f64>, CliError> {
    let array = read_array(path, None)?;
    let found = array.shape().to_vec();
    let wide = match array {
        NpyArray::F64(array) => array,
        other => other.to_f32().mapv(f64::from),
    };
    let samples = wide.into_dimensionality::<Ix2>().map_err(|_| {
        let problem = format!("expected samples [S, N] or a second moment [N, N], found {found:?}");
        CliError::content(path, problem)
    })?;
    if samples.is_square() && samples == samples.t() {
        return Ok(samples);
    }
    let count = samples.nrows().max(1) as f64;
    let moment = tn_formats::linalg::matmul(samples.t(), samples.view());
    moment
        .map(|moment| moment / count)
        .map_err(|error| CliError::content(path, error))
}
