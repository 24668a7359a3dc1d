//! Dense linear algebra on ndarray views; the only file that names the backend (faer).
//!
//! Products run on all threads of the current rayon pool once they are worth it. The result does not depend on how
//! the work was scheduled, so equal inputs and an equal thread count give equal bits.

use faer::linalg::matmul::triangular::{BlockStructure, matmul as triangular_matmul};
use faer::linalg::triangular_solve::{
    solve_lower_triangular_in_place, solve_upper_triangular_in_place,
};
use faer::{Accum, Mat, MatMut, MatRef, Par, Side};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, CowArray, Ix2};

use crate::error::{Error, Result};
use crate::scalar::Real;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The backend's part of an element type, compiled once for `f32` and once for `f64`. Sealed.
pub trait Backend: sealed::Sealed + Sized {
    /// See [`gemm`]; the shapes fit, and `replace` or add is all that beta may still say.
    #[doc(hidden)]
    fn raw_gemm(
        threads: Threads,
        alpha: Self,
        a: ArrayView2<'_, Self>,
        b: ArrayView2<'_, Self>,
        write: Write,
        c: ArrayViewMut2<'_, Self>,
    );

    #[doc(hidden)]
    fn raw_gram(a: ArrayView2<'_, Self>, c: ArrayViewMut2<'_, Self>);

    #[doc(hidden)]
    fn raw_qr(a: ArrayView2<'_, Self>) -> (Array2<Self>, Array2<Self>);

    /// `a` rounded to this type; `a` itself where it is of this type.
    #[doc(hidden)]
    fn rounded(a: Array2<f64>) -> Array2<Self>;

    #[doc(hidden)]
    fn raw_svd(a: ArrayView2<'_, Self>) -> Option<(Array2<Self>, Array1<Self>, Array2<Self>)>;
}

/// What a product does with the old content of its result.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    Replace,
    Add,
}

macro_rules! impl_backend {
    ($($t:ty: $rounded:expr),*) => {
        $(impl Backend for $t {
            fn rounded(a: Array2<f64>) -> Array2<Self> {
                $rounded(a)
            }

            fn raw_gemm(
        threads: Threads,
        alpha: Self,
                a: ArrayView2<'_, Self>,
                b: ArrayView2<'_, Self>,
                write: Write,
                c: ArrayViewMut2<'_, Self>,
            ) {
                gemm_in(threads, alpha, a, b, write, c);
            }

            fn raw_gram(a: ArrayView2<'_, Self>, c: ArrayViewMut2<'_, Self>) {
                gram_in(a, c);
            }

            fn raw_qr(a: ArrayView2<'_, Self>) -> (Array2<Self>, Array2<Self>) {
                qr_in(a)
            }

            fn raw_svd(a: ArrayView2<'_, Self>) -> Option<(Array2<Self>, Array1<Self>, Array2<Self>)> {
                svd_in(a)
            }
        })*
    };
}

impl_backend!(f32: |a: Array2<f64>| a.mapv(|x| x as f32), f64: std::convert::identity);

/// Products with fewer multiply-adds than this stay on the calling thread.
const PARALLEL_FROM: usize = 1 << 18;

fn parallelism(rows: usize, cols: usize, inner: usize) -> Par {
    if rows.saturating_mul(cols).saturating_mul(inner) < PARALLEL_FROM {
        Par::Seq
    } else {
        Par::rayon(0)
    }
}

/// A matrix whose elements lie in one slice, rows or columns contiguous.
struct Dense<'a, T> {
    data: CowArray<'a, T, Ix2>,
    transposed: bool,
}

impl<'a, T: Clone> Dense<'a, T> {
    /// Borrows row-major and column-major views and copies any other.
    fn new(view: ArrayView2<'a, T>) -> Self {
        if view.is_standard_layout() {
            Self {
                data: CowArray::from(view),
                transposed: false,
            }
        } else if view.t().is_standard_layout() {
            Self {
                data: CowArray::from(view.reversed_axes()),
                transposed: true,
            }
        } else {
            Self {
                data: CowArray::from(view.as_standard_layout().into_owned()),
                transposed: false,
            }
        }
    }

