//! How a matrix is cut into modes.

use ndarray::{Array2, ArrayView2, s};

use crate::error::{Error, Result, checked_product};
use crate::scalar::Real;

/// Which modes of a matrix stand in which core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// The TT-matrix: core k holds row mode `m_k` and column mode `n_k`.
    Interleaved,
    /// First a core for each column (input) mode, then one for each row (output) mode. Two cores are the low-rank
    /// factorization.
    Split,
}

/// Row modes (out), column modes (in) and layout of a matrix `[M, N]`.
///
/// ```
/// use tn_formats::{Layout, MatrixModes};
/// let modes = MatrixModes::new(Layout::Interleaved, vec![4, 8, 8, 4], vec![4, 7, 4, 7])?;
/// assert_eq!((modes.rows(), modes.cols()), (1024, 784));
/// assert_eq!(modes.core_modes(), [(4, 4), (8, 7), (8, 4), (4, 7)]);
/// let low_rank = MatrixModes::low_rank(1024, 784)?;
/// assert_eq!(low_rank.core_modes(), [(1, 784), (1024, 1)]);
/// # Ok::<(), tn_formats::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixModes {
    layout: Layout,
    row_modes: Vec<usize>,
    col_modes: Vec<usize>,
}

impl MatrixModes {
    /// Modes of a matrix.
    ///
    /// # Errors
    /// [`Error::Empty`] for no modes or a mode of 0; [`Error::Length`] when an interleaved layout has unequal numbers of
    /// row and column modes (pad the shorter list with 1); [`Error::TooLarge`].
    pub fn new(layout: Layout, row_modes: Vec<usize>, col_modes: Vec<usize>) -> Result<Self> {
        if row_modes.is_empty()
            || col_modes.is_empty()
            || row_modes.contains(&0)
            || col_modes.contains(&0)
        {
            return Err(Error::Empty {
                what: "list of modes, or one of the modes,",
            });
        }
        if layout == Layout::Interleaved && row_modes.len() != col_modes.len() {
            return Err(Error::Length {
                what: "column modes of an interleaved layout",
                expected: row_modes.len(),
                found: col_modes.len(),
            });
        }
        let rows = checked_product(&row_modes)?;
        let cols = checked_product(&col_modes)?;
        checked_product(&[rows, cols])?;
        Ok(Self {
            layout,
            row_modes,
            col_modes,
        })
    }

    /// The low-rank factorization of an M x N matrix: two cores, `[1, 1, N, r]` and `[r, M, 1, 1]`.
    ///
    /// # Errors
    /// [`Error::Empty`] when a side is 0.
    pub fn low_rank(rows: usize, cols: usize) -> Result<Self> {
        Self::new(Layout::Split, vec![rows], vec![cols])
    }

    /// Balanced modes for an M x N matrix: `order` row modes and `order` column modes, see [`factorize_balanced`].
    ///
    /// # Errors
    /// [`Error::Empty`] when a side or the order is 0.
    pub fn balanced(layout: Layout, rows: usize, cols: usize, order: usize) -> Result<Self> {
        Self::new(
            layout,
            factorize_balanced(rows, order),
            factorize_balanced(cols, order),
        )
    }

    /// As [`MatrixModes::balanced`] for sides that are padded with zeros to sizes of small factors, see [`padded_size`].
    /// [`MatrixModes::pad`] makes the matrix that fits, [`MatrixModes::padding`] counts what that adds.
    ///
    /// # Errors
    /// [`Error::Empty`] when a side or the order is 0.
    ///
    /// ```
    /// use ndarray::Array2;
    /// use tn_formats::{Layout, MatrixModes, Truncation, TtMatrix};
    /// let table = Array2::from_shape_fn((1009, 64), |(i, j)| ((i + 3 * j) as f32 * 0.01).sin());
    /// let modes = MatrixModes::padded(Layout::Interleaved, 1009, 64, 2)?;
    /// assert_eq!((modes.rows(), modes.padding(1009, 64)?), (1012, 3 * 64));
    /// let padded = modes.pad(table.view())?;
    /// let (train, _) = TtMatrix::decompose(padded.view(), &modes, &Truncation::RelativeError(1e-3))?;
    /// assert_eq!(train.shape(), (1012, 64));
    /// # Ok::<(), tn_formats::Error>(())
    /// ```
    pub fn padded(layout: Layout, rows: usize, cols: usize, order: usize) -> Result<Self> {
        Self::new(
            layout,
            padded_size(rows, order).1,
            padded_size(cols, order).1,
        )
    }

    /// Elements that padding an M x N matrix to these modes adds.
    ///
    /// # Errors
    /// [`Error::ModeProduct`] with the side that is larger than its modes.
    pub fn padding(&self, rows: usize, cols: usize) -> Result<usize> {
        for (what, modes, expected) in [
            ("row modes", &self.row_modes, rows),
            ("column modes", &self.col_modes, cols),
        ] {
            let found = modes.iter().product();
            if found < expected {
                return Err(Error::ModeProduct {
                    what,
                    modes: modes.clone(),
                    expected,
                    found,
                });
            }
        }
        Ok(self.rows() * self.cols() - rows * cols)
    }

