//! Operands for a kernel, and the call.

use crate::oracle::PANEL;
use proptest::prelude::*;
use qcc_kernels::{
    Epilogue, Isa, Kernel, KernelArgs, KernelGroup, KernelSource, KernelSpec, Planes, Scalar,
};
use qcc_quant::panel::{PanelBits, PanelLayout, PanelScale};

/// What proptest chooses.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub spec: KernelSpec,
    /// Steps along K: groups, or pairs of groups of 16.
    pub steps: usize,
    /// Blocks of a group, where the spec does not say.
    pub blocks: usize,
    pub panels: usize,
    /// Columns of the last panel.
    pub columns: usize,
    pub extreme: bool,
    pub seed: u64,
}

/// Any kernel of an instruction set, and operands for it.
pub(crate) fn shapes(isa: Isa) -> impl Strategy<Value = Shape> {
    let groups = KernelGroup::FIXED.map(KernelGroup::Blocks);
    let groups = [&groups[..], &[KernelGroup::Half, KernelGroup::Counted]].concat();
    let spec = (
        prop::sample::select(PanelBits::ALL),
        prop::sample::select(groups),
        (1..=KernelSpec::MOST_ROWS, 1_u8..=2, any::<bool>()),
        prop::sample::select(PanelScale::ALL),
        prop::sample::select(Planes::ALL),
        prop::sample::select(Epilogue::ALL),
    );
    let sizes = (1_usize..4, 1_usize..10, 1_usize..4, 1_usize..=16, any::<bool>());
    (spec, sizes, any::<bool>(), any::<u64>()).prop_map(move |(spec, sizes, extreme, seed)| {
        let (bits, group, (rows, tiles, asymmetric), scale, planes, epilogue) = spec;
        let spec =
            KernelSpec { bits, group, rows, tiles, scale, asymmetric, planes, epilogue, isa };
        let (steps, blocks, panels, columns, full) = sizes;
        let columns = if full { 16 } else { columns } + 16 * usize::from(tiles - 1);
        Shape { spec, steps, blocks, panels, columns, extreme, seed }
    })
}

/// Operands, in the order and with the strides that the kernel gets.
pub(crate) struct Case {
    pub spec: KernelSpec,
    pub panels: usize,
    pub columns: usize,
    pub groups: usize,
    /// Elements from a row of scales, sums and starts to the next.
    pub group_row: usize,
    /// Codes of a group.
    pub group: usize,
    pub blocks: usize,
    pub panel_stride: usize,
    pub step_bytes: usize,
    pub code_bytes: usize,
    pub scale_bytes: usize,
    pub zero_bytes: usize,
    /// Codes, scales, zero points; whole lines of 64 bytes.
    pub weights: Vec<u8>,
    pub acts: Vec<i8>,
    pub act_plane: usize,
    pub act_scales: Vec<f32>,
    pub act_init: Vec<i32>,
    pub act_sums: Vec<f32>,
    pub y: Vec<f32>,
    pub y_row: usize,
    pub bias: Vec<f32>,
    pub extra: Vec<f32>,
}

/// What `y` holds before, also where it must not be written.
const BEFORE: f32 = -7.75;

impl Case {
    pub(crate) fn new(shape: &Shape) -> Self {
        let spec = shape.spec;
        let mut random = Random(shape.seed);
        let tiles = usize::from(spec.tiles);
        let group = match spec.group {
            KernelGroup::Half => 16,
            KernelGroup::Blocks(n) => 32 * usize::from(n),
            KernelGroup::Counted => 32 * shape.blocks,
        };
        let per_step = if group == 16 { 2 } else { 1 };
        let groups = shape.steps * per_step;
        let layout = PanelLayout::new(
            spec.bits,
            group,
            groups * group,
            16 * tiles,
            spec.scale,
            spec.asymmetric,
        )
        .expect("a layout");
        let step_bytes = layout.step_bytes(tiles);
        let panel_stride = shape.steps * step_bytes + 64 * (shape.seed as usize % 3);
        let (rows, planes) = (usize::from(spec.rows), spec.planes.count() as usize);
        let width = PANEL * shape.panels;
        let act_plane = groups * group + 64;
        let y_row = width + 5;
        let mut case = Case {
            spec,
            panels: shape.panels,
            columns: shape.columns,
            groups,
            group_row: planes * groups,
            group,
            blocks: group.div_ceil(32),
            panel_stride,
            step_bytes,
            code_bytes: layout.code_bytes(tiles),
            scale_bytes: layout.scale_bytes(tiles),
            zero_bytes: layout.zero_bytes(tiles),
            weights: Vec::new(),
            acts: random.acts(rows * planes * act_plane, shape.extreme),
            act_plane,
            act_scales: random.floats(rows * planes * groups),
            act_init: Vec::new(),
            act_sums: vec![0.0; rows * planes * groups],
            y: vec![BEFORE; rows * y_row],
            y_row,
            bias: random.floats(width),
            extra: random.floats(rows * y_row),
        };
        case.weights = case.random_weights(&mut random, shape.extreme);
        case.sums();
        case
    }

