//! What the student is asked for.

use candle_core::{Result, Tensor, Var};

use super::kernels::{BinaryOp, UnaryOp, binary, matmul, relative_gap, unary};
use super::mix::Mixture;
use super::tape::add;

/// What a value of the student loses, summed up term by term.
pub(crate) struct Loss<'a> {
    student: &'a Tensor,
    /// Whether its gradient is asked for.
    sloped: bool,
    pub(crate) value: f64,
    pub(crate) gradient: Option<Tensor>,
}

impl<'a> Loss<'a> {
    pub(crate) fn new(student: &'a Tensor, sloped: bool) -> Self {
        Self {
            student,
            sloped,
            value: 0.0,
            gradient: None,
        }
    }

    /// Adds a term that candle differentiates.
    pub(crate) fn add(
        &mut self,
        weight: f64,
        term: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<()> {
        if !self.sloped {
            self.value += weight * number(&term(&self.student.detach())?)?;
            return Ok(());
        }
        let variable = Var::from_tensor(self.student)?;
        let term = (term(variable.as_tensor())? * weight)?;
        self.value += number(&term)?;
        let gradient = term.backward()?.remove(&variable).map(|g| g.detach());
        add(&mut self.gradient, gradient)
    }

    /// Adds `|s - t|^2 / |t|^2`, with a weight of 0 or 1 for every position of the leading axes.
    pub(crate) fn add_relative_error(
        &mut self,
        weight: f64,
        teacher: &Tensor,
        keep: Option<&Tensor>,
    ) -> Result<()> {
        let wanted = self.sloped.then_some(weight);
        let (value, gradient) = relative_gap(self.student, teacher, keep, wanted)?;
        self.value += weight * value;
        add(&mut self.gradient, gradient)
    }
}

fn number(t: &Tensor) -> Result<f64> {
    t.to_scalar::<f32>().map(f64::from)
}

/// `log softmax` over the last axis.
fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let last = x.rank() - 1;
    let top = x.detach().max_keepdim(last)?;
    let shifted = binary(x, &top, BinaryOp::Sub)?;
    let sum = unary(&shifted, UnaryOp::Exp)?.sum_keepdim(last)?;
    binary(&shifted, &unary(&sum, UnaryOp::Log)?, BinaryOp::Sub)
}

/// `T^2 KL(teacher / T || student / T)`, the mean over rows.
///
/// # Source
/// Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
pub(crate) fn divergence(student: &Tensor, teacher: &Tensor, temperature: f64) -> Result<Tensor> {
    let rows = (student.elem_count() / student.dims().last().copied().unwrap_or(1).max(1)).max(1);
    let s = log_softmax(&(student / temperature)?)?;
    let t = log_softmax(&(teacher.detach() / temperature)?)?;
    let gap = binary(&t, &s, BinaryOp::Sub)?;
    let weighted = binary(&gap, &t.exp()?, BinaryOp::Mul)?;
    weighted.sum_all()? * (temperature * temperature / rows as f64)
}

/// Cross-entropy with labels, the mean over rows; of mixed samples that with either label, by its share.
pub(crate) fn cross_entropy(
    student: &Tensor,
    labels: &[u32],
    mixture: Option<&Mixture>,
) -> Result<Tensor> {
    let log_p = log_softmax(student)?;
    let picked = |labels: &[u32]| -> Result<Tensor> {
        let labels = Tensor::from_slice(labels, (labels.len(), 1), student.device())?;
        log_p.gather(&labels, 1)?.squeeze(1)
    };
    let mut each = picked(labels)?;
    if let Some(Mixture { partner, shares }) = mixture {
        let others: Vec<u32> = partner.iter().map(|&i| labels[i as usize]).collect();
        let shares = Tensor::from_slice(shares, shares.len(), student.device())?;
        let gap = binary(&picked(&others)?, &each, BinaryOp::Sub)?;
        each = binary(&each, &binary(&gap, &shares, BinaryOp::Mul)?, BinaryOp::Add)?;
    }
    each.mean_all()?.neg()
}

