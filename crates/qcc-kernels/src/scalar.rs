//! The definition of every kernel, for any CPU.
//!
//! One row and column, with groups in ascending order and all of it in f32 but for the sums:
//!
//! ```text
//! for each group:
//!     total of a plane = start + sum of code * activation        # i32, exact
//!     t = total of plane 0;  t = t * 128 + total of each further plane
//!     y = y + t * (weight scale * activation scale)
//!     with zero points: y = y - (weight scale * zero point) * (activation scale * sum)
//! y = epilogue(y)
//! ```
//!
//! A product that is added is fused with the addition. `start` takes the zero point of a symmetric
//! weight off; with zero points it is 0.

use crate::abi::{Kernel, KernelArgs, KernelError, KernelSource};
use crate::spec::{Isa, KernelGroup, KernelSpec};
use pulp::{Arch, NullaryFnOnce};
use qcc_quant::panel::{PanelBits, PanelScale};

/// Columns of a tile, and bytes of a vector of the layout.
const TILE: usize = 16;
const VECTOR: usize = 64;

/// Most columns of a panel.
const PANEL: usize = 32;

/// Codes of a block: by chunk, then by column, four each.
type Block = [[u8; 4 * PANEL]; 8];

/// Kernels in plain Rust. They are the definition of all others, which compute the same bits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl KernelSource for Scalar {
    fn kernel(&self, spec: &KernelSpec) -> Result<Kernel, KernelError> {
        let fits =
            (1..=KernelSpec::MOST_ROWS).contains(&spec.rows) && (1..=2).contains(&spec.tiles);
        if spec.isa == Isa::Scalar && fits { Ok(kernel) } else { Err(KernelError::Unknown(*spec)) }
    }

    fn isa(&self) -> Isa {
        Isa::Scalar
    }
}

/// All kernels in one: the spec says which.
#[allow(unsafe_code)]
unsafe extern "C" fn kernel(args: *const KernelArgs) {
    // SAFETY: a kernel is called with arguments that hold for its spec, which is one of them.
    let (args, spec) = unsafe { (&*args, &*(*args).spec) };
    for panel in 0..args.panels as usize {
        let last = panel + 1 == args.panels as usize;
        let columns = if last { args.columns as usize } else { TILE * usize::from(spec.tiles) };
        Arch::new().dispatch(Panel { args, spec, panel, columns });
    }
}

/// One panel.
#[derive(Clone, Copy)]
struct Panel<'a> {
    args: &'a KernelArgs,
    spec: &'a KernelSpec,
    panel: usize,
    columns: usize,
}

impl NullaryFnOnce for Panel<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        match self.spec.bits {
            // The width is a constant in each of them.
            PanelBits::B2 => self.run(PanelBits::B2),
            PanelBits::B3 => self.run(PanelBits::B3),
            PanelBits::B4 => self.run(PanelBits::B4),
            PanelBits::B8 => self.run(PanelBits::B8),
        }
    }
}

/// Scales and zero points of a group, by column.
struct Group {
    scales: [f32; PANEL],
    /// `scale * zero point`.
    zeros: [f32; PANEL],
}