    fn mat(&self) -> MatRef<'_, T> {
        let (rows, cols) = self.data.dim();
        let slice = self
            .data
            .as_slice()
            .expect("standard layout by construction");
        let mat = MatRef::from_row_major_slice(slice, rows, cols);
        if self.transposed {
            mat.transpose()
        } else {
            mat
        }
    }
}

fn to_array<T: Copy>(mat: MatRef<'_, T>) -> Array2<T> {
    Array2::from_shape_fn((mat.nrows(), mat.ncols()), |(i, j)| mat[(i, j)])
}

/// Runs `f` on the elements of `c` as a matrix of the backend; a view with gaps goes through a copy.
fn with_mat_mut<T: Clone>(mut c: ArrayViewMut2<'_, T>, f: impl FnOnce(MatMut<'_, T>)) {
    let (rows, cols) = c.dim();
    if let Some(slice) = c.as_slice_mut() {
        return f(MatMut::from_row_major_slice_mut(slice, rows, cols));
    }
    let mut t = c.view_mut().reversed_axes();
    if let Some(slice) = t.as_slice_mut() {
        return f(MatMut::from_column_major_slice_mut(slice, rows, cols));
    }
    let mut copy = c.to_owned();
    if !copy.is_standard_layout() {
        copy = copy.as_standard_layout().into_owned();
    }
    let slice = copy
        .as_slice_mut()
        .expect("standard layout by construction");
    f(MatMut::from_row_major_slice_mut(slice, rows, cols));
    c.assign(&copy);
}

/// How many threads a product may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Threads {
    /// The calling one: for products inside a parallel loop.
    One,
    /// All of the current rayon pool, once the product is worth it.
    #[default]
    All,
}

/// `c = alpha a b + beta c` on all threads.
///
/// # Shapes
/// `a` is `[m, k]`, `b` is `[k, n]`, `c` is `[m, n]`. Row-major and column-major views (so both transposes) are used where
/// they are; a view with gaps between rows and columns is copied first.
///
/// # Numerics
/// Accumulates in `T`. With `beta = 0` the old content of `c` is not read, so it may hold NaN.
///
/// # Errors
/// [`Error::Shape`] when the three shapes do not fit.
///
/// ```
/// use ndarray::array;
/// use tn_formats::linalg::gemm;
/// let (a, b) = (array![[1.0f32, 2.0]], array![[3.0f32, 4.0], [5.0, 6.0]]);
/// let mut c = array![[1.0f32, 1.0]];
/// gemm(1.0, a.view(), b.t(), 10.0, c.view_mut())?;
/// assert_eq!(c, array![[21.0, 27.0]]);
/// # Ok::<(), tn_formats::Error>(())
/// ```
pub fn gemm<T: Real>(
    alpha: T,
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    beta: T,
    c: ArrayViewMut2<'_, T>,
) -> Result<()> {
    gemm_with(Threads::All, alpha, a, b, beta, c)
}

/// [`gemm`] on the threads asked for.
///
/// # Errors
/// As [`gemm`].
pub fn gemm_with<T: Real>(
    threads: Threads,
    alpha: T,
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    beta: T,
    mut c: ArrayViewMut2<'_, T>,
) -> Result<()> {
    let ((m, k), (kb, n)) = (a.dim(), b.dim());
    if k != kb {
        return Err(Error::Shape {
            what: "right factor of a product",
            expected: vec![k, n],
            found: vec![kb, n],
        });
    }
    if c.dim() != (m, n) {
        return Err(Error::Shape {
            what: "result of a product",
            expected: vec![m, n],
            found: vec![c.nrows(), c.ncols()],
        });
    }
    if beta != T::zero() && beta != T::one() {
        c.mapv_inplace(|x| x * beta);
    }
    if k == 0 || alpha == T::zero() {
        if beta == T::zero() {
            c.fill(T::zero());
        }
        return Ok(());
    }
    let write = if beta == T::zero() {
        Write::Replace
    } else {
        Write::Add
    };
    T::raw_gemm(threads, alpha, a, b, write, c);
    Ok(())
}

