//! The loop nest of a kernel: panels of up to 32 columns times up to 6 rows, whole K.
//!
//! ```text
//! for panel:
//!     for strip in panel:                      # as many columns as the registers hold
//!         for group in K:
//!             for block of 32 k in group:
//!                 for chunk of 4 k, row, register: sum += codes . activations
//!             y += (weight scale * activation scale) * sum   # f32, groups in ascending order
//!         epilogue, store
//! ```
//!
//! Where an instruction set has a few rows at a time only, all strips of a panel are done for some
//! rows and then for the others.
//!
//! Whatever the instruction set, a row's result is the same to the bit: sums are exact, and the
//! additions in f32 follow the order of the groups alone.

use crate::CodegenError;
use crate::code::{Code, Emitted, Vector};
use crate::isa::{Instructions, Sum};
use crate::isas::instructions;
use crate::operands::Operands;
use crate::unpack::{self, Form, Join};
use inkwell::values::{BasicValueEnum, FunctionValue, IntValue, PointerValue};
use qcc_kernels::{KernelGroup, KernelSpec};
use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale};

/// Blocks of a group that stand one after another; more are a loop.
const UNROLLED_BLOCKS: u64 = 2;

/// Bytes of a zero point, which is an f16.
pub(crate) const ZERO_SIZE: u64 = 2;

/// A kernel in the making.
pub(crate) struct Nest<'a, 'c> {
    pub code: &'a Code<'c>,
    pub function: FunctionValue<'c>,
    pub isa: &'static dyn Instructions,
    pub spec: &'a KernelSpec,
    form: Form,
    /// Registers of columns that are worked on at a time.
    pub units: u32,
    /// How often that is until a panel is done.
    strips: u32,
    sizes: Sizes,
}

/// Bytes of the parts of a panel.
struct Sizes {
    /// One vector, of all tiles.
    vector: u64,
    /// A block of 32 k.
    block: u64,
    /// Scales of a group.
    scales: u64,
    /// Zero points of a group, which follow.
    zeros: u64,
}

impl Sizes {
    fn of(spec: &KernelSpec) -> Emitted<Self> {
        // What is asked of the layout depends on neither shape nor group.
        let layout = PanelLayout::new(spec.bits, 32, 32, 32, spec.scale, spec.asymmetric);
        let layout = layout.map_err(|error| CodegenError::Internal(error.to_string()))?;
        let tiles = usize::from(spec.tiles);
        let block = layout.block_bytes(tiles) as u64;
        Ok(Sizes {
            vector: block / u64::from(spec.bits.bits()),
            block,
            scales: layout.scale_bytes(tiles) as u64,
            zeros: layout.zero_bytes(tiles) as u64,
        })
    }
}

/// Where a group begins.
#[derive(Clone, Copy)]
struct Place<'c> {
    weights: PointerValue<'c>,
    /// Bytes from the start of a row of activations.
    act: IntValue<'c>,
    group: IntValue<'c>,
}

/// What is left of a group when its codes are done.
struct Group<'c> {
    /// `i32` per column, by row, plane and register.
    totals: Vec<Vector<'c>>,
    scales: PointerValue<'c>,
    group: IntValue<'c>,
}

