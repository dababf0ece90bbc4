//! Layers: what repeats along a chain of cuts.
//!
//! The parts between cuts that hold products are compared by the sizes of their weights, and by
//! whether they hold attention, over what the same or another chain makes. The row of
//! parts with the smallest period that covers most is a run of layers, period by period; what lies
//! before and after it is searched in turn. A layer begins with attention where it has any. A
//! part that does not repeat is a layer by itself if it is an attention, with what comes after it
//! on the residual stream, or a residual branch of several products.
//! Parts without products, a norm between two cuts say, belong to what comes before them. After the
//! last layer that is so only for what comes after the other layers as well, so that the last norm
//! of a decoder is not taken for a part of its last layer.

use std::ops::Range;

use super::Kind;

/// What lies between a cut and the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Segment {
    /// Dimensions of the weights of its products, sorted.
    pub(super) weights: Vec<Vec<usize>>,
    /// Their elements.
    pub(super) params: u64,
    /// Multiplies two activations, with a softmax, or is a fused attention.
    pub(super) attends: bool,
    /// Has a shorter way around its products.
    pub(super) is_residual: bool,
    /// Reads what another chain makes.
    pub(super) crosses: bool,
    /// Structural class.
    pub(super) class: u64,
}

/// Segments that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Which ones of the chain.
    pub(super) segments: Range<usize>,
    /// What they are.
    pub(super) kind: Kind,
}

/// Groups the segments of one chain, all of them, in order.
pub(super) fn group(segments: &[Segment]) -> Vec<Group> {
    let products: Vec<usize> =
        (0..segments.len()).filter(|&it| !segments[it].weights.is_empty()).collect();
    let layers = with_gaps(segments, &products, &layers(segments, &products));
    let mut groups = Vec::new();
    let mut at = 0;
    for (idx, layer) in layers.iter().enumerate() {
        if idx == 0 && layer.start > 0 {
            groups.push(Group { segments: 0..layer.start, kind: Kind::Before });
        } else {
            groups.extend(singles(segments, at..layer.start));
        }
        groups.push(Group { segments: layer.clone(), kind: Kind::Layer });
        at = layer.end;
    }
    if layers.is_empty() {
        let first = products.first().copied().unwrap_or(segments.len());
        if first > 0 {
            groups.push(Group { segments: 0..first, kind: Kind::Before });
        }
        groups.extend(singles(segments, first..segments.len()));
    } else if at < segments.len() {
        groups.push(Group { segments: at..segments.len(), kind: Kind::After });
    }
    groups
}

/// One group for each segment with products; those without go to the one before, or else to the
/// first.
fn singles(segments: &[Segment], range: Range<usize>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut start = range.start;
    for idx in range.clone() {
        let next = segments.get(idx + 1).filter(|_| idx + 1 < range.end);
        let has_products = segments[start..=idx].iter().any(|it| !it.weights.is_empty());
        if next.is_none_or(|it| has_products && !it.weights.is_empty()) {
            groups.push(Group { segments: start..idx + 1, kind: Kind::Single });
            start = idx + 1;
        }
    }
    groups
}

/// Layers as ranges of `products`, in order and apart from each other.
fn layers(segments: &[Segment], products: &[usize]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let all = 0..products.len();
    let mut open = vec![all];
    while let Some(range) = open.pop() {
        let Some((start, period, count)) = run(segments, products, range.clone()) else {
            found.extend(by_form(segments, products, range));
            continue;
        };
        found.extend((0..count).map(|it| start + it * period..start + (it + 1) * period));
        open.push(range.start..start);
        open.push(start + count * period..range.end);
    }
    found.sort_by_key(|it| it.start);
    found
}

/// First segment, period and number of periods of the longest repetition; `None` if nothing
/// repeats.
fn run(
    segments: &[Segment],
    products: &[usize],
    range: Range<usize>,
) -> Option<(usize, usize, usize)> {
    /// Longest period that is looked for, in segments.
    const LONGEST: usize = 64;
    let same = |a: usize, b: usize| {
        let (a, b) = (&segments[products[a]], &segments[products[b]]);
        a.weights == b.weights && a.attends == b.attends && a.crosses == b.crosses
    };
    let mut best: Option<(usize, usize, usize)> = None;
    for period in 1..=(range.len() / 2).min(LONGEST) {
        let mut start = range.start;
        while start + 2 * period <= range.end {
            let mut end = start + period;
            while end < range.end && same(end - period, end) {
                end += 1;
            }
            let begin = (start..start + period).find(|&it| segments[products[it]].attends);
            let begin = begin.filter(|it| it + 2 * period <= end).unwrap_or(start);
            let count = (end - begin) / period;
            if count >= 2 && best.is_none_or(|it| count * period > it.1 * it.2) {
                best = Some((begin, period, count));
            }
            start = (end + 1).saturating_sub(period).max(start + 1);
        }
    }
    best
}

/// Layers among segments that do not repeat.
fn by_form(segments: &[Segment], products: &[usize], range: Range<usize>) -> Vec<Range<usize>> {
    let at = |idx: usize| &segments[products[idx]];
    let begins = |idx: usize| at(idx).attends && !at(idx).crosses;
    let mut found = Vec::new();
    let mut idx = range.start;
    while idx < range.end {
        let mut end = idx + 1;
        if begins(idx) {
            while end < range.end && at(end).is_residual && !begins(end) {
                end += 1;
            }
            found.push(idx..end);
        } else if at(idx).is_residual && at(idx).weights.len() > 1 {
            found.push(idx..end);
        }
        idx = end;
    }
    found
}

/// Layers as ranges of segments: with what has no products between and after them.
fn with_gaps(
    segments: &[Segment],
    products: &[usize],
    layers: &[Range<usize>],
) -> Vec<Range<usize>> {
    let gap = |idx: usize| {
        let end = products.get(idx + 1).copied().unwrap_or(segments.len());
        products[idx] + 1..end
    };
    let classes = |range: Range<usize>| segments[range].iter().map(|it| it.class);
    let mut found = Vec::new();
    for (idx, layer) in layers.iter().enumerate() {
        let last = gap(layer.end - 1);
        let before = idx.checked_sub(1).and_then(|it| layers.get(it));
        let before = before.filter(|it| it.end == layer.start);
        let end = if layers.get(idx + 1).is_some_and(|it| it.start == layer.end) {
            last.end
        } else {
            let model = match before {
                Some(before) => gap(before.end - 1),
                None if layer.len() > 1 => gap(layer.start),
                None => 0..0,
            };
            let begin = last.start..(last.start + model.len()).min(last.end);
            let is_same = classes(begin.clone()).eq(classes(model));
            if is_same { begin.end } else { last.start }
        };
        found.push(products[layer.start]..end);
    }
    found
}
