//! Sliding windows over the two spatial axes of `[n, c, h, w]`: unfolding for convolutions, and pooling.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{contiguous, plain, read};

/// Where the windows lie: rows first, columns second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) dilation: [usize; 2],
    /// Padding before the first element.
    pub(crate) before: [usize; 2],
    /// How many windows there are.
    pub(crate) output: [usize; 2],
}

impl Window {
    fn count(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The input position under tap `(u, v)` of window `(i, j)`, if it is not padding.
    fn position(&self, size: [usize; 2], window: [usize; 2], tap: [usize; 2]) -> Option<usize> {
        let at = |axis: usize| {
            (window[axis] * self.stride[axis] + tap[axis] * self.dilation[axis])
                .checked_sub(self.before[axis])
                .filter(|&p| p < size[axis])
        };
        Some(at(0)? * size[1] + at(1)?)
    }

    /// Calls `f(window, tap, position)` for every tap that lies on an element.
    fn visit(&self, size: [usize; 2], mut f: impl FnMut(usize, usize, usize)) {
        for tap in 0..self.taps() {
            let tap_at = [tap / self.kernel[1], tap % self.kernel[1]];
            for i in 0..self.output[0] {
                for j in 0..self.output[1] {
                    if let Some(p) = self.position(size, [i, j], tap_at) {
                        f(i * self.output[1] + j, tap, p);
                    }
                }
            }
        }
    }
}

impl Window {
    /// Planes of `size` as `[taps, windows]` each.
    fn unfold(&self, planes: &[f32], count: usize, size: [usize; 2]) -> Vec<f32> {
        let (taps, windows) = (self.taps(), self.count());
        let mut out = vec![0.0f32; count * taps * windows];
        if !out.is_empty() && !planes.is_empty() {
            out.par_chunks_mut(taps * windows)
                .zip(planes.par_chunks(size[0] * size[1]))
                .for_each(|(out, x)| {
                    self.visit(size, |w, tap, p| out[tap * windows + w] = x[p]);
                });
        }
        out
    }

    /// The transpose of [`Window::unfold`].
    fn fold(&self, columns: &[f32], count: usize, size: [usize; 2]) -> Vec<f32> {
        let (taps, windows) = (self.taps(), self.count());
        let mut out = vec![0.0f32; count * size[0] * size[1]];
        if !out.is_empty() && !columns.is_empty() {
            out.par_chunks_mut(size[0] * size[1])
                .zip(columns.par_chunks(taps * windows))
                .for_each(|(out, g)| {
                    self.visit(size, |w, tap, p| out[p] += g[tap * windows + w]);
                });
        }
        out
    }
}

/// `[n, c, h, w]` unfolded to `[n, c * taps, windows]`; padding reads as 0.
pub(crate) fn im2col(x: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Unfold(window))
}

/// The transpose of [`im2col`]: `[n, c * taps, windows]` added up to `[n, c, h, w]` where windows overlap; what falls on
/// padding is left out.
pub(crate) fn col2im(columns: &Tensor, window: Window, size: [usize; 2]) -> Result<Tensor> {
    columns.contiguous()?.apply_op1(Fold { window, size })
}

/// The largest element under each window; padding never wins.
pub(crate) fn max_pool(x: &Tensor, window: Window) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Pool {
        window,
        pooling: Pooling::Max,
    })
}

/// The mean under each window.
pub(crate) fn average_pool(x: &Tensor, window: Window, pooling: Pooling) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Pool { window, pooling })
}

/// What a pooling window computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The largest element.
    Max,
    /// The mean of the elements that are not padding.
    MeanOfPresent,
    /// The sum over the number of taps, padding counted as 0.
    MeanOfTaps,
}

fn planes(dims: &[usize]) -> Result<(usize, usize, [usize; 2])> {
    match dims {
        [n, c, h, w] => Ok((*n, *c, [*h, *w])),
        _ => candle_core::bail!("expected [n, c, h, w], found {dims:?}"),
    }
}

struct Unfold(Window);

impl CustomOp1 for Unfold {
    fn name(&self) -> &'static str {
        "im2col"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let (n, c, size) = planes(layout.dims())?;
        let out = self.0.unfold(x, n * c, size);
        let shape = Shape::from((n, c * self.0.taps(), self.0.count()));
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (n, c, size) = planes(arg.dims())?;
        let dx = read(grad, |g| self.0.fold(g, n * c, size))?;
        Ok(Some(plain(dx, arg.dims())?))
    }
}

struct Fold {
    window: Window,
    size: [usize; 2],
}

impl CustomOp1 for Fold {
    fn name(&self) -> &'static str {
        "col2im"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let &[n, rows, windows] = layout.dims() else {
            candle_core::bail!("expected [n, c taps, windows], found {:?}", layout.dims());
        };
        let (taps, [h, w]) = (self.window.taps(), self.size);
        if windows != self.window.count() || rows % taps != 0 {
            candle_core::bail!(
                "expected {taps} taps of {} windows, found {rows} x {windows}",
                self.window.count()
            );
        }
        let out = self.window.fold(x, n * rows / taps, self.size);
        Ok((CpuStorage::F32(out), Shape::from((n, rows / taps, h, w))))
    }

    fn bwd(&self, _arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(im2col(grad, self.window)?))
    }
}

struct Pool {
    window: Window,
    pooling: Pooling,
}

