//! What every MQTT packet is made of, byte by byte, for clients that must say exactly this and no other thing.

/// A packet: first byte and body; the length is put in.
#[must_use]
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    out.extend(varint(body.len()));
    out.extend_from_slice(body);
    out
}

/// A variable byte integer in its shortest form (MQTT 5, 1.5.5).
#[must_use]
pub fn varint(mut n: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(n & 0x7F).unwrap_or(0);
        n >>= 7;
        out.push(if n > 0 { low | 0x80 } else { low });
        if n == 0 {
            return out;
        }
    }
}

/// A length-prefixed string, or bytes that pretend to be one; longer than a length can say: with the longest.
pub fn text(s: impl AsRef<[u8]>) -> Vec<u8> {
    let s = s.as_ref();
    let length = u16::try_from(s.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes(), s].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_as_the_specification_has_them() {
        for (n, bytes) in [
            (0, &[0][..]),
            (127, &[0x7F]),
            (128, &[0x80, 1]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 1]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ] {
            assert_eq!(varint(n), bytes);
        }
        assert_eq!(packet(0xC0, &[]), [0xC0, 0]);
        assert_eq!(text("MQTT"), *b"\0\x04MQTT");
    }
}
