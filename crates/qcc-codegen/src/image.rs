//! Object files of kernels made ready to run, without LLVM.
//!
//! What a kernel compiles to is code and constants that the code reads by their distance from
//! it. So the file is copied to memory as it is, the distances are filled in, and the memory
//! becomes executable. Whatever else an object file may hold is left to LLVM.

use memmap2::{Mmap, MmapMut};
use object::elf::SHF_ALLOC;
use object::read::elf::ElfFile64;
use object::{
    Architecture, LittleEndian, Object, ObjectSection, ObjectSymbol, RelocationEncoding,
    RelocationKind, RelocationTarget, SectionFlags, SectionKind,
};
use qcc_kernels::Kernel;

/// Most that a section may be aligned to: the file begins at a page.
const PAGE: u64 = 4096;

/// A kernel in memory.
pub(crate) struct Image {
    map: Mmap,
    /// Where its first instruction is.
    entry: usize,
}

impl Image {
    /// The function `name` of an object file; None where it takes more than this can do.
    pub(crate) fn new(object: &[u8], name: &str) -> Option<Self> {
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        let file = ElfFile64::<LittleEndian>::parse(object).ok()?;
        if file.architecture() != Architecture::X86_64 {
            return None;
        }
        let mut bytes = MmapMut::map_anon(object.len()).ok()?;
        bytes.copy_from_slice(object);
        for section in file.sections().filter(is_loaded) {
            // What is written at run time would need memory of its own.
            let known = [SectionKind::Text, SectionKind::ReadOnlyData];
            let (start, size) = section.file_range()?;
            if !known.contains(&section.kind()) || size != section.size() {
                return None;
            }
            for (offset, relocation) in section.relocations() {
                let distance = [RelocationKind::Relative, RelocationKind::PltRelative]
                    .contains(&relocation.kind());
                let plain = relocation.size() == 32 && !relocation.has_implicit_addend();
                let encoding = relocation.encoding();
                let branch = encoding == RelocationEncoding::X86Branch;
                if !distance || !plain || !(branch || encoding == RelocationEncoding::Generic) {
                    return None;
                }
                let RelocationTarget::Symbol(symbol) = relocation.target() else { return None };
                let to = place(&file, &file.symbol_by_index(symbol).ok()?)?;
                let at = start.checked_add(offset)?;
                let to = i64::try_from(to).ok()?.checked_add(relocation.addend())?;
                let distance = i32::try_from(to.checked_sub(i64::try_from(at).ok()?)?).ok()?;
                let at = usize::try_from(at).ok()?;
                bytes.get_mut(at..at.checked_add(4)?)?.copy_from_slice(&distance.to_le_bytes());
            }
        }
        let symbol = file.symbols().find(|it| it.name() == Ok(name))?;
        let entry = usize::try_from(place(&file, &symbol)?).ok()?;
        Some(Self {
            map: bytes.make_exec().ok()?,
            entry: Some(entry).filter(|it| *it < object.len())?,
        })
    }

    /// The function; it goes when the image does.
    #[allow(unsafe_code)]
    pub(crate) fn kernel(&self) -> Kernel {
        let address = self.map.as_ptr().wrapping_add(self.entry);
        // SAFETY: within the image there is a function that `emit` made, of this signature.
        unsafe { std::mem::transmute::<*const u8, Kernel>(address) }
    }
}

/// Whether a section is part of what runs.
fn is_loaded<'d>(section: &impl ObjectSection<'d>) -> bool {
    let SectionFlags::Elf { sh_flags } = section.flags() else { return false };
    sh_flags & u64::from(SHF_ALLOC) != 0 && section.size() > 0
}

/// Where in the file a symbol is.
fn place<'d>(file: &ElfFile64<'d, LittleEndian>, symbol: &impl ObjectSymbol<'d>) -> Option<u64> {
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let (start, _) = section.file_range().filter(|_| is_loaded(&section))?;
    let aligned = section.align() <= PAGE && start.is_multiple_of(section.align().max(1));
    aligned.then(|| start.checked_add(symbol.address())).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Output, Target, emit};

    fn object(name: &str, target: &str) -> Vec<u8> {
        let target = Target::parse(target).expect("a target");
        emit(&[name.parse().expect("a spec")], &target, Output::Object).expect("an object")
    }

    /// What kernels compute from images is held by the tests of every instruction set.
    #[test]
    fn kernels_of_x86_need_no_llvm() {
        if !cfg!(target_arch = "x86_64") {
            return;
        }
        for (isa, target) in
            [("avx2", "x86-64-v3"), ("avx512", "x86-64-v4"), ("avx512vnni", "x86-64-v4+avx512vnni")]
        {
            for end in ["", "_bias", "_residual", "_silumul", "_gelu"] {
                let name = format!("qcc_mm_b3_g32_m2_t2_f16_asym_a22{end}_{isa}");
                assert!(Image::new(&object(&name, target), &name).is_some(), "{name}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_left() {
        let name = "qcc_mm_b4_g32_m1_t2_f16_a8_avx2";
        let whole = object(name, "x86-64-v3");
        assert!(Image::new(&whole, "other").is_none());
        assert!(Image::new(&[], name).is_none());
        // A function that is not part of the file.
        let scalar = "qcc_mm_b4_g32_m1_t2_f16_a8_scalar";
        assert!(Image::new(&object(scalar, "x86-64"), scalar).is_none());
        let arm = "qcc_mm_b4_g32_m1_t2_f16_a8_neon";
        assert!(Image::new(&object(arm, "aarch64"), arm).is_none());
    }

    /// Nothing of a file makes it panic or read what is not there.
    #[test]
    fn damage_does_no_harm() {
        let name = "qcc_mm_b4_g32_m1_t2_f16_a8_gelu_avx2";
        let whole = object(name, "x86-64-v3");
        for cut in (0..whole.len()).step_by(7) {
            assert!(Image::new(&whole[..cut], name).is_none() || cut > 64, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            let _ = Image::new(&bytes, name);
        }
    }
}