    /// The matrix with rows and columns of zeros after its own, up to these modes.
    ///
    /// # Errors
    /// As [`MatrixModes::padding`].
    pub fn pad<T: Real>(&self, w: ArrayView2<'_, T>) -> Result<Array2<T>> {
        self.padding(w.nrows(), w.ncols())?;
        let mut out = Array2::zeros((self.rows(), self.cols()));
        out.slice_mut(s![..w.nrows(), ..w.ncols()]).assign(&w);
        Ok(out)
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Row (output) modes `m_k`.
    pub fn row_modes(&self) -> &[usize] {
        &self.row_modes
    }

    /// Column (input) modes `n_k`.
    pub fn col_modes(&self) -> &[usize] {
        &self.col_modes
    }

    /// M, the product of the row modes.
    pub fn rows(&self) -> usize {
        self.row_modes.iter().product()
    }

    /// N, the product of the column modes.
    pub fn cols(&self) -> usize {
        self.col_modes.iter().product()
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        match self.layout {
            Layout::Interleaved => self.row_modes.len(),
            Layout::Split => self.row_modes.len() + self.col_modes.len(),
        }
    }

    /// `(m, n)` of every core; 1 for the mode a core does not have.
    pub fn core_modes(&self) -> Vec<(usize, usize)> {
        match self.layout {
            Layout::Interleaved => self
                .row_modes
                .iter()
                .copied()
                .zip(self.col_modes.iter().copied())
                .collect(),
            Layout::Split => {
                let inputs = self.col_modes.iter().map(|&n| (1, n));
                inputs
                    .chain(self.row_modes.iter().map(|&m| (m, 1)))
                    .collect()
            }
        }
    }

    /// Checks that these modes fit an M x N matrix.
    ///
    /// # Errors
    /// [`Error::ModeProduct`] with the side that does not.
    pub fn check(&self, rows: usize, cols: usize) -> Result<()> {
        for (what, modes, expected) in [
            ("row modes", &self.row_modes, rows),
            ("column modes", &self.col_modes, cols),
        ] {
            let found = modes.iter().product();
            if found != expected {
                return Err(Error::ModeProduct {
                    what,
                    modes: modes.clone(),
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

/// `n` as a product of `order` factors that are as equal as its prime factors allow, falling; empty when `order` or `n` is 0.
///
/// The largest factor is the smallest possible when `n` has few prime factors (each prime, largest first, goes to the
/// smallest factor so far); a prime `n` gives itself and ones. Use [`padded_size`] when that is too uneven.
///
/// ```
/// use tn_formats::factorize_balanced;
/// assert_eq!(factorize_balanced(1024, 4), [8, 8, 4, 4]);
/// assert_eq!(factorize_balanced(784, 2), [28, 28]);
/// assert_eq!(factorize_balanced(231, 3), [11, 7, 3]);
/// assert_eq!(factorize_balanced(30522, 3), [5087, 3, 2]);
/// ```
pub fn factorize_balanced(n: usize, order: usize) -> Vec<usize> {
    if n == 0 || order == 0 {
        return Vec::new();
    }
    let mut factors = vec![1usize; order];
    for prime in prime_factors(n).into_iter().rev() {
        if let Some(smallest) = factors.iter_mut().min() {
            *smallest *= prime;
        }
    }
    factors.sort_unstable_by(|a, b| b.cmp(a));
    factors
}

/// The smallest size `>= n` whose [`factorize_balanced`] has its largest factor within twice the `order`-th root, with
/// these factors. The number of added rows is `size - n`: nothing is padded unless the caller asks for it here.
///
/// ```
/// use tn_formats::padded_size;
/// let (size, factors) = padded_size(30522, 3);
/// assert_eq!((size, factors), (30525, vec![37, 33, 25]));
/// assert_eq!(padded_size(1000, 3), (1000, vec![10, 10, 10]));
/// ```
pub fn padded_size(n: usize, order: usize) -> (usize, Vec<usize>) {
    if n == 0 || order == 0 {
        return (n, Vec::new());
    }
    (n..)
        .map(|size| (size, factorize_balanced(size, order)))
        .find(|(size, factors)| factors[0] as f64 <= 2.0 * (*size as f64).powf(1.0 / order as f64))
        .unwrap_or_else(|| (n, factorize_balanced(n, order)))
}

/// Prime factors, rising.
fn prime_factors(mut n: usize) -> Vec<usize> {
    let mut primes = Vec::new();
    let mut p = 2;
    while p <= n / p {
        while n.is_multiple_of(p) {
            primes.push(p);
            n /= p;
        }
        p += 1;
    }
    if n > 1 {
        primes.push(n);
    }
    primes
}
