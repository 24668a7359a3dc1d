//! Alternating least squares over the cores of a matrix train, on second moments.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewD, Axis, IxDyn};
use tn_formats::linalg::gemm;

use crate::error::{Result, check_shape};
use crate::layers::{Layer, TtLinear};

/// Largest system of one core.
const MOST_UNKNOWNS: usize = 4096;

/// Conjugate-gradient steps per core and visit.
const CG_STEPS: usize = 60;

/// A tensor in f64, row-major.
struct Tensor {
    shape: Vec<usize>,
    data: Vec<f64>,
}

impl Tensor {
    /// Axes in another order, as a copy.
    fn permuted(data: &[f64], shape: &[usize], order: &[usize]) -> Vec<f64> {
        let view = ArrayViewD::from_shape(IxDyn(shape), data).expect("as many values as elements");
        view.permuted_axes(IxDyn(order)).iter().copied().collect()
    }
}

fn mat(data: &[f64], rows: usize, cols: usize) -> ArrayView2<'_, f64> {
    ArrayView2::from_shape((rows, cols), data).expect("as many values as elements")
}

fn product(a: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    gemm(1.0, a, b, 0.0, c.view_mut())?;
    Ok(c)
}

fn flat(a: Array2<f64>) -> Vec<f64> {
    a.into_raw_vec_and_offset().0
}

/// Second moments of centred inputs and outputs, the ridge added.
struct Moments {
    /// `[N, N]`.
    inputs: Vec<f64>,
    /// `[M, N]`.
    cross: Vec<f64>,
    /// Sum of squares of the centred outputs, and the ridge's constant.
    square: f64,
    /// Sum of squares of the centred outputs alone.
    outputs: f64,
    mean_x: Array1<f64>,
    mean_y: Array1<f64>,
}

/// Centred when the layer has a bias to take the means.
fn moments(
    x: ArrayView2<'_, f32>,
    y: ArrayView2<'_, f32>,
    bias: Option<&[f32]>,
    start: &Array2<f64>,
    ridge: f64,
) -> Result<Moments> {
    let (samples, n) = x.dim();
    let m = y.ncols();
    let mean = |a: ArrayView2<'_, f32>| {
        let mut sum = Array1::<f64>::zeros(a.ncols());
        a.rows()
            .into_iter()
            .for_each(|r| sum.zip_mut_with(&r, |s, &v| *s += f64::from(v)));
        sum / samples.max(1) as f64
    };
    let (mean_x, mean_y) = match bias {
        Some(_) => (mean(x), mean(y)),
        None => (Array1::zeros(n), Array1::zeros(m)),
    };
    let (mut inputs, mut cross) = (Array2::zeros((n, n)), Array2::zeros((m, n)));
    let mut outputs = 0.0;
    for (x, y) in x
        .axis_chunks_iter(Axis(0), 1024)
        .zip(y.axis_chunks_iter(Axis(0), 1024))
    {
        let (x, y) = (x.mapv(f64::from) - &mean_x, y.mapv(f64::from) - &mean_y);
        outputs += y.iter().map(|v| v * v).sum::<f64>();
        gemm(1.0, x.t(), x.view(), 1.0, inputs.view_mut())?;
        gemm(1.0, y.t(), x.view(), 1.0, cross.view_mut())?;
    }
    let ridge = ridge * inputs.diag().sum() / n as f64;
    inputs.diag_mut().iter_mut().for_each(|d| *d += ridge);
    cross.scaled_add(ridge, start);
    let square = outputs + ridge * start.iter().map(|w| w * w).sum::<f64>();
    Ok(Moments {
        inputs: flat(inputs),
        cross: flat(cross),
        square,
        outputs,
        mean_x,
        mean_y,
    })
}

/// The cores left of k as `[M_<, N_<, r]`, given those left of k - 1 and core k - 1.
fn grow_left(left: &Tensor, core: &Tensor) -> Result<Tensor> {
    let (&[m, n, r], &[_, p, q, s]) = (&left.shape[..], &core.shape[..]) else {
        return Ok(one());
    };
    let raw = flat(product(
        mat(&left.data, m * n, r),
        mat(&core.data, r, p * q * s),
    )?);
    let data = Tensor::permuted(&raw, &[m, n, p, q, s], &[0, 2, 1, 3, 4]);
    Ok(Tensor {
        shape: vec![m * p, n * q, s],
        data,
    })
}

/// The cores right of k as `[r', M_>, N_>]`, given core k + 1 and those right of it.
fn grow_right(core: &Tensor, right: &Tensor) -> Result<Tensor> {
    let (&[r, p, q, s], &[_, m, n]) = (&core.shape[..], &right.shape[..]) else {
        return Ok(one());
    };
    let raw = flat(product(
        mat(&core.data, r * p * q, s),
        mat(&right.data, s, m * n),
    )?);
    let data = Tensor::permuted(&raw, &[r, p, q, m, n], &[0, 1, 3, 2, 4]);
    Ok(Tensor {
        shape: vec![r, p * m, q * n],
        data,
    })
}