impl Pool {
    /// The position of the largest element under each window of a plane, the first one among equals.
    fn winners(&self, x: &[f32], size: [usize; 2]) -> Vec<Option<usize>> {
        let mut best: Vec<Option<usize>> = vec![None; self.window.count()];
        self.window.visit(size, |w, _, p| {
            if best[w].is_none_or(|b| x[p] > x[b]) {
                best[w] = Some(p);
            }
        });
        best
    }

    /// What the sum under each window is divided by.
    fn divisors(&self, size: [usize; 2]) -> Vec<f32> {
        if self.pooling == Pooling::MeanOfTaps {
            return vec![self.window.taps() as f32; self.window.count()];
        }
        let mut count = vec![0.0f32; self.window.count()];
        self.window.visit(size, |w, _, _| count[w] += 1.0);
        count.iter_mut().for_each(|c| *c = c.max(1.0));
        count
    }
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pooling"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(storage, layout)?;
        let (n, c, size) = planes(layout.dims())?;
        let windows = self.window.count();
        let mut out = vec![0.0f32; n * c * windows];
        let divisors = self.divisors(size);
        if !out.is_empty() && !x.is_empty() {
            out.par_chunks_mut(windows)
                .zip(x.par_chunks(size[0] * size[1]))
                .for_each(|(out, x)| {
                    if self.pooling == Pooling::Max {
                        for (o, winner) in out.iter_mut().zip(self.winners(x, size)) {
                            *o = winner.map_or(f32::NEG_INFINITY, |p| x[p]);
                        }
                    } else {
                        self.window.visit(size, |w, _, p| out[w] += x[p]);
                        out.iter_mut().zip(&divisors).for_each(|(o, d)| *o /= d);
                    }
                });
        }
        Ok((
            CpuStorage::F32(out),
            Shape::from((n, c, self.window.output[0], self.window.output[1])),
        ))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, _, size) = planes(arg.dims())?;
        let windows = self.window.count();
        let divisors = self.divisors(size);
        let dx = read(arg, |x| {
            read(grad, |g| {
                let plane = size[0] * size[1];
                let mut dx = vec![0.0f32; x.len()];
                if !dx.is_empty() && !g.is_empty() {
                    dx.par_chunks_mut(plane)
                        .zip(x.par_chunks(plane))
                        .zip(g.par_chunks(windows))
                        .for_each(|((dx, x), g)| {
                            if self.pooling == Pooling::Max {
                                for (winner, g) in self.winners(x, size).into_iter().zip(g) {
                                    if let Some(p) = winner {
                                        dx[p] += g;
                                    }
                                }
                            } else {
                                self.window
                                    .visit(size, |w, _, p| dx[p] += g[w] / divisors[w]);
                            }
                        });
                }
                dx
            })
        })??;
        Ok(Some(plain(dx, arg.dims())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_gradients, sequence};
    use super::*;
    use candle_core::Device;

    const WINDOW: Window = Window {
        kernel: [3, 2],
        stride: [2, 1],
        dilation: [1, 2],
        before: [1, 0],
        output: [3, 4],
    };

    #[test]
    fn gradients_equal_central_differences() {
        check_gradients(&[&[2, 3, 5, 6]], 2e-3, |t| im2col(&t[0], WINDOW));
        check_gradients(&[&[2, 18, 12]], 2e-3, |t| col2im(&t[0], WINDOW, [5, 6]));
        check_gradients(&[&[2, 3, 5, 6]], 2e-3, |t| {
            average_pool(&t[0], WINDOW, Pooling::MeanOfPresent)
        });
        check_gradients(&[&[2, 3, 5, 6]], 2e-3, |t| {
            average_pool(&t[0], WINDOW, Pooling::MeanOfTaps)
        });
    }

    #[test]
    fn unfolding_and_multiplying_is_a_convolution() {
        let x = Tensor::from_vec(sequence(2 * 3 * 5 * 5, 1), (2, 3, 5, 5), &Device::Cpu).unwrap();
        let w = Tensor::from_vec(sequence(4 * 3 * 9, 2), (4, 3, 3, 3), &Device::Cpu).unwrap();
        let window = Window {
            kernel: [3, 3],
            stride: [2, 2],
            dilation: [1, 1],
            before: [1, 1],
            output: [3, 3],
        };
        let columns = im2col(&x, window).unwrap();
        let ours = super::super::matmul(&w.reshape((1, 4, 27)).unwrap(), &columns).unwrap();
        let theirs = x
            .conv2d(&w, 1, 2, 1, 1)
            .unwrap()
            .reshape((2, 4, 9))
            .unwrap();
        let gap = (ours - theirs)
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert!(gap < 1e-5, "{gap}");
    }

    #[test]
    fn the_largest_element_gets_the_gradient() {
        let x = candle_core::Var::new(&[[[[1.0f32, 5.0], [2.0, 5.0]]]], &Device::Cpu).unwrap();
        let window = Window {
            kernel: [2, 2],
            stride: [1, 1],
            dilation: [1, 1],
            before: [0, 0],
            output: [1, 1],
        };
        let y = max_pool(x.as_tensor(), window).unwrap();
        assert_eq!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [5.0]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        let g = grads
            .get(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert_eq!(g, [0.0, 1.0, 0.0, 0.0]);
    }
}