fn gemm_in<T: faer::traits::RealField + Copy>(
    threads: Threads,
    alpha: T,
    a: ArrayView2<'_, T>,
    b: ArrayView2<'_, T>,
    write: Write,
    c: ArrayViewMut2<'_, T>,
) {
    let ((m, k), n) = (a.dim(), b.ncols());
    let accum = match write {
        Write::Replace => Accum::Replace,
        Write::Add => Accum::Add,
    };
    let par = match threads {
        Threads::One => Par::Seq,
        Threads::All => parallelism(m, n, k),
    };
    let (a, b) = (Dense::new(a), Dense::new(b));
    with_mat_mut(c, |c| {
        faer::linalg::matmul::matmul(c, accum, a.mat(), b.mat(), alpha, par);
    });
}

/// `a b` as a new row-major array.
///
/// # Shapes
/// `[m, k]` times `[k, n]` is `[m, n]`.
///
/// # Errors
/// [`Error::Shape`] when the inner sizes differ.
pub fn matmul<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Result<Array2<T>> {
    let mut c = Array2::zeros((a.nrows(), b.ncols()));
    gemm(T::one(), a, b, T::zero(), c.view_mut())?;
    Ok(c)
}

/// [`matmul`] where the caller has made the inner sizes equal.
pub(crate) fn mm<T: Real>(a: ArrayView2<'_, T>, b: ArrayView2<'_, T>) -> Array2<T> {
    matmul(a, b).expect("inner sizes are equal by construction")
}

/// `c += a aᵀ`, the lower triangle only.
pub(crate) fn add_gram_lower<T: Real>(a: ArrayView2<'_, T>, c: ArrayViewMut2<'_, T>) {
    T::raw_gram(a, c);
}

fn gram_in<T: faer::traits::RealField + Copy>(a: ArrayView2<'_, T>, c: ArrayViewMut2<'_, T>) {
    let (m, k) = a.dim();
    let a = Dense::new(a);
    with_mat_mut(c, |c| {
        triangular_matmul(
            c,
            BlockStructure::TriangularLower,
            Accum::Add,
            a.mat(),
            BlockStructure::Rectangular,
            a.mat().transpose(),
            BlockStructure::Rectangular,
            T::one_impl(),
            parallelism(m, m, k / 2),
        );
    });
}

/// A power of two that brings the largest entry towards 1, where it is so far from 1 that squares are lost, as LAPACK's drivers
/// do, and its inverse.
fn near_one<T: Real>(a: ArrayView2<'_, T>) -> Option<[T; 2]> {
    let largest = a.iter().fold(T::zero(), |m, x| m.max(x.abs())).widen();
    let most = if T::BYTES == 4 { 100.0 } else { 900.0 };
    let power = largest.log2().round();
    (power.is_finite() && power.abs() > most / 3.0)
        .then(|| [-1.0, 1.0].map(|sign| T::narrow((sign * power.clamp(-most, most)).exp2())))
}

/// Orthonormal columns and the triangle: `a = q r`, `q` is `[m, min(m, n)]`.
pub(crate) fn qr<T: Real>(a: ArrayView2<'_, T>) -> (Array2<T>, Array2<T>) {
    match near_one(a) {
        Some([to, from]) => {
            let (q, r) = T::raw_qr(a.mapv(|x| x * to).view());
            (q, r.mapv_into(|x| x * from))
        }
        None => T::raw_qr(a),
    }
}

fn qr_in<T: faer::traits::RealField + Copy>(a: ArrayView2<'_, T>) -> (Array2<T>, Array2<T>) {
    let a = Dense::new(a);
    let qr = a.mat().qr();
    let r = qr.thin_R();
    let triangle = |(i, j)| if i <= j { r[(i, j)] } else { T::zero_impl() };
    (
        to_array(qr.compute_thin_Q().as_ref()),
        Array2::from_shape_fn((r.nrows(), r.ncols()), triangle),
    )
}

/// Thin SVD: `a = u diag(s) vt`, singular values falling.
pub(crate) fn svd<T: Real>(a: ArrayView2<'_, T>) -> Result<(Array2<T>, Array1<T>, Array2<T>)> {
    let (rows, cols) = a.dim();
    let found = match near_one(a) {
        Some([to, from]) => T::raw_svd(a.mapv(|x| x * to).view())
            .map(|(u, sigma, vt)| (u, sigma.mapv_into(|s| s * from), vt)),
        None => T::raw_svd(a),
    };
    found.ok_or(Error::LinAlg {
        what: "singular value decomposition",
        rows,
        cols,
    })
}