/// Rows of length 1: the mean over the positions that `keep` leaves, then normalized.
fn pooled(x: &Tensor, keep: Option<&Tensor>) -> Result<Tensor> {
    let flat = match x.dims() {
        &[rows, length, _] => {
            let weights = match keep {
                Some(keep) => {
                    let count = keep.sum_keepdim(1)?.clamp(1.0f32, f32::MAX)?;
                    binary(keep, &count, BinaryOp::Div)?.transpose(1, 2)?
                }
                None => {
                    let each = 1.0 / length.max(1) as f32;
                    Tensor::full(each, (rows, 1, length), x.device())?
                }
            };
            matmul(&weights, x)?.squeeze(1)?
        }
        _ => x.flatten_from(1)?,
    };
    let norm = unary(
        &(unary(&flat, UnaryOp::Pow(2.0))?.sum_keepdim(1)? + 1e-12)?,
        UnaryOp::Sqrt,
    )?;
    binary(&flat, &norm, BinaryOp::Div)
}

/// One minus the mean cosine of pooled vectors, plus the mean squared gap between the matrices of cosines in the batch.
pub(crate) fn geometry(
    student: &Tensor,
    teacher: &Tensor,
    keep: Option<&Tensor>,
) -> Result<Tensor> {
    let (s, t) = (pooled(student, keep)?, pooled(&teacher.detach(), keep)?);
    let rows = s.dims()[0].max(1) as f64;
    let cosine = binary(&s, &t, BinaryOp::Mul)?
        .sum_all()?
        .affine(-1.0 / rows, 1.0)?;
    let own = matmul(&s, &s.t()?)?;
    let wanted = t.matmul(&t.t()?)?;
    let gap = unary(&binary(&own, &wanted, BinaryOp::Sub)?, UnaryOp::Pow(2.0))?.mean_all()?;
    cosine + gap
}

#[cfg(test)]
mod tests {
    use super::super::kernels::tests::check_gradients;
    use super::*;
    use candle_core::Device;

    #[test]
    fn equal_outputs_lose_nothing() {
        let x = Tensor::new(&[[1.0f32, 2.0, -1.0], [0.0, 0.5, 3.0]], &Device::Cpu).unwrap();
        let zero = |t: Tensor| t.to_scalar::<f32>().unwrap().abs() < 1e-6;
        assert!(zero(divergence(&x, &x, 2.0).unwrap()));
        assert!(zero(geometry(&x, &x, None).unwrap()));
    }

    #[test]
    fn a_mixed_sample_has_both_labels_by_their_shares() {
        let x = Tensor::new(&[[1.0f32, 2.0, -1.0], [0.0, 0.5, 3.0]], &Device::Cpu).unwrap();
        let entropy = |labels: &[u32], mixture: Option<&Mixture>| {
            let loss = cross_entropy(&x, labels, mixture).unwrap();
            loss.to_scalar::<f32>().unwrap()
        };
        let mixture = Mixture {
            partner: vec![0, 0],
            shares: vec![0.0, 0.3],
        };
        let expected = 0.7 * entropy(&[2, 1], None) + 0.3 * entropy(&[2, 2], None);
        assert!((entropy(&[2, 1], Some(&mixture)) - expected).abs() < 1e-6);
    }

    #[test]
    fn gradients_equal_central_differences() {
        let teacher = Tensor::new(&[[1.0f32, 2.0, -1.0], [0.0, 0.5, 3.0]], &Device::Cpu).unwrap();
        let mixture = Mixture {
            partner: vec![0, 0],
            shares: vec![0.0, 0.3],
        };
        check_gradients(&[&[2, 3]], 2e-3, |t| divergence(&t[0], &teacher, 2.0));
        for mixture in [None, Some(&mixture)] {
            check_gradients(&[&[2, 3]], 2e-3, |t| cross_entropy(&t[0], &[2, 0], mixture));
        }
        check_gradients(&[&[2, 3]], 2e-3, |t| {
            geometry(&(&t[0] + 2.0)?, &teacher, None)
        });
    }
}
