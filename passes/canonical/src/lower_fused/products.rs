//! Products of matrices with their operands turned.

use qcc_ir::Value;

use super::{Lowering, Site};

pub(super) const TABLE: &[Lowering] =
    &[Lowering { name: "FusedMatMul", since: 1, lower: fused_matmul }];

fn fused_matmul(site: &mut Site<'_>) -> Result<Vec<Option<Value>>, String> {
    let a = turned(site, 0, ["transA", "transBatchA"])?;
    let b = turned(site, 1, ["transB", "transBatchB"])?;
    let product = site.plain("MatMul", [a, b])?;
    let alpha = site.float("alpha", 1.0);
    if alpha == 1.0 {
        return Ok(vec![Some(product)]);
    }
    let like = site.need(0)?;
    let alpha = site.number(alpha, like)?;
    Ok(vec![Some(site.plain("Mul", [product, alpha])?)])
}

/// An operand as a plain product reads it; vectors are not turned.
fn turned(site: &mut Site<'_>, index: usize, attrs: [&str; 2]) -> Result<Value, String> {
    let x = site.need(index)?;
    let [matrix, batch] = attrs.map(|it| site.int(it) != 0);
    if !matrix && !batch {
        return Ok(x);
    }
    let rank = site.rank(index)?;
    if rank < 2 {
        return Ok(x);
    }
    let mut perm: Vec<i64> = (0..rank as i64).collect();
    if batch {
        // The first dimension is that of the rows and goes behind the batch.
        perm[..rank - 1].rotate_left(1);
    }
    if matrix {
        perm.swap(rank - 2, rank - 1);
    }
    site.transpose(x, &perm)
}