impl Panel<'_> {
    #[inline(always)]
    fn run(self, bits: PanelBits) {
        let (args, spec) = (self.args, self.spec);
        let half = spec.group == KernelGroup::Half;
        let (blocks, groups) = if half { (1, 2) } else { (self.group_blocks(), 1) };
        let width = TILE * usize::from(spec.tiles);
        let block_bytes = usize::from(spec.tiles) * bits.bits() as usize * VECTOR;
        let scale_bytes = (width * spec.scale.bytes()).next_multiple_of(VECTOR);
        let zero_bytes = if spec.asymmetric { (2 * width).next_multiple_of(VECTOR) } else { 0 };
        let step_bytes = blocks * block_bytes + groups * (scale_bytes + zero_bytes);

        let steps = args.groups as usize / groups;
        // At most 6 rows and 3 planes.
        let mut y = [[0f32; PANEL]; 6];
        let mut codes: Block = [[0; 4 * PANEL]; 8];
        for i in 0..steps {
            let at = self.panel * args.panel_stride as usize + i * step_bytes;
            let step = self.weights(at, step_bytes);
            let numbers = &step[blocks * block_bytes..];
            let mut totals = [[[0i32; PANEL]; 3]; 6];
            if !half {
                self.start(i, &mut totals);
            }
            for (b, block) in step[..blocks * block_bytes].chunks_exact(block_bytes).enumerate() {
                unpack(bits, block, &mut codes);
                let k = 32 * (i * blocks + b);
                if half {
                    for h in 0..2 {
                        self.start(2 * i + h, &mut totals);
                        self.add(&codes, k, 4 * h..4 * h + 4, &mut totals);
                        let numbers = &numbers[h * (scale_bytes + zero_bytes)..];
                        self.fold(2 * i + h, &self.numbers(numbers, scale_bytes), &totals, &mut y);
                    }
                } else {
                    self.add(&codes, k, 0..8, &mut totals);
                }
            }
            if !half {
                self.fold(i, &self.numbers(numbers, scale_bytes), &totals, &mut y);
            }
        }
        self.finish(&y);
    }

    fn group_blocks(&self) -> usize {
        match self.spec.group {
            KernelGroup::Blocks(blocks) => usize::from(blocks),
            KernelGroup::Half | KernelGroup::Counted => self.args.group_blocks as usize,
        }
    }

    #[inline(always)]
    fn weights(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: `KernelArgs::weights` points at all panels; `at` and `len` are of one step.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.args.weights.add(at), len)
        }
    }

    /// Four activations of a row and plane.
    #[inline(always)]
    fn activations(&self, row: usize, plane: usize, k: usize) -> [i8; 4] {
        let args = self.args;
        let at = row * args.act_row as usize + plane * args.act_plane as usize + k;
        // SAFETY: `KernelArgs::acts` points at as many activations as there are codes along K.
        #[allow(unsafe_code)]
        unsafe {
            args.acts.add(at).cast::<[i8; 4]>().read_unaligned()
        }
    }

    /// One number of a row and group.
    #[inline(always)]
    fn of_group<T>(&self, numbers: *const T, row: usize, group: usize) -> *const T {
        // Computed without a claim that it lies within the numbers.
        numbers.wrapping_add(row * self.args.act_group_row as usize + group)
    }

    /// Totals before the first code of a group.
    #[inline(always)]
    fn start(&self, group: usize, totals: &mut [[[i32; PANEL]; 3]; 6]) {
        for (row, totals) in totals[..usize::from(self.spec.rows)].iter_mut().enumerate() {
            for (plane, totals) in
                totals[..self.spec.planes.count() as usize].iter_mut().enumerate()
            {
                let start = if self.spec.asymmetric {
                    0
                } else {
                    let at = self.of_group(self.args.act_init, row, group);
                    let at = at.wrapping_add(plane * self.args.act_group_plane as usize);
                    // SAFETY: `KernelArgs::act_init` has one number per row, plane and group.
                    #[allow(unsafe_code)]
                    unsafe {
                        at.read()
                    }
                };
                *totals = [start; PANEL];
            }
        }
    }

    /// Adds chunks of a block to the totals.
    #[inline(always)]
    fn add(
        &self,
        codes: &Block,
        k: usize,
        chunks: std::ops::Range<usize>,
        totals: &mut [[[i32; PANEL]; 3]; 6],
    ) {
        for (row, totals) in totals[..usize::from(self.spec.rows)].iter_mut().enumerate() {
            for (plane, totals) in
                totals[..self.spec.planes.count() as usize].iter_mut().enumerate()
            {
                for chunk in chunks.clone() {
                    let a = self.activations(row, plane, k + 4 * chunk).map(i32::from);
                    for (total, q) in totals.iter_mut().zip(codes[chunk].chunks_exact(4)) {
                        let sum: i32 = (0..4).map(|i| i32::from(q[i]) * a[i]).sum();
                        *total = total.wrapping_add(sum);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn numbers(&self, bytes: &[u8], scale_bytes: usize) -> Group {
        let size = self.spec.scale.bytes();
        let mut group = Group { scales: [0.0; PANEL], zeros: [0.0; PANEL] };
        for c in 0..TILE * usize::from(self.spec.tiles) {
            let scale = self.spec.scale.read(&bytes[c * size..][..size]);
            group.scales[c] = scale;
            if self.spec.asymmetric {
                let zero = PanelScale::F16.read(&bytes[scale_bytes + 2 * c..][..2]);
                group.zeros[c] = scale * zero;
            }
        }
        group
    }

    /// Totals of a group to the results.
    #[inline(always)]
    fn fold(
        &self,
        group: usize,
        numbers: &Group,
        totals: &[[[i32; PANEL]; 3]; 6],
        y: &mut [[f32; PANEL]; 6],
    ) {
        let planes = self.spec.planes.count() as usize;
        for row in 0..usize::from(self.spec.rows) {
            let at = self.of_group(self.args.act_scales, row, group);
            // SAFETY: `KernelArgs::act_scales` has one number per row and group.
            #[allow(unsafe_code)]
            let scale = unsafe { at.read() };
            for (c, y) in y[row].iter_mut().enumerate() {
                let mut t = totals[row][0][c] as f32;
                for plane in &totals[row][1..planes] {
                    t = t.mul_add(128.0, plane[c] as f32);
                }
                *y = t.mul_add(numbers.scales[c] * scale, *y);
            }
            if self.spec.asymmetric {
                let at = self.of_group(self.args.act_sums, row, group);
                // SAFETY: `KernelArgs::act_sums` has one number per row and group.
                #[allow(unsafe_code)]
                let sum = unsafe { at.read() };
                for (y, zero) in y[row].iter_mut().zip(&numbers.zeros) {
                    *y = (-zero).mul_add(sum, *y);
                }
            }
        }
    }

    /// Epilogue and stores.
    #[inline(always)]
    fn finish(&self, y: &[[f32; PANEL]; 6]) {
        let (args, epilogue) = (self.args, self.spec.epilogue);
        for (row, y) in y[..usize::from(self.spec.rows)].iter().enumerate() {
            for (c, &y) in y[..self.columns].iter().enumerate() {
                let column = PANEL * self.panel + c;
                // SAFETY: `bias`, `extra` and `y` have this column and row, if the epilogue reads
                // them; nothing else writes there.
                #[allow(unsafe_code)]
                unsafe {
                    let bias = if epilogue.reads_bias() { *args.bias.add(column) } else { 0.0 };
                    let extra = if epilogue.reads_extra() {
                        *args.extra.add(row * args.extra_row as usize + column)
                    } else {
                        0.0
                    };
                    *args.y.add(row * args.y_row as usize + column) =
                        epilogue.apply(y, bias, extra);
                }
            }
        }
    }
}

/// Takes the codes of a block apart.
#[inline(always)]
fn unpack(bits: PanelBits, block: &[u8], codes: &mut Block) {
    let tiles = block.len() / (bits.bits() as usize * VECTOR);
    let width = tiles * VECTOR;
    let vector = |j: usize| &block[j * width..][..width];
    for (chunk, codes) in codes.iter_mut().enumerate() {
        let codes = &mut codes[..width];
        let field = |codes: &mut [u8], j: usize, shift: usize, mask: u8| {
            for (code, byte) in codes.iter_mut().zip(vector(j)) {
                *code = byte >> shift & mask;
            }
        };
        match (bits, chunk) {
            (PanelBits::B8, _) => codes.copy_from_slice(vector(chunk)),
            (PanelBits::B4, _) => field(codes, chunk / 2, 4 * (chunk % 2), 15),
            (PanelBits::B2, _) => field(codes, chunk / 4, 2 * (chunk % 4), 3),
            (PanelBits::B3, 0..6) => field(codes, chunk / 2, 3 * (chunk % 2), 7),
            // The two low bits are the top of vector 0 or 1, the third is in vector 2.
            (PanelBits::B3, _) => {
                let (j, high) = if chunk == 6 { (0, 7) } else { (1, 6) };
                for ((code, low), top) in codes.iter_mut().zip(vector(j)).zip(vector(2)) {
                    *code = low >> 6 | (top >> high & 1) << 2;
                }
            }
        }
    }
}
