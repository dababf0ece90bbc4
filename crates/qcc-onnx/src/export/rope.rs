//! Bytes to be written: pieces of the source, of tensors, and newly encoded ones.

use std::io::{self, Write};
use std::ops::Range;

use onnx_protobuf::wire::{Wire, varint_len, write_tag, write_varint};
use prost::bytes::Bytes;

#[derive(Debug)]
enum Piece {
    /// Bytes of the source file.
    Source(Range<usize>),
    /// Bytes of a tensor.
    Tensor(Bytes),
    /// Bytes that were encoded for this.
    Own(Vec<u8>),
}

/// A message in pieces, with its length. No tensor is copied before it is written.
#[derive(Debug, Default)]
pub(super) struct Rope {
    pieces: Vec<Piece>,
    len: u64,
}

impl Rope {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn push_source(&mut self, range: Range<usize>) {
        self.len += range.len() as u64;
        if let Some(Piece::Source(last)) = self.pieces.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
        } else {
            self.pieces.push(Piece::Source(range));
        }
    }

    pub(super) fn push_own(&mut self, bytes: Vec<u8>) {
        self.len += bytes.len() as u64;
        if let Some(Piece::Own(last)) = self.pieces.last_mut() {
            last.extend_from_slice(&bytes);
        } else {
            self.pieces.push(Piece::Own(bytes));
        }
    }

    pub(super) fn push_tensor(&mut self, bytes: Bytes) {
        self.len += bytes.len() as u64;
        self.pieces.push(Piece::Tensor(bytes));
    }

    /// Appends `inner` as a field: tag, length, payload.
    pub(super) fn push_message(&mut self, number: u32, inner: Rope) {
        let mut head = Vec::with_capacity(4 + varint_len(inner.len));
        write_tag(&mut head, number, Wire::Bytes);
        write_varint(&mut head, inner.len);
        self.push_own(head);
        self.len += inner.len;
        self.pieces.extend(inner.pieces);
    }

    /// Appends an encoded message as a field.
    pub(super) fn push_encoded(&mut self, number: u32, payload: &[u8]) {
        let mut record = Vec::new();
        onnx_protobuf::wire::write_bytes(&mut record, number, payload);
        self.push_own(record);
    }

    /// Appends an integer field.
    pub(super) fn push_varint(&mut self, number: u32, value: i64) {
        let mut record = Vec::new();
        write_tag(&mut record, number, Wire::Varint);
        write_varint(&mut record, value.cast_unsigned());
        self.push_own(record);
    }

    pub(super) fn write_to(&self, source: &[u8], out: &mut impl Write) -> io::Result<()> {
        for piece in &self.pieces {
            let bytes = match piece {
                Piece::Source(range) => source.get(range.clone()).unwrap_or_default(),
                Piece::Tensor(bytes) => bytes,
                Piece::Own(bytes) => bytes,
            };
            out.write_all(bytes)?;
            qcc_tensor::release(bytes);
        }
        Ok(())
    }
}
