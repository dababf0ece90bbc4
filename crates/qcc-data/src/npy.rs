//! `.npy` files: one array behind a header that is a Python dictionary.
//!
//! Source: NEP 1 and `numpy/lib/format.py`, versions 1.0 to 3.0. Only arrays in C order of
//! little-endian numbers are read; the elements stay where they are, in the mapped file say, and
//! rows of them are taken on demand. The header is read here rather than by a crate: its grammar
//! is fixed, and it comes from a file that may be hostile.

use bytes::Bytes;
use qcc_tensor::{DType, Tensor, checked_len};

const MAGIC: &[u8] = b"\x93NUMPY";
/// Rows of the element data start at a multiple of this.
const ALIGN: usize = 64;
/// Codes of numpy, without byte order, and the element types that they are.
const TYPES: [(&str, DType); 12] = [
    ("b1", DType::Bool),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("f2", DType::F16),
    ("f4", DType::F32),
    ("f8", DType::F64),
];

/// The array in the bytes of a `.npy` file, without a copy of its elements.
///
/// # Errors
/// What is wrong with the file, in words: no such file, cut short, an element type or an order
/// that is not supported.
pub fn read(file: &Bytes) -> Result<Tensor, String> {
    let (header, start) = split(file)?;
    let Header { dtype, dims } = parse(header)?;
    let size = checked_len(&dims).and_then(|it| dtype.size_of(it));
    let size = size.ok_or_else(|| format!("shape {dims:?} overflows"))?;
    let there = file.len() - start;
    let end = start.checked_add(size).filter(|&it| it <= file.len());
    let end = end.ok_or_else(|| {
        format!("it ends early: {dtype}{dims:?} takes {size} bytes, and there are {there}")
    })?;
    Tensor::new(dtype, dims, file.slice(start..end)).map_err(|it| it.to_string())
}

/// The bytes of a `.npy` file. Types that numpy lacks (`bf16`, 8-bit floats) are stored as
/// unsigned integers of the same bits.
///
/// # Errors
/// For types of less than 8 bits, complex numbers and strings.
pub fn write(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let dtype = tensor.dtype();
    let code = TYPES.iter().find(|it| it.1 == dtype).map(|it| it.0);
    let code = match (code, dtype.bits()) {
        (Some(code), _) => code,
        (None, 16) => "u2",
        (None, 8) => "u1",
        _ => return Err(format!("arrays of {dtype} have no form in a .npy file")),
    };
    let order = if code.ends_with('1') { '|' } else { '<' };
    let mut shape: String = tensor.dims().iter().map(|it| format!("{it}, ")).collect();
    if tensor.rank() > 1 {
        shape.truncate(shape.len() - 2);
    }
    let shape = shape.trim_end();
    let mut header =
        format!("{{'descr': '{order}{code}', 'fortran_order': False, 'shape': ({shape}), }}");
    let used = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', used.next_multiple_of(ALIGN) - used));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| "too many dimensions".to_owned())?;
    Ok([MAGIC, &[1, 0], &len.to_le_bytes(), header.as_bytes(), tensor.bytes()].concat())
}

struct Header {
    dtype: DType,
    dims: Vec<usize>,
}