    fn random_weights(&self, random: &mut Random, extreme: bool) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..self.panels * self.panel_stride)
            .map(|_| if extreme { [0, 0xff][random.below(2)] } else { random.below(256) as u8 })
            .collect();
        let per_step = if self.group == 16 { 2 } else { 1 };
        for panel in 0..self.panels {
            for step in 0..self.groups / per_step {
                for part in 0..per_step {
                    let at = panel * self.panel_stride
                        + step * self.step_bytes
                        + self.code_bytes
                        + part * (self.scale_bytes + self.zero_bytes);
                    let size = self.spec.scale.bytes();
                    for at in (at..at + self.scale_bytes).step_by(size) {
                        let scale = self.scale(random.float());
                        bytes[at..at + size].copy_from_slice(&scale);
                    }
                    let zeros = at + self.scale_bytes;
                    for at in (zeros..zeros + self.zero_bytes).step_by(2) {
                        let zero = random.below(1 << self.spec.bits.bits()) as f32;
                        bytes[at..at + 2].copy_from_slice(&half::f16::from_f32(zero).to_le_bytes());
                    }
                }
            }
        }
        bytes
    }

    /// The bytes of a scale.
    fn scale(&self, value: f32) -> Vec<u8> {
        match self.spec.scale {
            PanelScale::F32 => value.to_le_bytes().to_vec(),
            PanelScale::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            PanelScale::Bf16 => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        }
    }

    /// What the caller of a kernel adds up over activations.
    fn sums(&mut self) {
        let planes = self.spec.planes.count() as usize;
        let middle = i32::from(self.spec.bits.middle());
        for row in 0..usize::from(self.spec.rows) {
            for group in 0..self.groups {
                let mut whole = 0_i64;
                for plane in 0..planes {
                    let at = (row * planes + plane) * self.act_plane + group * self.group;
                    let sum: i32 =
                        self.acts[at..at + self.group].iter().map(|&a| i32::from(a)).sum();
                    whole = whole * 128 + i64::from(sum);
                }
                let at = row * self.group_row + group;
                self.act_sums[at] = self.act_scales[at] * whole as f32;
            }
            for plane in 0..planes {
                for group in 0..self.groups {
                    let at = (row * planes + plane) * self.act_plane + group * self.group;
                    let sum: i32 =
                        self.acts[at..at + self.group].iter().map(|&a| i32::from(a)).sum();
                    self.act_init.push(-middle * sum);
                }
            }
        }
    }

    /// The numbers and operands for the C program that runs kernel number `which`.
    pub(crate) fn write(&self, which: usize, out: &mut Vec<u8>) {
        let planes = self.spec.planes.count() as usize;
        let numbers = [
            which,
            self.panels,
            self.panel_stride,
            self.groups,
            self.blocks,
            planes * self.act_plane,
            self.act_plane,
            self.group_row,
            self.groups,
            self.y_row,
            self.columns,
            self.y_row,
        ];
        for number in numbers {
            out.extend((number as u64).to_le_bytes());
        }
        let floats = |all: &[f32]| all.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        for operand in [
            self.weights.clone(),
            self.acts.iter().map(|a| a.cast_unsigned()).collect(),
            floats(&self.act_scales),
            self.act_init.iter().flat_map(|x| x.to_le_bytes()).collect(),
            floats(&self.act_sums),
            floats(&self.y),
            floats(&self.bias),
            floats(&self.extra),
        ] {
            out.extend((operand.len() as u64).to_le_bytes());
            out.extend(operand);
        }
    }

    /// The results of the definition in `qcc-kernels`.
    pub(crate) fn run_definition(mut self) -> Vec<f32> {
        self.spec.isa = Isa::Scalar;
        self.run(Scalar.kernel(&self.spec).expect("the definition"))
    }

    /// The results of a kernel.
    pub(crate) fn run(&self, kernel: Kernel) -> Vec<f32> {
        #[repr(align(64))]
        #[derive(Clone, Copy)]
        struct Line(#[expect(dead_code, reason = "read by kernels")] [u8; 64]);
        let whole = self.weights.as_chunks::<64>().0;
        let weights: Vec<Line> = whole.iter().map(|line| Line(*line)).collect();
        let lines = self.acts.chunks(64).map(|line| {
            let mut bytes = [0; 64];
            line.iter().zip(&mut bytes).for_each(|(&a, b)| *b = a.cast_unsigned());
            Line(bytes)
        });
        let acts: Vec<Line> = lines.collect();
        let mut y = self.y.clone();
        let planes = self.spec.planes.count() as usize;
        let args = KernelArgs {
            weights: weights.as_ptr().cast(),
            panels: self.panels as u64,
            panel_stride: self.panel_stride as u64,
            groups: self.groups as u64,
            group_blocks: self.blocks as u64,
            acts: acts.as_ptr().cast(),
            act_row: (planes * self.act_plane) as u64,
            act_plane: self.act_plane as u64,
            act_scales: self.act_scales.as_ptr(),
            act_init: self.act_init.as_ptr(),
            act_sums: self.act_sums.as_ptr(),
            act_group_row: self.group_row as u64,
            act_group_plane: self.groups as u64,
            y: y.as_mut_ptr(),
            y_row: self.y_row as u64,
            columns: self.columns as u64,
            bias: self.bias.as_ptr(),
            extra: self.extra.as_ptr(),
            extra_row: self.y_row as u64,
            spec: &raw const self.spec,
        };
        call(kernel, &args);
        y
    }
}

#[allow(unsafe_code)]
fn call(kernel: Kernel, args: &KernelArgs) {
    // SAFETY: `Case` made all operands of the sizes that the spec of the kernel asks for.
    unsafe { kernel(args) }
}

/// A sequence that looks random.
pub(crate) struct Random(pub u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        // The multiplier and increment of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn float(&mut self) -> f32 {
        (self.below(4001) as f32 - 2000.0) / 1024.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn acts(&mut self, n: usize, extreme: bool) -> Vec<i8> {
        let one = |random: &mut Self| {
            if extreme {
                [-127, 127][random.below(2)]
            } else {
                (random.below(255) as i32 - 127) as i8
            }
        };
        (0..n).map(|_| one(self)).collect()
    }
}