fn one() -> Tensor {
    Tensor {
        shape: vec![1, 1, 1],
        data: vec![1.0],
    }
}

/// The normal equations of one core: `H g = b` with `g` `[(r n r'), m]`.
fn normal_equations(
    left: &Tensor,
    core: &Tensor,
    right: &Tensor,
    moments: &Moments,
) -> Result<(Array2<f64>, Array2<f64>)> {
    let (ml, nl, r) = (left.shape[0], left.shape[1], left.shape[2]);
    let (m, n) = (core.shape[1], core.shape[2]);
    let (s, mr, nr) = (right.shape[0], right.shape[1], right.shape[2]);

    // Overlaps of the environments' columns: [r, r~, n_<, n_<~] and [n_>, n_>~, s, s~].
    let l = mat(&left.data, ml, nl * r);
    let overlap = flat(product(l.t(), l)?);
    let overlap_left = Tensor::permuted(&overlap, &[nl, r, nl, r], &[1, 3, 0, 2]);
    let turned = Tensor::permuted(&right.data, &[s, mr, nr], &[1, 0, 2]);
    let rt = mat(&turned, mr, s * nr);
    let overlap = flat(product(rt.t(), rt)?);
    let overlap_right = Tensor::permuted(&overlap, &[s, nr, s, nr], &[1, 3, 0, 2]);

    // H: contract the inputs' moments from the left, then from the right.
    let c = Tensor::permuted(
        &moments.inputs,
        &[nl, n, nr, nl, n, nr],
        &[0, 3, 1, 4, 2, 5],
    );
    let half = flat(product(
        mat(&overlap_left, r * r, nl * nl),
        mat(&c, nl * nl, n * n * nr * nr),
    )?);
    let full = flat(product(
        mat(&half, r * r * n * n, nr * nr),
        mat(&overlap_right, nr * nr, s * s),
    )?);
    // [r, r~, n, n~, s, s~] to [r, n, s, r~, n~, s~]
    let h = Tensor::permuted(&full, &[r, r, n, n, s, s], &[0, 2, 4, 1, 3, 5]);
    let unknowns = r * n * s;

    // b: the cross moments against both environments.
    let t = Tensor::permuted(&moments.cross, &[ml, m, mr, nl, n, nr], &[0, 3, 1, 4, 2, 5]);
    let lt = mat(&left.data, ml * nl, r);
    let half = flat(product(lt.t(), mat(&t, ml * nl, m * n * mr * nr))?);
    let full = flat(product(
        mat(&half, r * m * n, mr * nr),
        mat(&right.data, s, mr * nr).t(),
    )?);
    let b = Tensor::permuted(&full, &[r, m, n, s], &[0, 2, 3, 1]);
    let shaped = |data, cols| {
        Array2::from_shape_vec((unknowns, cols), data).expect("as many values as elements")
    };
    Ok((shaped(h, unknowns), shaped(b, m)))
}

/// Conjugate gradients on every column at once, preconditioned by the diagonal, from `g`. Returns `gᵀHg - 2 gᵀb`.
fn conjugate_gradients(h: &Array2<f64>, b: &Array2<f64>, g: &mut Array2<f64>) -> Result<f64> {
    let cols = g.ncols();
    let floor = 1e-14 * h.diag().sum() / h.nrows() as f64;
    let inverse = h.diag().mapv(|d| 1.0 / d.max(floor).max(f64::MIN_POSITIVE));
    let dots = |a: &Array2<f64>, b: &Array2<f64>| -> Vec<f64> {
        (0..cols).map(|j| a.column(j).dot(&b.column(j))).collect()
    };
    let mut residual = b - &product(h.view(), g.view())?;
    let precondition = |r: &Array2<f64>| {
        let mut z = r.clone();
        z.rows_mut()
            .into_iter()
            .zip(&inverse)
            .for_each(|(mut row, &d)| row *= d);
        z
    };
    let mut z = precondition(&residual);
    let mut p = z.clone();
    let mut rz = dots(&residual, &z);
    let start = rz.clone();
    for _ in 0..CG_STEPS {
        let hp = product(h.view(), p.view())?;
        let php = dots(&p, &hp);
        for j in 0..cols {
            if php[j] > 0.0 && rz[j] > 1e-20 * start[j] {
                let alpha = rz[j] / php[j];
                g.column_mut(j).scaled_add(alpha, &p.column(j));
                residual.column_mut(j).scaled_add(-alpha, &hp.column(j));
            }
        }
        z = precondition(&residual);
        let next = dots(&residual, &z);
        for j in 0..cols {
            let beta = if rz[j] > 0.0 { next[j] / rz[j] } else { 0.0 };
            let mut column = p.column_mut(j);
            column *= beta;
            column += &z.column(j);
        }
        rz = next;
    }
    // residual = b - H g, so gᵀHg - 2 gᵀb = -gᵀ(b + residual).
    Ok(-dots(g, &(b + &residual)).iter().sum::<f64>())
}

