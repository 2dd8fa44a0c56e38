//! The few encodings of protocol buffers that an ONNX file needs.
//!
//! Google, *Protocol Buffers: Encoding*, <https://protobuf.dev/programming-guides/encoding/>. A message is a row of
//! fields; each starts with `number << 3 | wire type`.

/// Wire types: a variable-length integer, a length and that many bytes, four bytes.
const VARINT: u64 = 0;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// A message in the making: each call appends a field.
#[derive(Clone, Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn int(mut self, field: u64, value: i64) -> Self {
        self.tag(field, VARINT);
        // Negative numbers are the two's complement in 64 bits.
        self.varint(value as u64);
        self
    }

    pub(super) fn float(mut self, field: u64, value: f32) -> Self {
        self.tag(field, FIXED32);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(super) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.tag(field, LENGTH);
        self.varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(super) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(super) fn message(self, field: u64, value: &Self) -> Self {
        self.bytes(field, &value.0)
    }

    /// Repeated fields: `append` is called for each of `values`.
    pub(super) fn each<T>(
        self,
        values: impl IntoIterator<Item = T>,
        append: impl FnMut(Self, T) -> Self,
    ) -> Self {
        values.into_iter().fold(self, append)
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    fn tag(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_as_the_documentation_does() {
        // The documentation's own examples: 150 in field 1, "testing" in field 2, a message of the first in field 3.
        assert_eq!(Message::new().int(1, 150).finish(), [0x08, 0x96, 0x01]);
        assert_eq!(
            Message::new().text(2, "testing").finish(),
            [0x12, 0x07, 0x74, 0x65, 0x73, 0x74, 0x69, 0x6e, 0x67]
        );
        let inner = Message::new().int(1, 150);
        assert_eq!(
            Message::new().message(3, &inner).finish(),
            [0x1a, 0x03, 0x08, 0x96, 0x01]
        );
        // -2 takes ten bytes.
        assert_eq!(
            Message::new().int(1, -2).finish(),
            [
                0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01
            ]
        );
        assert_eq!(
            Message::new().float(2, 1.0).finish(),
            [0x15, 0x00, 0x00, 0x80, 0x3f]
        );
        assert_eq!(
            Message::new().each([1, 2], |m, v| m.int(8, v)).finish(),
            [0x40, 0x01, 0x40, 0x02]
        );
    }
}
