//! Protobuf's wire format: varints, length-delimited fields.

use bytes::BufMut;

use super::Malformed;

type Result<T> = std::result::Result<T, Malformed>;

/// Reads fields from a message.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// How a field is laid out on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Varint,
    Fixed64,
    Length,
    Fixed32,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0 }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    /// The next field's tag, or `None` at the end.
    pub(crate) fn key(&mut self) -> Result<Option<(u32, Wire)>> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Length,
            5 => Wire::Fixed32,
            // Groups are not used by Kubernetes; refusing them also bounds recursion.
            other => return Err(Malformed::WireType(u8::try_from(other).unwrap_or(7))),
        };
        match u32::try_from(key >> 3).map_err(|_| Malformed::Overflow)? {
            0 => Err(Malformed::Value(format!("proto: illegal tag 0 (wire type {})", key & 7))),
            tag => Ok(Some((tag, wire))),
        }
    }

    pub(crate) fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *self.bytes.get(self.at).ok_or(Malformed::End)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Overflow)
    }

    /// A varint as the two's complement integer it stands for.
    pub(crate) fn int(&mut self, wire: Wire) -> Result<i64> {
        match wire {
            Wire::Varint => Ok(self.varint()?.cast_signed()),
            _ => Err(wrong(wire)),
        }
    }

    pub(crate) fn double(&mut self, wire: Wire) -> Result<f64> {
        if wire != Wire::Fixed64 {
            return Err(wrong(wire));
        }
        let bytes = self.take(8)?;
        let mut array = [0; 8];
        array.copy_from_slice(bytes);
        Ok(f64::from_le_bytes(array))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).ok_or(Malformed::Overflow)?;
        let bytes = self.bytes.get(self.at..end).ok_or(Malformed::End)?;
        self.at = end;
        Ok(bytes)
    }

    pub(crate) fn bytes(&mut self, wire: Wire) -> Result<&'a [u8]> {
        if wire != Wire::Length {
            return Err(wrong(wire));
        }
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Overflow)?;
        self.take(length)
    }

    pub(crate) fn text(&mut self, wire: Wire) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(wire)?).map_err(|e| Malformed::Value(e.to_string()))
    }

    pub(crate) fn skip(&mut self, wire: Wire) -> Result<()> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.take(8).map(drop),
            Wire::Fixed32 => self.take(4).map(drop),
            Wire::Length => self.bytes(wire).map(drop),
        }
    }
}

fn wrong(wire: Wire) -> Malformed {
    Malformed::WireType(match wire {
        Wire::Varint => 0,
        Wire::Fixed64 => 1,
        Wire::Length => 2,
        Wire::Fixed32 => 5,
    })
}

/// Writes a number, seven bits a byte, the lowest first.
pub fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.put_u8(value.to_le_bytes()[0]);
}

/// How many bytes [`put_varint`] writes.
pub const fn varint_length(value: u64) -> usize {
    // Zero takes a byte too.
    let bits = u64::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Writes fields of a message.
#[derive(Debug)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// Where a nested message began: after its one reserved length byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start(usize);

impl Writer {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Writer { bytes: Vec::with_capacity(capacity) }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn varint(&mut self, value: u64) {
        put_varint(&mut self.bytes, value);
    }

    fn key(&mut self, tag: u32, wire: u64) {
        self.varint(u64::from(tag) << 3 | wire);
    }

    pub(crate) fn int(&mut self, tag: u32, value: i64) {
        self.key(tag, 0);
        self.varint(value.cast_unsigned());
    }

    pub(crate) fn double(&mut self, tag: u32, value: f64) {
        self.key(tag, 1);
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn bytes(&mut self, tag: u32, value: &[u8]) {
        self.key(tag, 2);
        self.varint(value.len() as u64);
        self.raw(value);
    }

    pub(crate) fn text(&mut self, tag: u32, value: &str) {
        self.bytes(tag, value.as_bytes());
    }

    /// Opens a nested message; [`Writer::end`] closes it.
    pub(crate) fn begin(&mut self, tag: u32) -> Start {
        self.key(tag, 2);
        self.bytes.push(0);
        Start(self.bytes.len())
    }

    /// Closes a nested message: its length goes before it, which moves long ones by a byte or two.
    pub(crate) fn end(&mut self, start: Start) {
        let length = self.bytes.len() - start.0;
        if length < 0x80 {
            self.bytes[start.0 - 1] = length.to_le_bytes()[0];
            return;
        }
        let mut prefix = Writer { bytes: Vec::with_capacity(4) };
        prefix.varint(length as u64);
        self.bytes.splice(start.0 - 1..start.0, prefix.bytes);
    }
}