impl<'a, 'c> Nest<'a, 'c> {
    pub(crate) fn new(
        code: &'a Code<'c>,
        function: FunctionValue<'c>,
        spec: &'a KernelSpec,
    ) -> Emitted<Self> {
        let wrong = |reason: &str| CodegenError::Unsupported {
            spec: spec.to_string(),
            reason: reason.into(),
        };
        if !(1..=KernelSpec::MOST_ROWS).contains(&spec.rows) {
            return Err(wrong("1 to 6 rows are possible"));
        }
        if !(1..=2).contains(&spec.tiles) {
            return Err(wrong("a panel has 1 or 2 tiles"));
        }
        if spec.group == KernelGroup::Blocks(0) {
            return Err(wrong("a group has a block at least"));
        }
        let isa = instructions(spec.isa);
        let lines = u32::from(spec.rows) * spec.planes.count();
        let form = Form::choose(isa, spec);
        let classes = form.classes(spec.bits).len() as u32;
        let all = u32::from(spec.tiles) * 16 / isa.lanes();
        // Sums, results, codes of a chunk; activations and masks serve all columns.
        let sums = lines * classes * isa.sum_registers(spec.bits);
        let straight = matches!(spec.group, KernelGroup::Half | KernelGroup::Blocks(1));
        // Where registers are few, results wait in memory while a loop goes over a group, or while
        // codes are added that activations are made ready for.
        let waits = !straight || isa.most_lines(spec.bits).is_some();
        let results = if waits && isa.registers() <= 16 { 0 } else { u32::from(spec.rows) };
        // Two of the vectors of 3 bits, and what is made of them, serve both groups of 16 of a block.
        let held = 3 * u32::from(spec.bits == PanelBits::B3 && spec.group == KernelGroup::Half);
        let of_unit = sums + results + isa.code_registers(spec.bits) + held;
        let shared = isa.activation_registers(lines, spec.bits) + 1;
        let fits = |units: u32| units * of_unit + shared <= isa.registers();
        let mut units = all;
        while units > 1 && !fits(units) {
            units /= 2;
        }
        Ok(Nest {
            code,
            function,
            isa,
            spec,
            form,
            units,
            strips: all / units,
            sizes: Sizes::of(spec)?,
        })
    }

    /// The whole body of the kernel.
    pub(crate) fn emit(&self) -> Emitted<()> {
        let code = self.code;
        let operands = Operands::load(self)?;
        let planes = self.spec.planes.count();
        let rows = usize::from(self.spec.rows);
        let most = self.isa.most_lines(self.spec.bits).map_or(rows, |it| (it / planes) as usize);
        let parts = rows.div_ceil(most.max(1));
        code.repeat(self.function, operands.panels, &[], |panel, _| {
            let operands = operands.panel(self, panel)?;
            for part in 0..parts {
                let range = part * rows / parts..(part + 1) * rows / parts;
                let spec = KernelSpec { rows: range.len() as u8, ..*self.spec };
                let nest = Nest::new(code, self.function, &spec)?;
                nest.panel(&operands.rows(range, planes as usize))?;
            }
            Ok(Vec::new())
        })?;
        code.builder.build_return(None)?;
        Ok(())
    }

    /// Strip by strip.
    fn panel(&self, operands: &Operands<'c>) -> Emitted<()> {
        if self.strips == 1 {
            return self.strip(operands);
        }
        let strips = self.code.index(self.strips.into());
        self.code.repeat(self.function, strips, &[], |strip, _| {
            self.strip(&operands.strip(self, strip)?)?;
            Ok(Vec::new())
        })?;
        Ok(())
    }

