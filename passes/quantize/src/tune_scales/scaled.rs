//! A weight whose codes stay while its scales are trained.

use qcc_ops::quant::Form;
use qcc_pass::PassError;
use qcc_quant::codes::Codes;
use qcc_quant::rows::{FloatKind, WeightRows};
use qcc_tensor::Tensor;

use super::Trained;
use super::adam::Factors;
use crate::choose::Weight;

/// A weight `scale c (code - zero)`: c, one number for each group, is trained, with its scale
/// rounded to the stored type in each step.
pub(super) struct Scaled {
    /// Which of the weights of the pass.
    index: usize,
    form: Form,
    dims: Vec<usize>,
    /// The codes, with the scales as they are now.
    codes: Codes,
    /// The scales of the best step so far, `[n][groups]`.
    best: Vec<f32>,
    /// The scales at the beginning.
    start: Vec<f32>,
    factors: Factors,
}

impl Scaled {
    /// Whether a weight has numbers, and one scale for each group of them.
    pub(super) fn fits(weight: &Weight) -> bool {
        weight.quant.numbers.is_some() && !weight.has_outliers()
    }

    /// Of a weight with numbers; `None` without, and where outliers have scales of their own.
    pub(super) fn new(index: usize, weight: &Weight) -> Option<Self> {
        let codes = weight.codes()?;
        let groups = codes.scales.len();
        Some(Self {
            index,
            form: weight.quant.form,
            dims: weight.tensor.dims().into(),
            best: codes.scales.clone(),
            start: codes.scales.clone(),
            codes,
            factors: Factors::new(groups),
        })
    }

    /// The codes with the best scales; `None` when those are the ones it began with.
    pub(super) fn finish(mut self) -> Option<Codes> {
        if self.best == self.start {
            return None;
        }
        self.codes.scales = self.best;
        Some(self.codes)
    }
}

impl Trained for Scaled {
    fn index(&self) -> usize {
        self.index
    }

    /// How far the first step moves a scale, as a part of it. What fits falls with the width of a
    /// code, since that of all others does: 0.01 for 2 bits and 0.004 for 4 measured best.
    fn rate(&self) -> f32 {
        0.04 / self.codes.spec.bits.levels() as f32
    }

    /// The weight as the graph reads it.
    fn tensor(&self) -> Result<Tensor, PassError> {
        let mut out = vec![0.0; self.form.n * self.form.k];
        self.codes.fill(self.form.order, &mut out);
        Ok(Tensor::from_vec(self.dims.clone(), out)?)
    }

    /// The scales now are the best ones.
    fn keep(&mut self) {
        self.best.clone_from(&self.codes.scales);
    }

    /// Adds the derivatives of one sample by the weight, `f32` of its shape:
    /// `dL/dc = s sum of dL/dW (code - zero)`.
    fn add(&mut self, gradient: &Tensor) -> Result<(), PassError> {
        let Form { n, k, order } = self.form;
        let (groups, size) = (self.codes.groups(), self.codes.spec.group.len(k));
        let Ok(rows) = WeightRows::new(gradient.bytes(), FloatKind::F32, n, k, order) else {
            return Err(PassError::internal("a gradient is not of the shape of its weight"));
        };
        let mut turned = vec![0.0; n * k];
        rows.read(0, &mut turned);
        let each = turned.chunks_exact(k.max(1)).zip(self.codes.codes.chunks_exact(k.max(1)));
        for (row, (gradient, codes)) in each.enumerate() {
            for (g, (gradient, codes)) in gradient.chunks(size).zip(codes.chunks(size)).enumerate()
            {
                let at = row * groups + g;
                let zero = f32::from(self.codes.zeros[at]);
                let terms = gradient.iter().zip(codes).map(|(g, c)| g * (f32::from(*c) - zero));
                self.factors.slopes[at] += self.start[at] * terms.sum::<f32>();
            }
        }
        Ok(())
    }

    fn step(&mut self, rate: f32, step: i32) -> bool {
        let moved = self.factors.step(rate, step);
        let each = self.codes.scales.iter_mut().zip(&self.start).zip(&self.factors.values);
        for ((scale, start), factor) in each {
            let stored = self.codes.spec.scale.round(start * factor);
            *scale = if stored == 0.0 { *start } else { stored };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qcc_quant::rows::Order;
    use qcc_quant::spec::{Bits, Grid, GroupSize, ScaleType, WeightSpec};

    fn scaled(scale: ScaleType) -> Scaled {
        let spec = WeightSpec {
            bits: Bits::new(2).unwrap(),
            group: GroupSize::of(2).unwrap(),
            grid: Grid::Asym,
            scale,
        };
        let mut codes = Codes::zeroed(2, 4, spec);
        codes.codes = vec![0, 3, 1, 2, 3, 3, 0, 1];
        codes.scales = vec![0.5, 0.25, -1.0, 2.0];
        let start = codes.scales.clone();
        Scaled {
            index: 0,
            form: Form { n: 2, k: 4, order: Order::Kn },
            dims: vec![4, 2],
            best: start.clone(),
            codes,
            start,
            factors: Factors::new(4),
        }
    }

    /// `L = sum of g W` for gradients g in the order of the weight.
    fn loss(it: &Scaled, g: &[f32]) -> f64 {
        let w = it.tensor().unwrap().to_f32().unwrap().into_owned();
        w.iter().zip(g).map(|(w, g)| f64::from(*w) * f64::from(*g)).sum()
    }

    #[test]
    fn slopes_are_those_of_central_differences_and_a_step_goes_down() {
        let g: Vec<f32> = (0..8).map(|it| (it * 5 % 7) as f32 / 3.0 - 1.0).collect();
        let mut it = scaled(ScaleType::F32);
        it.add(&Tensor::from_vec(vec![4, 2], g.clone()).unwrap()).unwrap();
        for at in 0..4 {
            let (mut less, mut more) = (scaled(ScaleType::F32), scaled(ScaleType::F32));
            less.codes.scales[at] *= 0.99;
            more.codes.scales[at] *= 1.01;
            let slope = (loss(&more, &g) - loss(&less, &g)) / 0.02;
            assert!((slope - f64::from(it.factors.slopes[at])).abs() < 1e-4, "{at}: {slope}");
        }
        let before = loss(&it, &g);
        assert!(it.step(0.01, 1));
        assert!(loss(&it, &g) < before);
        assert!(it.finish().is_none(), "nothing was kept");
    }

    #[test]
    fn scales_stay_in_their_type_and_in_range() {
        let g = Tensor::from_vec(vec![4, 2], vec![1.0f32; 8]).unwrap();
        let mut it = scaled(ScaleType::F16);
        for step in 1..200 {
            it.add(&g).unwrap();
            assert!(it.step(0.05, step));
        }
        for (scale, start) in it.codes.scales.iter().zip(&it.start) {
            assert_eq!(ScaleType::F16.round(*scale), *scale);
            assert!((0.49..2.01).contains(&(scale / start)));
        }
        it.keep();
        let codes = it.codes.codes.clone();
        assert_eq!(it.finish().unwrap().codes, codes);
    }

    #[test]
    fn a_gradient_that_is_not_finite_moves_nothing() {
        let mut it = scaled(ScaleType::F32);
        it.add(&Tensor::from_vec(vec![4, 2], vec![f32::NAN; 8]).unwrap()).unwrap();
        assert!(!it.step(0.01, 1));
        assert_eq!(it.codes.scales, it.start);
    }
}