fn svd_in<T: faer::traits::RealField + Copy>(
    a: ArrayView2<'_, T>,
) -> Option<(Array2<T>, Array1<T>, Array2<T>)> {
    let a = Dense::new(a);
    let svd = a.mat().thin_svd().ok()?;
    let s = svd.S().column_vector();
    let values = Array1::from_shape_fn(s.nrows(), |i| s[i]);
    Some((to_array(svd.U()), values, to_array(svd.V().transpose())))
}

/// Eigenvalues, falling, and eigenvectors (columns) of the symmetric matrix whose lower triangle is given.
///
/// # Errors
/// [`Error::LinAlg`] when the iteration does not converge.
pub fn eigh(a: ArrayView2<'_, f64>) -> Result<(Array1<f64>, Array2<f64>)> {
    eigh_in(a)
}

/// [`eigh`] in single precision.
pub(crate) fn eigh_single(a: ArrayView2<'_, f32>) -> Result<(Array1<f32>, Array2<f32>)> {
    eigh_in(a)
}

fn eigh_in<T: faer::traits::RealField + Copy>(
    a: ArrayView2<'_, T>,
) -> Result<(Array1<T>, Array2<T>)> {
    let n = a.nrows();
    let a = Dense::new(a);
    let side = Side::Lower;
    let eig = a
        .mat()
        .self_adjoint_eigen(side)
        .map_err(|_| Error::LinAlg {
            what: "symmetric eigendecomposition",
            rows: n,
            cols: n,
        })?;
    let (s, u) = (eig.S().column_vector(), eig.U());
    Ok((
        Array1::from_shape_fn(n, |i| s[n - 1 - i]),
        Array2::from_shape_fn((n, n), |(i, j)| u[(i, n - 1 - j)]),
    ))
}

/// The eigenvalues of [`eigh`] alone, in less than half its time.
pub(crate) fn eigenvalues(a: ArrayView2<'_, f64>) -> Result<Array1<f64>> {
    let n = a.nrows();
    let a = Dense::new(a);
    let mut values = a
        .mat()
        .self_adjoint_eigenvalues(Side::Lower)
        .map_err(|_| Error::LinAlg {
            what: "symmetric eigenvalues",
            rows: n,
            cols: n,
        })?;
    values.reverse();
    Ok(Array1::from(values))
}

/// The lower-triangular `l` with `a = l lᵀ`, for the symmetric positive definite matrix whose lower triangle is given.
pub(crate) fn cholesky(a: ArrayView2<'_, f64>) -> Result<Array2<f64>> {
    let n = a.nrows();
    let a = Dense::new(a);
    let llt = a.mat().llt(Side::Lower).map_err(|_| Error::LinAlg {
        what: "Cholesky factorization",
        rows: n,
        cols: n,
    })?;
    let l = llt.L();
    Ok(Array2::from_shape_fn((n, n), |(i, j)| {
        if j <= i { l[(i, j)] } else { 0.0 }
    }))
}

/// The inverse of a lower-triangular matrix.
pub(crate) fn lower_inverse(l: ArrayView2<'_, f64>) -> Array2<f64> {
    let n = l.nrows();
    let l = Dense::new(l);
    let mut x: Mat<f64> = Mat::identity(n, n);
    solve_lower_triangular_in_place(l.mat(), x.as_mut(), parallelism(n, n, n / 4));
    to_array(x.as_ref())
}

/// Solves `l lᵀ x = b` given the lower-triangular `l`.
pub(crate) fn solve_cholesky(l: ArrayView2<'_, f64>, b: ArrayView2<'_, f64>) -> Array2<f64> {
    let (l, b) = (Dense::new(l), Dense::new(b));
    let par = parallelism(l.mat().nrows(), l.mat().nrows(), b.mat().ncols());
    let mut x: Mat<f64> = b.mat().to_owned();
    solve_lower_triangular_in_place(l.mat(), x.as_mut(), par);
    solve_upper_triangular_in_place(l.mat().transpose(), x.as_mut(), par);
    to_array(x.as_ref())
}