/// The text of the header, and where the elements start.
fn split(file: &[u8]) -> Result<(&str, usize), String> {
    const SHORT: &str = "it ends within the header";
    let rest = file.strip_prefix(MAGIC).ok_or("it is no .npy file")?;
    let (len, skip) = match rest {
        [1, _, a, b, ..] => (u32::from(u16::from_le_bytes([*a, *b])), 4),
        [2 | 3, _, a, b, c, d, ..] => (u32::from_le_bytes([*a, *b, *c, *d]), 6),
        [1..=3, ..] | [] => return Err(SHORT.into()),
        [version, ..] => return Err(format!("version {version} of the format is not known")),
    };
    let start = MAGIC.len() + skip;
    let end = usize::try_from(len).ok().and_then(|it| start.checked_add(it)).ok_or(SHORT)?;
    let text = file.get(start..end).ok_or(SHORT)?;
    Ok((std::str::from_utf8(text).map_err(|_| "its header is no text")?, end))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
fn parse(text: &str) -> Result<Header, String> {
    let (mut descr, mut fortran, mut dims) = (None, None, None);
    let mut at = Cursor(text.trim());
    at.eat("{")?;
    while !at.accept("}") {
        let key = at.string()?;
        at.eat(":")?;
        match key {
            "descr" if at.0.trim_start().starts_with('[') => {
                return Err("it holds records, not numbers".into());
            }
            "descr" => descr = Some(at.string()?),
            "fortran_order" if at.accept("True") => fortran = Some(true),
            "fortran_order" => {
                at.eat("False")?;
                fortran = Some(false);
            }
            "shape" => dims = Some(at.tuple()?),
            other => return Err(format!("its header has an unknown key '{other}'")),
        }
        if !at.accept(",") {
            at.eat("}")?;
            break;
        }
    }
    let missing = |key: &str| format!("its header has no '{key}'");
    let dtype = element_type(descr.ok_or_else(|| missing("descr"))?)?;
    let dims = dims.ok_or_else(|| missing("shape"))?;
    // Both orders are one where at most one dimension is larger than 1.
    let plain = dims.iter().filter(|&&it| it > 1).count() < 2;
    if fortran.ok_or_else(|| missing("fortran_order"))? && !plain {
        return Err("it is in Fortran order; save numpy.ascontiguousarray of it".into());
    }
    Ok(Header { dtype, dims })
}

fn element_type(descr: &str) -> Result<DType, String> {
    if let Some(code) = descr.strip_prefix('>') {
        return Err(format!("it is big-endian; save it as '<{code}'"));
    }
    let code = descr.trim_start_matches(['<', '|', '=']);
    let found = TYPES.iter().find(|it| it.0 == code).map(|it| it.1);
    found.ok_or_else(|| format!("arrays of type '{descr}' are not supported"))
}

/// What is left of a text.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn accept(&mut self, token: &str) -> bool {
        let rest = self.0.trim_start().strip_prefix(token);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn eat(&mut self, token: &str) -> Result<(), String> {
        if self.accept(token) { Ok(()) } else { Err(format!("its header lacks a '{token}'")) }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.accept("'") {
            '\''
        } else {
            self.eat("\"")?;
            '"'
        };
        let (text, rest) = self.0.split_once(quote).ok_or("its header has an open string")?;
        self.0 = rest;
        Ok(text)
    }

    fn tuple(&mut self) -> Result<Vec<usize>, String> {
        let mut dims = Vec::new();
        self.eat("(")?;
        while !self.accept(")") {
            let text = self.0.trim_start();
            let end = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
            let (digits, rest) = text.split_at(end);
            dims.push(digits.parse().map_err(|_| "its shape is no list of sizes")?);
            self.0 = rest.strip_prefix('L').unwrap_or(rest); // Python 2 wrote long integers
            if !self.accept(",") {
                self.eat(")")?;
                break;
            }
        }
        Ok(dims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(header: &str, elements: &[u8]) -> Bytes {
        let len = (header.len() as u16).to_le_bytes();
        Bytes::from([MAGIC, &[1, 0], &len, header.as_bytes(), elements].concat())
    }

    #[test]
    fn headers_as_numpy_writes_them() {
        let text = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 1), }     \n";
        let tensor = read(&file(text, &[1, 0, 0, 0, 255, 255, 255, 255])).unwrap();
        assert_eq!(tensor, Tensor::from_vec(vec![2, 1], vec![1i32, -1]).unwrap());
        let scalar = read(&file("{'descr':'|u1','fortran_order':False,'shape':()}", &[9])).unwrap();
        assert_eq!(scalar, Tensor::scalar(9u8));
        let vector = "{\"shape\": (1L,), \"fortran_order\": True, \"descr\": \"|b1\"}";
        assert_eq!(
            read(&file(vector, &[1])).unwrap(),
            Tensor::from_bools(vec![1], &[true]).unwrap()
        );
    }

    #[test]
    fn what_is_refused_and_why() {
        let of = |descr: &str, order: &str, shape: &str| {
            let text = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}");
            read(&file(&text, &[0; 16])).unwrap_err()
        };
        assert!(of("'<f4'", "True", "(2, 2)").contains("Fortran order"));
        assert!(of("'>f4'", "False", "(4,)").contains("big-endian"));
        assert!(of("'|O'", "False", "(4,)").contains("'|O'"));
        assert!(of("[('a', '<f4')]", "False", "(4,)").contains("records"));
        assert!(of("'<f4'", "False", "(5,)").contains("takes 20 bytes, and there are 16"));
        assert!(of("'<f4'", "False", "(4294967296, 4294967296, 4)").contains("overflows"));
        assert!(of("'<f4'", "False", "(-1,)").contains("sizes"));
        assert!(read(&Bytes::from_static(b"PK")).unwrap_err().contains("no .npy"));
    }

    proptest! {
        #[test]
        fn written_arrays_are_read_back(dims in prop::collection::vec(0usize..4, 0..5)) {
            let len = dims.iter().product::<usize>();
            let tensor = Tensor::from_vec(dims, (0..len as i64).collect()).unwrap();
            let bytes = Bytes::from(write(&tensor).unwrap());
            prop_assert_eq!((bytes.len() - len * 8) % ALIGN, 0);
            prop_assert_eq!(read(&bytes).unwrap(), tensor);
        }

        #[test]
        fn any_bytes_are_read_or_refused(text in "[{}()',:a-z0-9]{0,60}", cut in 0usize..80) {
            let whole = file(&text, &[]);
            let _ = read(&whole.slice(..cut.min(whole.len())));
            let _ = read(&whole);
        }
    }
}