/// Sweeps over the cores, from the left and back, and sets the bias. Returns the relative error after each sweep.
pub(super) fn solve(
    layer: &mut TtLinear<f32>,
    x: ArrayView2<'_, f32>,
    y: ArrayView2<'_, f32>,
    sweeps: usize,
    ridge: f64,
) -> Result<Vec<f64>> {
    check_shape("inputs of a fit", &[x.nrows(), layer.inputs()], x.shape())?;
    check_shape("target outputs", &[x.nrows(), layer.outputs()], y.shape())?;
    if sweeps == 0 || x.nrows() == 0 {
        return Ok(Vec::new());
    }
    let start = layer.to_train()?.cast::<f64>();
    let moments = moments(x, y, layer.bias(), &dense(&start), ridge)?;
    let mut cores: Vec<Tensor> = start
        .cores()
        .iter()
        .map(|c| Tensor {
            shape: c.shape().to_vec(),
            data: c.as_slice().to_vec(),
        })
        .collect();
    let d = cores.len();
    let mut rights = vec![one()];
    for core in cores.iter().skip(1).rev() {
        rights.push(grow_right(core, &rights[rights.len() - 1])?);
    }
    let mut lefts = vec![one()];
    let mut errors = Vec::new();
    for _ in 0..sweeps {
        let mut quadratic = None;
        let mut visit = |core: &mut Tensor, left: &Tensor, right: &Tensor| -> Result<()> {
            let [r, m, n, s] = [0, 1, 2, 3].map(|axis| core.shape[axis]);
            if r * n * s > MOST_UNKNOWNS {
                return Ok(());
            }
            let (h, b) = normal_equations(left, core, right, &moments)?;
            let g = Tensor::permuted(&core.data, &[r, m, n, s], &[0, 2, 3, 1]);
            let mut g =
                Array2::from_shape_vec((r * n * s, m), g).expect("as many values as elements");
            quadratic = Some(conjugate_gradients(&h, &b, &mut g)?);
            core.data = Tensor::permuted(&flat(g), &[r, n, s, m], &[0, 3, 1, 2]);
            Ok(())
        };
        for k in 0..d {
            visit(&mut cores[k], &lefts[k], &rights[d - 1 - k])?;
            if k + 1 < d {
                lefts.push(grow_left(&lefts[k], &cores[k])?);
                rights.truncate(d - 1 - k);
            }
        }
        balance(&mut cores);
        lefts.truncate(1);
        for k in 0..d - 1 {
            lefts.push(grow_left(&lefts[k], &cores[k])?);
        }
        for k in (0..d).rev() {
            if k + 1 < d {
                rights.push(grow_right(&cores[k + 1], &rights[d - 2 - k])?);
            }
            visit(&mut cores[k], &lefts[k], &rights[d - 1 - k])?;
        }
        lefts.truncate(1);
        if let Some(q) = quadratic {
            errors.push((moments.square + q).max(0.0) / moments.outputs.max(f64::MIN_POSITIVE));
        }
    }
    balance(&mut cores);
    for (k, core) in cores.iter().enumerate() {
        let values = layer.parameters_mut()[k].values_mut();
        values
            .iter_mut()
            .zip(&core.data)
            .for_each(|(v, &c)| *v = c as f32);
    }
    if let Some(outputs) = layer.bias().map(<[f32]>::len) {
        let w = dense(&layer.to_train()?.cast());
        let bias = &moments.mean_y - &w.dot(&moments.mean_x);
        debug_assert_eq!(bias.len(), outputs);
        layer.set_bias(bias.iter().map(|&b| b as f32).collect())?;
    }
    Ok(errors)
}

fn dense(train: &tn_formats::TtMatrix<f64>) -> Array2<f64> {
    train.to_dense()
}

/// Gives all cores the same norm; the train stays what it is.
fn balance(cores: &mut [Tensor]) {
    let norm = |core: &Tensor| core.data.iter().map(|v| v * v).sum::<f64>().sqrt();
    let logs: Vec<f64> = cores.iter().map(|c| norm(c).ln()).collect();
    let mean = logs.iter().sum::<f64>() / cores.len() as f64;
    if mean.is_finite() {
        for (core, log) in cores.iter_mut().zip(logs) {
            let factor = (mean - log).exp();
            core.data.iter_mut().for_each(|v| *v *= factor);
        }
    }
}
