//! Attention of many heads as one operator, a sample to each thread: its scores never leave the cache.

mod sample;

use candle_core::{Result, Tensor};

use super::super::value::broadcast_shape;
use super::binary::summed;
use super::fresh::{fresh, fresh_together};
use super::{plain, read};
use sample::{Mask, Sizes, Whole, chunk};

/// What attention reads: queries `[B, L, H, D]`, keys `[B, S, H, D]`, values `[B, S, H, E]`, numbers that are added to the scores, and
/// what the products are multiplied by before.
///
/// Samples and heads of 1 are broadcast; `mask` is broadcast to `[B, H, L, S]`.
pub(crate) struct Attention<'a> {
    pub(crate) queries: &'a Tensor,
    pub(crate) keys: &'a Tensor,
    pub(crate) values: &'a Tensor,
    pub(crate) mask: Option<&'a Tensor>,
    pub(crate) scale: f32,
}

impl Attention<'_> {
    /// The sizes, and what is read broadcast to as many samples and heads.
    fn sized(&self) -> Result<(Sizes, [Tensor; 3])> {
        let wrong = || {
            let dims = [self.queries, self.keys, self.values].map(Tensor::dims);
            candle_core::Error::Msg(format!(
                "expected queries, keys and values of fitting sizes, found {dims:?} and a mask of {:?}",
                self.mask.map(Tensor::dims)
            ))
        };
        let (Ok(q), Ok(k), Ok(v)) = (self.queries.dims4(), self.keys.dims4(), self.values.dims4())
        else {
            return Err(wrong());
        };
        let mut shape = vec![1, 1];
        for of in [[q.0, q.2], [k.0, k.2], [v.0, v.2]] {
            shape = broadcast_shape(&shape, &of).map_err(|_| wrong())?;
        }
        let mut whole = [shape.as_slice(), &[q.1, k.1]].concat();
        if let Some(mask) = self.mask {
            whole = broadcast_shape(&whole, mask.dims()).map_err(|_| wrong())?;
        }
        let [samples, heads, length, seen] = whole[..] else {
            return Err(wrong());
        };
        if (length, seen, v.1, k.3) != (q.1, k.1, k.1, q.3) {
            return Err(wrong());
        }
        let sizes = Sizes {
            samples,
            heads,
            length,
            seen,
            width: q.3,
            given: v.3,
        };
        let spread = |t: &Tensor| {
            let (_, length, _, width) = t.dims4()?;
            t.broadcast_as((samples, length, heads, width))?
                .contiguous()
        };
        let read = [
            spread(self.queries)?,
            spread(self.keys)?,
            spread(self.values)?,
        ];
        Ok((sizes, read))
    }

    /// Lends `f` what is read.
    fn with<R>(&self, f: impl FnOnce(&Whole<'_>) -> R) -> Result<R> {
        let (sizes, [q, k, v]) = self.sized()?;
        let run = |queries: &[f32], keys: &[f32], values: &[f32], mask: Option<&[f32]>| {
            let steps = self.mask.map_or([0; 4], |mask| Mask::steps(mask.dims()));
            f(&Whole {
                sizes,
                queries,
                keys,
                values,
                mask: mask.map(|data| Mask { data, steps }),
                scale: self.scale,
            })
        };
        read(&q, |q| {
            read(&k, |k| {
                read(&v, |v| match self.mask {
                    Some(mask) => read(mask, |mask| run(q, k, v, Some(mask))),
                    None => Ok(run(q, k, v, None)),
                })
            })
        })???
    }

    /// `softmax(scale q kᵀ + mask) v`, `[B, L, H, E]`.
    ///
    /// # Numerics
    /// Products in f32, probabilities as [`super::softmax_last`] makes them, but 0 where they would be below 1e-19.
    ///
    /// # Errors
    /// For sizes that do not fit together.
    pub(crate) fn forward(&self) -> Result<Tensor> {
        let (s, made) = self.with(|whole| {
            let s = whole.sizes;
            let made = fresh(s.samples * s.result(), s.result(), |index, out| {
                whole.sample(index).forward(out);
            });
            (s, made)
        })?;
        plain(made, &[s.samples, s.length, s.heads, s.given])
    }

    /// The gradients of queries, keys, values and, where `of_mask`, of the mask, from that of the result. Probabilities are computed anew.
    ///
    /// # Errors
    /// As [`Attention::forward`].
    pub(crate) fn gradients(
        &self,
        gradient: &Tensor,
        of_mask: bool,
    ) -> Result<[Option<Tensor>; 4]> {
        let (s, [dq, dk, dv, all]) = self.with(|whole| {
            read(gradient, |g| {
                let s = whole.sizes;
                let all = if of_mask { s.scores() } else { 0 };
                let sizes = [s.queries(), s.keys(), s.values(), all];
                let made = fresh_together(s.samples, sizes, |index, out| {
                    let g = chunk(g, s.result(), index);
                    whole.sample(index).backward(g, out);
                });
                (s, made)
            })
        })??;
        let of = |data: Vec<f32>, length, width, source: &Tensor| {
            let whole = plain(data, &[s.samples, length, s.heads, width])?;
            summed(&whole, source.dims()).map(Some)
        };
        let of_mask = self.mask.filter(|_| of_mask).map(|mask| {
            let whole = plain(all, &[s.samples, s.heads, s.length, s.seen])?;
            summed(&whole, mask.dims())
        });
        Ok([
            of(dq, s.length, s.width, self.queries)?,
            of(dk, s.seen, s.width, self.keys)?,
            of(dv, s.seen, s.given, self.values)?,
            of_mask.transpose()?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::sequence;
    use super::super::{matmul, softmax_last};
    use super::*;
    use candle_core::{Device, Var};

    /// Queries, keys, values, mask.
    type Case = [&'static [usize]; 4];

    fn apart(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        let scores = matmul(&q.transpose(1, 2)?, &k.permute((0, 2, 3, 1))?)?;
        let scores = (scores * 0.3)?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        matmul(&softmax_last(&scores)?, &v.transpose(1, 2)?)?.transpose(1, 2)
    }

    #[test]
    fn equals_its_parts_with_all_gradients() {
        // The last one is too large for the first cache.
        let cases: [Case; 7] = [
            [&[2, 5, 3, 4], &[2, 7, 3, 4], &[2, 7, 3, 6], &[]],
            [&[2, 5, 3, 4], &[2, 7, 3, 4], &[2, 7, 3, 6], &[2, 1, 1, 7]],
            [
                &[2, 40, 3, 20],
                &[2, 40, 3, 20],
                &[2, 40, 3, 20],
                &[1, 1, 40, 40],
            ],
            [&[2, 5, 3, 4], &[1, 7, 1, 4], &[2, 7, 1, 6], &[2, 3, 5, 7]],
            [&[1, 5, 3, 4], &[1, 7, 3, 4], &[1, 7, 3, 6], &[2, 1, 5, 1]],
            [&[2, 5, 3, 4], &[2, 7, 3, 4], &[2, 7, 3, 6], &[7]],
            [
                &[2, 130, 2, 40],
                &[2, 300, 2, 40],
                &[2, 300, 2, 40],
                &[1, 300],
            ],
        ];
        for case in cases {
            let var = |k: usize| {
                let n = case[k].iter().product();
                Var::from_vec(sequence(n, k as u32 + 1), case[k], &Device::Cpu).unwrap()
            };
            let vars = [0, 1, 2, 3].map(var);
            let mask = (!case[3].is_empty()).then(|| vars[3].as_tensor());
            let [q, k, v, _] = &vars;
            let expected = apart(q, k, v, mask).unwrap();
            let (fq, fk, fv) = (q.detach(), k.detach(), v.detach());
            let frozen = mask.map(Tensor::detach);
            let attention = Attention {
                queries: &fq,
                keys: &fk,
                values: &fv,
                mask: frozen.as_ref(),
                scale: 0.3,
            };
            let gap = |a: &Tensor, b: &Tensor| {
                assert_eq!(a.dims(), b.dims(), "{case:?}");
                let gap = (a - b).unwrap().abs().unwrap().max_all().unwrap();
                gap.to_scalar::<f32>().unwrap()
            };
            let found = attention.forward().unwrap();
            assert!(gap(&found, &expected) < 1e-5, "{case:?}");
            let g = sequence(found.elem_count(), 9);
            let g = Tensor::from_vec(g, found.dims(), &Device::Cpu).unwrap();
            let store = (expected * &g)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            let own = attention.gradients(&g, mask.is_some()).unwrap();
            assert_eq!(own[3].is_some(), mask.is_some());
            for (own, var) in own.iter().zip(&vars) {
                if let Some(own) = own {
                    assert!(gap(own, store.get(var).unwrap()) < 1e-4, "{case:?}");
                }
            }
        }
    }

    #[test]
    fn far_scores_leave_no_subnormal_gradients() {
        let t = |v: [f32; 2]| Tensor::from_slice(&v, (1, 2, 1, 1), &Device::Cpu).unwrap();
        // Scores of 60 and 0: probabilities of 1 and of 9e-27, whose gradients the small ones below would make subnormal.
        let (q, k, v) = (t([60.0, 60.0]), t([1.0, 0.0]), t([1.0, 2.0]));
        let attention = Attention {
            queries: &q,
            keys: &k,
            values: &v,
            mask: None,
            scale: 1.0,
        };
        let gradients = attention.gradients(&t([1e-15, 1e-15]), false).unwrap();
        for gradient in gradients.into_iter().flatten() {
            let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert!(values.iter().all(|g| !g.is_subnormal()), "{values:?}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let t =
            |dims: &[usize]| Tensor::zeros(dims, candle_core::DType::F32, &Device::Cpu).unwrap();
        let (q, k) = (t(&[2, 5, 3, 4]), t(&[2, 7, 3, 5]));
        let attention = Attention {
            queries: &q,
            keys: &k,
            values: &k,
            mask: None,
            scale: 1.0,
        };
        let error = attention.forward().unwrap_err().to_string();
        assert!(error.contains("[2, 7, 3, 5]"), "{error}");
    }
}
