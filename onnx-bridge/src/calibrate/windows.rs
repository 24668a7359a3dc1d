//! What a convolution is given: its windows as rows, so that its kernel is a matrix like any other.

use ndarray::{Array2, ArrayD, ArrayViewD, IxDyn};

use crate::conv_layer::ConvLayer;
use crate::proto::{NodeProto, attribute};
use crate::view::GraphView;

/// The most windows of one batch that moments are taken of; more are picked from evenly.
const MOST: usize = 8192;

/// The windows of a convolution over images of one size.
#[derive(Debug)]
pub(crate) struct Windows {
    channels: usize,
    size: Vec<usize>,
    kernel: Vec<usize>,
    strides: Vec<usize>,
    dilations: Vec<usize>,
    before: Vec<usize>,
    places: Vec<usize>,
}

impl Windows {
    /// The windows over a value `[samples, channels, ..]`; `None` where they do not fit it.
    pub(crate) fn over(view: &GraphView<'_>, layer: &ConvLayer, shape: &[usize]) -> Option<Self> {
        let node = view.node(layer.node());
        let kernel = layer.kernel().to_vec();
        let [_, channels, size @ ..] = shape else {
            return None;
        };
        let axes = kernel.len();
        if size.len() != axes || *channels != layer.channels() {
            return None;
        }
        let strides = sizes(node, "strides", axes, 1)?;
        let dilations = sizes(node, "dilations", axes, 1)?;
        let pads = sizes(node, "pads", 2 * axes, 0)?;
        let auto = attribute(node, "auto_pad").map_or(&b"NOTSET"[..], |a| a.s());
        let (mut before, mut places) = (Vec::new(), Vec::new());
        for k in 0..axes {
            let reach = dilations[k] * (kernel[k].checked_sub(1)?) + 1;
            let stride = Some(strides[k]).filter(|&s| s > 0)?;
            let same = || {
                let places = size[k].div_ceil(stride);
                (places.saturating_sub(1) * stride + reach).saturating_sub(size[k])
            };
            let [first, last] = match auto {
                b"SAME_UPPER" => [same() / 2, same().div_ceil(2)],
                b"SAME_LOWER" => [same().div_ceil(2), same() / 2],
                b"VALID" => [0, 0],
                _ => [pads[k], pads[k + axes]],
            };
            let room = (size[k] + first + last).checked_sub(reach)?;
            before.push(first);
            places.push(room / stride + 1);
        }
        Some(Self {
            channels: *channels,
            size: size.to_vec(),
            kernel,
            strides,
            dilations,
            before,
            places,
        })
    }

    /// Windows of one image.
    fn count(&self) -> usize {
        self.places.iter().product()
    }

    /// Appends one window of an image `[channels, ..]`: the taps of every channel, zero where they lie in the padding.
    fn row(&self, image: &[f32], place: usize, rows: &mut Vec<f32>) {
        let axes = self.size.len();
        let taps: usize = self.kernel.iter().product();
        let area: usize = self.size.iter().product();
        let unravel = |mut index: usize, sizes: &[usize]| -> Vec<usize> {
            let mut found = vec![0; axes];
            for k in (0..axes).rev() {
                found[k] = index % sizes[k];
                index /= sizes[k];
            }
            found
        };
        let corner = unravel(place, &self.places);
        let offsets: Vec<Option<usize>> = (0..taps)
            .map(|tap| {
                let tap = unravel(tap, &self.kernel);
                let mut offset = 0;
                for k in 0..axes {
                    let at = (corner[k] * self.strides[k] + tap[k] * self.dilations[k])
                        .checked_sub(self.before[k])
                        .filter(|&at| at < self.size[k])?;
                    offset = offset * self.size[k] + at;
                }
                Some(offset)
            })
            .collect();
        for channel in image.chunks(area.max(1)).take(self.channels) {
            rows.extend(offsets.iter().map(|o| o.map_or(0.0, |o| channel[o])));
        }
    }

    /// Some windows of a value as rows `[.., N]`: all of them where there are few, the same ones for values of one shape.
    pub(crate) fn sampled(&self, value: ArrayViewD<'_, f32>) -> Array2<f32> {
        let samples = value.shape().first().copied().unwrap_or(0);
        let all = samples * self.count();
        let step = all.div_ceil(MOST).max(1);
        // A step that shares no factor with a row of places sees all columns of an image.
        let step = if step > 1 && self.places.last().is_some_and(|w| w.is_multiple_of(step)) {
            step + 1
        } else {
            step
        };
        self.rows(value, (0..all).step_by(step))
    }

    fn rows(&self, value: ArrayViewD<'_, f32>, which: impl Iterator<Item = usize>) -> Array2<f32> {
        let standard = value.as_standard_layout();
        let data = standard.as_slice().unwrap_or(&[]);
        let image = self.channels * self.size.iter().product::<usize>();
        let columns = self.channels * self.kernel.iter().product::<usize>();
        let mut rows = Vec::new();
        let mut count = 0;
        for index in which {
            let (sample, place) = (index / self.count(), index % self.count());
            self.row(
                &data[sample * image..(sample + 1) * image],
                place,
                &mut rows,
            );
            count += 1;
        }
        Array2::from_shape_vec((count, columns), rows)
            .unwrap_or_else(|_| Array2::zeros((0, columns)))
    }

    /// What a kernel makes of a value, image by image: `multiply` gives `X Wᵀ` for rows X.
    pub(crate) fn convolve(
        &self,
        value: ArrayViewD<'_, f32>,
        multiply: impl Fn(Array2<f32>) -> Option<Array2<f32>>,
    ) -> Option<ArrayD<f32>> {
        let samples = value.shape().first().copied().unwrap_or(0);
        let places = self.count();
        let mut made: Vec<f32> = Vec::new();
        let mut outputs = 0;
        for sample in 0..samples {
            let rows = self.rows(value.view(), sample * places..(sample + 1) * places);
            let y = multiply(rows)?;
            outputs = y.ncols();
            made.extend(y.t().iter());
        }
        let shape: Vec<usize> = [samples, outputs]
            .into_iter()
            .chain(self.places.clone())
            .collect();
        ArrayD::from_shape_vec(IxDyn(&shape), made).ok()
    }
}

/// An attribute of sizes that has one for each axis; `None` where it has not, or one is negative.
fn sizes(node: &NodeProto, name: &str, count: usize, default: usize) -> Option<Vec<usize>> {
    let Some(stated) = attribute(node, name) else {
        return Some(vec![default; count]);
    };
    let sizes: Option<Vec<usize>> = stated
        .ints
        .iter()
        .map(|&v| usize::try_from(v).ok())
        .collect();
    sizes.filter(|s| s.len() == count)
}
