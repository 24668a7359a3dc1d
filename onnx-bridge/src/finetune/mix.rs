//! Batches of mixed samples: data where there is little of it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::batches::SplitMix;
use super::ops::OpError;
use super::value::Value;

/// What the samples of a batch were mixed of: sample `i` is `(1 - shares[i]) x[i] + shares[i] x[partner[i]]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Mixture {
    /// The other sample of the batch.
    pub(crate) partner: Vec<u32>,
    /// Its share.
    pub(crate) shares: Vec<f32>,
}

/// Mixes the second half of a batch with its first half, by random shares of up to `most`; `None` where no array is of floats.
///
/// # Source
/// Zhang et al. 2018, mixup, arXiv 1710.09412; for distillation: Beyer et al. 2022, arXiv 2106.05237.
///
/// # Errors
/// [`OpError`] for arrays of different numbers of samples.
pub(crate) fn mix(
    feeds: &mut BTreeMap<String, Value>,
    most: f64,
    random: &mut SplitMix,
) -> Result<Option<Mixture>, OpError> {
    let mut mixture: Option<Mixture> = None;
    for value in feeds.values_mut() {
        let Value::Float(x) = &*value else { continue };
        let rows = x.dims()[0];
        let mixture = mixture.get_or_insert_with(|| {
            let half = (rows / 2) as u32;
            let mixed = |i: u32| i >= half && half > 0;
            Mixture {
                partner: (0..rows as u32)
                    .map(|i| if mixed(i) { i % half } else { i })
                    .collect(),
                shares: (0..rows as u32)
                    .map(|i| {
                        if mixed(i) {
                            (random.unit() * most) as f32
                        } else {
                            0.0
                        }
                    })
                    .collect(),
            }
        });
        let mut shape = vec![1; x.rank()];
        shape[0] = rows;
        let shares = Tensor::from_slice(&mixture.shares, shape, &Device::Cpu)?;
        let partner = Tensor::from_slice(&mixture.partner, rows, &Device::Cpu)?;
        let gap = (x.index_select(&partner, 0)? - x)?;
        *value = Value::Float((x + gap.broadcast_mul(&shares)?)?);
    }
    Ok(mixture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_batch_is_what_the_mixture_says_and_the_other_half_is_as_it_was() {
        let x = Tensor::new(
            &[
                [1.0f32, 0.0],
                [0.0, 1.0],
                [4.0, 2.0],
                [0.0, -2.0],
                [6.0, 8.0],
            ],
            &Device::Cpu,
        )
        .unwrap();
        let rows = x.to_vec2::<f32>().unwrap();
        let feeds = |name: &str| (name.to_string(), Value::Float(x.clone()));
        let mut feeds = BTreeMap::from([feeds("a"), feeds("b")]);
        let mixture = mix(&mut feeds, 0.5, &mut SplitMix::new(3, 0))
            .unwrap()
            .unwrap();
        assert_eq!(mixture.partner, [0, 1, 0, 1, 0]);
        assert_eq!(mixture.shares[..2], [0.0, 0.0]);
        assert!(mixture.shares[2..].iter().all(|&s| s > 0.0 && s <= 0.5));
        for value in feeds.values() {
            let Value::Float(mixed) = value else { panic!() };
            for (i, found) in mixed.to_vec2::<f32>().unwrap().iter().enumerate() {
                let (share, other) = (mixture.shares[i], &rows[mixture.partner[i] as usize]);
                for ((found, own), other) in found.iter().zip(&rows[i]).zip(other) {
                    assert!((found - (own + share * (other - own))).abs() < 1e-6);
                }
            }
        }
        assert_eq!(
            mix(&mut BTreeMap::new(), 0.5, &mut SplitMix::new(3, 0)).unwrap(),
            None
        );
    }
}
