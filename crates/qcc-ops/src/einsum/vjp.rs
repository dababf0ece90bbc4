//! Derivative of `Einsum`: for each operand a sum of products of the others with the adjoint of the
//! result, to the labels of the operand. A label that stands in one operand alone is repeated.

use qcc_ir::{Adjoints, Emitter, Io, Value};

use super::{Einsum, Term};
use crate::emit::{Emit, args, no_vjp};

impl Term {
    fn text(&self) -> String {
        let mut text: String = self.letters.iter().collect();
        if let Some(at) = self.ellipsis {
            text.insert_str(at, "...");
        }
        text
    }
}

pub(super) fn einsum(op: &Einsum, b: &mut Emitter, io: &Io<'_>, dy: &[Option<Value>]) -> Adjoints {
    let (g, _, []) = args(op, io, dy)?;
    let mut adjoints = vec![None; op.terms.len()];
    for (at, term) in op.terms.iter().enumerate().filter(|it| io.wants(it.0)) {
        let Some(x) = io.input(at) else { return Err(no_vjp(op, "an operand is absent")) };
        let mut unique = term.letters.clone();
        unique.sort_unstable();
        unique.dedup();
        if unique.len() != term.letters.len() {
            return Err(no_vjp(op, "of a diagonal"));
        }
        let others =
            || op.terms.iter().zip(io.inputs).enumerate().filter(|it| it.0 != at).map(|it| it.1);
        let sides: Vec<&Term> = others().map(|it| it.0).chain([&op.output]).collect();
        let has_rest = sides.iter().any(|it| it.ellipsis.is_some());
        if term.ellipsis.is_some() && !has_rest {
            return Err(no_vjp(op, "summed over the ellipsis"));
        }
        let is_known = |it: &char| sides.iter().any(|side| side.letters.contains(it));
        let before = |letters: &[char]| letters.iter().filter(|it| is_known(it)).count();
        let own = Term {
            letters: term.letters.iter().copied().filter(|it| is_known(it)).collect(),
            ellipsis: term.ellipsis.map(|it| before(&term.letters[..it])),
        };
        let terms: Vec<String> = sides.iter().map(|it| it.text()).collect();
        let product = Einsum {
            equation: format!("{}->{}", terms.join(","), own.text()),
            terms: sides.iter().map(|it| (*it).clone()).collect(),
            output: own,
        };
        let operands: Option<Vec<Value>> = others().map(|it| *it.1).chain([Some(g)]).collect();
        let operands = operands.ok_or_else(|| no_vjp(op, "an operand is absent"))?;
        let mut d = b.apply(product, &operands);
        let alone: Vec<i64> =
            (0..).zip(&term.letters).filter(|it| !is_known(it.1)).map(|it| it.0).collect();
        if !alone.is_empty() {
            if term.ellipsis.is_some() {
                return Err(no_vjp(op, "with an ellipsis beside a label that is summed alone"));
            }
            d = b.unsqueeze(d, &alone);
            d = b.expand_to(d, x);
        }
        adjoints[at] = Some(b.sum_to(d, x));
    }
    Ok(adjoints)
}

#[cfg(test)]
mod tests {
    use qcc_ir::Attr;

    use crate::parse;
    use crate::testing::{Arg, check_vjp, values};

    fn check(equation: &str, shapes: &[&[usize]]) {
        let attrs = vec![("equation".to_owned(), Attr::from(equation))];
        let op = parse("", "Einsum", 12, attrs).unwrap();
        let inputs: Vec<Arg> = shapes.iter().map(|it| values(it)).collect();
        check_vjp(&*op, &inputs, 1);
    }

    #[test]
    fn gradients_match_central_differences() {
        check("ij,jk->ik", &[&[3, 5], &[5, 2]]);
        check("bhid,bhjd->bhij", &[&[2, 1, 3, 5], &[2, 1, 4, 5]]);
        check("...ij,jk->...ik", &[&[2, 3, 5], &[5, 2]]);
        check("...ij,...jk->...ik", &[&[1, 3, 5], &[4, 5, 2]]);
        check("ij->", &[&[3, 5]]);
        check("ij,k->ik", &[&[3, 5], &[4]]);
        check("ij->ji", &[&[3, 1]]);
        check("i,j,ij->j", &[&[3], &[2], &[3, 2]]);
    }
}
