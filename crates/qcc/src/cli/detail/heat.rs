//! Where the error of a weight is: the root of its mean square in each block of rows and groups, by
//! that of the values of the whole weight, `sqrt(mean_cell (w - v)^2 / mean w^2)`.

use qcc_report::HeatMap;

use super::{Weight, by_chunks};

/// Cells of a side, at most.
const SIDE: usize = 64;

/// The errors of a weight; `None` where it is empty or all zeros.
pub(super) fn map(weight: &Weight<'_>) -> Option<HeatMap> {
    let rows = weight.rows()?;
    let (n, k) = (rows.n(), rows.k());
    let (group, groups) = (weight.quant.spec.group.len(k), weight.quant.spec.group.count(k));
    if n == 0 || k == 0 {
        return None;
    }
    let (cell_rows, cell_groups) = (n.div_ceil(SIDE), groups.div_ceil(SIDE));
    let (height, width) = (n.div_ceil(cell_rows), k.div_ceil(cell_groups * group));
    let view = weight.numbers.view();
    // For each row its squared errors by cell, and its energy: sums are added in their order.
    let parts = by_chunks(&rows, |first, values| {
        let (mut codes, mut out) = (vec![0; k], vec![0.0; k]);
        let each = values.chunks_exact(k).enumerate().map(|(row, values)| {
            view.dequantize(first + row, &mut codes, &mut out);
            let cells = values.chunks(cell_groups * group).zip(out.chunks(cell_groups * group));
            let squared = |(w, v): (&[f32], &[f32])| -> f64 {
                w.iter().zip(v).map(|(w, v)| f64::from(w - v).powi(2)).sum()
            };
            let energy: f64 = values.iter().map(|it| f64::from(*it).powi(2)).sum();
            (cells.map(squared).collect::<Vec<f64>>(), energy)
        });
        each.collect::<Vec<_>>()
    });
    let mut sums = vec![vec![0.0; width]; height];
    let mut energy = 0.0;
    for (row, (squared, own)) in parts.into_iter().flatten().enumerate() {
        sums[row / cell_rows].iter_mut().zip(squared).for_each(|(sum, it)| *sum += it);
        energy += own;
    }
    let mean = energy / (n as f64 * k as f64);
    if mean <= 0.0 || !mean.is_finite() {
        return None;
    }
    let count = |at: usize, of: usize, all: usize| (all - at * of).min(of) as f64;
    let relative = |(y, row): (usize, Vec<f64>)| {
        let high = count(y, cell_rows, n);
        let wide = |x: usize| count(x, cell_groups * group, k);
        let each = row.into_iter().enumerate();
        each.map(|(x, sum)| rounded((sum / (high * wide(x)) / mean).sqrt())).collect()
    };
    Some(HeatMap {
        name: weight.name.clone(),
        n,
        k,
        group,
        cell_rows,
        cell_groups,
        cells: sums.into_iter().enumerate().map(relative).collect(),
    })
}

/// To a part in a thousand or less: there are many, and more is not seen.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::super::tests::weight;
    use super::*;

    #[test]
    fn an_outlier_column_is_hot() {
        // Groups of 8: those that hold input 17 span a range ten times as large.
        let value = |it: usize| match it % 24 {
            17 => 10.0,
            _ => ((it * 37) % 101) as f32 / 101.0,
        };
        let values: Vec<f32> = (0..130 * 24).map(value).collect();
        weight(&values, 24, |it| {
            let map = map(it).unwrap();
            assert_eq!(
                (map.n, map.k, map.group, map.cell_rows, map.cell_groups),
                (130, 24, 8, 3, 1)
            );
            assert_eq!(map.cells.len(), 44);
            for row in &map.cells {
                assert_eq!(row.len(), 3);
                assert!(row[2] > 2.0 * row[0] && row[2] > 2.0 * row[1], "{row:?}");
            }
        });
    }

    #[test]
    fn cells_add_up_to_the_error_of_the_weight() {
        // 70 groups in cells of two, and 66 rows in cells of two.
        let values: Vec<f32> = (0..66 * 560).map(|it| ((it * 37) % 101) as f32 - 50.0).collect();
        weight(&values, 560, |it| {
            let map = map(it).unwrap();
            assert_eq!((map.cells.len(), map.cells[0].len()), (33, 35));
            let all = || map.cells.iter().flatten();
            let mean = all().map(|it| it * it).sum::<f64>() / all().count() as f64;
            let want = super::super::error(&it.rows().unwrap(), it.numbers);
            let want = want.squared / want.energy;
            assert!((mean / want - 1.0).abs() < 1e-3, "{mean} {want}");
        });
    }

    #[test]
    fn a_weight_of_zeros_has_none() {
        weight(&[0.0; 64], 8, |it| assert_eq!(map(it), None));
    }
}