    fn strip(&self, operands: &Operands<'c>) -> Emitted<()> {
        let code = self.code;
        let zero = code.floats(self.isa.lanes()).const_zero();
        let mut carried: Vec<BasicValueEnum<'c>> =
            vec![zero.into(); (u32::from(self.spec.rows) * self.units) as usize];
        let n = carried.len();
        carried.extend::<[BasicValueEnum<'c>; 2]>([operands.weights.into(), code.index(0).into()]);
        // A round is a group, or the two groups of 16 of a block.
        let halves = u64::from(self.spec.group == KernelGroup::Half);
        let rounds =
            code.builder.build_right_shift(operands.groups, code.index(halves), false, "")?;
        let done = code.repeat(self.function, rounds, &carried, |group, now| {
            let mut results: Vec<Vector<'c>> =
                now[..n].iter().map(|v| v.into_vector_value()).collect();
            let place = Place {
                weights: now[n].into_pointer_value(),
                act: now[n + 1].into_int_value(),
                group,
            };
            let (groups, next) = self.group(operands, place)?;
            for group in &groups {
                self.fold(operands, &mut results, group)?;
            }
            let mut out: Vec<BasicValueEnum<'c>> = results.into_iter().map(Into::into).collect();
            out.extend::<[BasicValueEnum<'c>; 2]>([next.weights.into(), next.act.into()]);
            Ok(out)
        })?;
        let results: Vec<Vector<'c>> = done[..n].iter().map(|v| v.into_vector_value()).collect();
        self.finish(operands, &results)
    }

    /// Sums of the group at `place` (of two groups, if they are half a block), and where the next
    /// one begins.
    fn group(
        &self,
        operands: &Operands<'c>,
        place: Place<'c>,
    ) -> Emitted<(Vec<Group<'c>>, Place<'c>)> {
        let code = self.code;
        let group = place.group;
        if self.spec.group == KernelGroup::Half {
            return self.halves(operands, place);
        }
        let sums = self.start(operands, group)?;
        let (sums, end) = match self.spec.group {
            KernelGroup::Blocks(n) if u64::from(n) <= UNROLLED_BLOCKS => {
                let (mut sums, mut place) = (sums, place);
                for _ in 0..n {
                    self.block(operands, place, &mut sums, self.chunk_order())?;
                    place = self.after_block(place)?;
                }
                (sums, place)
            }
            KernelGroup::Blocks(n) => {
                self.blocks(operands, place, &sums, code.index(u64::from(n)))?
            }
            _ => self.blocks(operands, place, &sums, operands.group_blocks)?,
        };
        let done = Group { totals: self.totals(&sums)?, scales: end.weights, group };
        let next = Place { weights: code.at(end.weights, self.scale_bytes())?, ..end };
        Ok((vec![done], next))
    }

    /// A counted loop over the blocks of a group.
    fn blocks(
        &self,
        operands: &Operands<'c>,
        place: Place<'c>,
        sums: &[Sum<'c>],
        count: IntValue<'c>,
    ) -> Emitted<(Vec<Sum<'c>>, Place<'c>)> {
        let mut carried: Vec<BasicValueEnum<'c>> = vec![place.weights.into(), place.act.into()];
        carried
            .extend(sums.iter().flat_map(|sum| &sum.registers).map(|&v| BasicValueEnum::from(v)));
        let shape: Vec<usize> = sums.iter().map(|sum| sum.registers.len()).collect();
        let gather = |values: &[BasicValueEnum<'c>]| {
            let mut registers = values[2..].iter().map(|v| v.into_vector_value());
            let sums = shape
                .iter()
                .map(|&n| Sum { registers: registers.by_ref().take(n).collect(), pending: None });
            let sums: Vec<Sum<'c>> = sums.collect();
            let place = Place {
                weights: values[0].into_pointer_value(),
                act: values[1].into_int_value(),
                group: place.group,
            };
            (sums, place)
        };
        let done = self.code.repeat(self.function, count, &carried, |_, now| {
            let (mut sums, place) = gather(now);
            self.block(operands, place, &mut sums, self.chunk_order())?;
            let place = self.after_block(place)?;
            let mut out: Vec<BasicValueEnum<'c>> = vec![place.weights.into(), place.act.into()];
            out.extend(sums.iter().flat_map(|s| &s.registers).map(|&v| BasicValueEnum::from(v)));
            Ok(out)
        })?;
        Ok(gather(&done))
    }

    /// Two groups of 16 in one block: the first has chunks 0 to 3. Their scales follow the block.
    fn halves(
        &self,
        operands: &Operands<'c>,
        place: Place<'c>,
    ) -> Emitted<(Vec<Group<'c>>, Place<'c>)> {
        let code = self.code;
        let first = code.builder.build_int_add(place.group, place.group, "")?;
        let mut scales = self.after_block(place)?.weights;
        let mut groups = Vec::new();
        for half in 0..2 {
            let group = code.builder.build_int_add(first, code.index(half), "")?;
            let mut sums = self.start(operands, group)?;
            let chunks = if half == 0 { [0, 1, 2, 3] } else { [4, 5, 6, 7] };
            self.block(operands, place, &mut sums, &chunks)?;
            groups.push(Group { totals: self.totals(&sums)?, scales, group });
            scales = code.at(scales, self.scale_bytes())?;
        }
        Ok((groups, Place { weights: scales, ..self.after_block(place)? }))
    }

    /// Sums before the first block: what the zero point takes off.
    fn start(&self, operands: &Operands<'c>, group: IntValue<'c>) -> Emitted<Vec<Sum<'c>>> {
        let classes = self.form.classes(self.spec.bits).len();
        let mut sums = Vec::new();
        let at = self.code.builder.build_left_shift(group, self.code.index(2), "")?;
        for line in 0..self.lines() {
            let start = if self.spec.asymmetric || self.form == Form::Centered {
                None
            } else {
                let at = self.code.offset(operands.init[line], at)?;
                Some(self.code.load_same_int(self.isa.lanes(), at)?)
            };
            for _ in 0..self.units {
                for class in 0..classes {
                    let start = if class == 0 { start } else { None };
                    sums.push(self.isa.start(self.code, start)?);
                }
            }
        }
        Ok(sums)
    }

    /// The order in which chunks of a block are added, so that vectors are done with early.
    fn chunk_order(&self) -> &'static [u32] {
        match self.spec.bits {
            // Chunk 6 is in vectors 0 and 2, chunk 7 in vectors 1 and 2. The order of the vectors
            // is faster, while there are registers for it.
            PanelBits::B3 if self.lines() >= 6 => &[0, 1, 4, 5, 6, 2, 3, 7],
            _ => &[0, 1, 2, 3, 4, 5, 6, 7],
        }
    }

    /// Chunks of the block at `place` into the sums.
    fn block(
        &self,
        operands: &Operands<'c>,
        place: Place<'c>,
        sums: &mut [Sum<'c>],
        chunks: &[u32],
    ) -> Emitted<()> {
        let (code, bits) = (self.code, self.spec.bits);
        let lanes = self.isa.lanes();
        let units = self.units as usize;
        let classes = self.form.classes(bits).len();
        // A vector is loaded where its first chunk is taken out, so that few are held at a time.
        let mut vectors = vec![[None; 8]; units];
        let mut lines = Vec::new();
        for &row in &operands.acts {
            lines.push(code.offset(row, place.act)?);
        }
        for &chunk in chunks {
            let mut codes = Vec::with_capacity(units);
            for (unit, vectors) in (0..).zip(&mut vectors) {
                let mut vector = |j: usize| {
                    if let Some(vector) = vectors[j] {
                        return Ok(vector);
                    }
                    let at = j as u64 * self.sizes.vector + unit * u64::from(4 * lanes);
                    let at = code.at(place.weights, at)?;
                    Ok(*vectors[j].insert(code.load_ints(lanes, at, 4 * lanes)?))
                };
                codes.push(unpack::chunk(code, self.isa, bits, self.form, &mut vector, chunk)?);
            }
            for (line, &at) in lines.iter().enumerate() {
                let activations = self.isa.activations(code, at, chunk)?;
                for (unit, codes) in codes.iter().enumerate() {
                    for (class, codes) in codes {
                        let sum = &mut sums[(line * units + unit) * classes + class];
                        self.isa.dot(code, sum, *codes, &activations, bits)?;
                    }
                }
            }
        }
        sums.iter_mut().try_for_each(|sum| self.isa.end_block(code, sum))
    }

    fn after_block(&self, place: Place<'c>) -> Emitted<Place<'c>> {
        Ok(Place {
            weights: self.code.at(place.weights, self.sizes.block)?,
            act: self.code.builder.build_int_add(place.act, self.code.index(32), "")?,
            group: place.group,
        })
    }

    /// Classes joined.
    fn totals(&self, sums: &[Sum<'c>]) -> Emitted<Vec<Vector<'c>>> {
        let code = self.code;
        let classes = self.form.classes(self.spec.bits);
        let mut totals = Vec::new();
        for sums in sums.chunks(classes.len()) {
            let mut total: Option<Vector<'c>> = None;
            for (sum, join) in sums.iter().zip(classes) {
                let part = self.isa.total(code, sum)?;
                total = Some(match (total, join) {
                    (None, _) => part,
                    (Some(before), Join::Shift(by)) => {
                        code.add(before, code.down_signed(part, *by)?)?
                    }
                    (Some(before), Join::Subtract) => code.sub(before, part)?,
                });
            }
            totals.extend(total);
        }
        Ok(totals)
    }

    /// `y += (weight scale * activation scale) * total`, and what the zero point takes off where
    /// it is not in the sum already.
    fn fold(
        &self,
        operands: &Operands<'c>,
        results: &mut [Vector<'c>],
        group: &Group<'c>,
    ) -> Emitted<()> {
        let code = self.code;
        let lanes = self.isa.lanes();
        let units = self.units as usize;
        let planes = self.spec.planes.count() as usize;
        let scales = code.offset(group.scales, operands.scale_skip)?;
        let mut weight_scales = Vec::new();
        for unit in 0..u64::from(self.units) {
            let at = code.at(scales, unit * u64::from(lanes) * self.scale_size())?;
            weight_scales.push(self.isa.scales(code, self.spec.scale, at)?);
        }
        let mut weight_zeros = Vec::new();
        if self.spec.asymmetric {
            let zeros = code.at(group.scales, self.sizes.scales)?;
            let zeros = code.offset(zeros, operands.zero_skip)?;
            for (unit, scale) in (0..).zip(&weight_scales) {
                let at = code.at(zeros, unit * u64::from(lanes) * ZERO_SIZE)?;
                let zeros = self.isa.scales(code, PanelScale::F16, at)?;
                weight_zeros.push(code.fneg(code.fmul(*scale, zeros)?)?);
            }
        }
        let offset = code.builder.build_left_shift(group.group, code.index(2), "")?;
        for row in 0..usize::from(self.spec.rows) {
            let at = code.offset(operands.act_scales[row], offset)?;
            let act_scale = code.load_same_float(lanes, at)?;
            let act_sum = match operands.act_sums.get(row) {
                Some(&sums) => Some(code.load_same_float(lanes, code.offset(sums, offset)?)?),
                None => None,
            };
            for unit in 0..units {
                let mut total: Option<Vector<'c>> = None;
                for plane in 0..planes {
                    let part = group.totals[(row * planes + plane) * units + unit];
                    let part = code.to_float(part)?;
                    total = Some(match total {
                        None => part,
                        Some(above) => code.fma(above, code.same_f32(lanes, 128.0), part)?,
                    });
                }
                let result = &mut results[row * units + unit];
                if let Some(total) = total {
                    let scale = code.fmul(weight_scales[unit], act_scale)?;
                    *result = code.fma(total, scale, *result)?;
                }
                if let (Some(act_sum), Some(&zero)) = (act_sum, weight_zeros.get(unit)) {
                    *result = code.fma(zero, act_sum, *result)?;
                }
            }
        }
        Ok(())
    }

    /// Rows times planes.
    pub(crate) fn lines(&self) -> usize {
        usize::from(self.spec.rows) * self.spec.planes.count() as usize
    }

    /// Bytes of scales and zero points of a group.
    fn scale_bytes(&self) -> u64 {
        self.sizes.scales + self.sizes.zeros
    }

    /// Bytes of a scale.
    pub(crate) fn scale_size(&self) -> u64 {
        self.spec.scale.bytes() as u64
    }
}
