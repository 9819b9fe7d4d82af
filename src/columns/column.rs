//! The columns of a block's body: how each kind of value becomes few bytes. Pure.
//!
//! Numbers are LEB128 varints, signed ones zigzag. Repeats are runs. A float that is a short decimal
//! (what scaled registers are) is stored as its decimal mantissa, as difference to the last one of the
//! same point; one that came from 32 bits as those; any other as its 64 bits. Every float reads back
//! with the very same bits.
//!
//! Reading never panics and never allocates more than the input justifies: every length is checked
//! against what is left.

/// Writes a body.
#[derive(Debug, Default)]
pub struct Writer {
    /// What was written.
    pub bytes: Vec<u8>,
}

impl Writer {
    /// An unsigned number.
    pub fn put(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.bytes.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.bytes.push(n as u8);
    }

    /// A signed number.
    pub fn put_signed(&mut self, n: i64) {
        self.put(((n << 1) ^ (n >> 63)).cast_unsigned());
    }

    /// Bytes with their length before them.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// A column in which neighbours are mostly equal: value and length of each run.
    pub fn put_runs(&mut self, column: impl IntoIterator<Item = u64>) {
        let mut run: Option<(u64, u64)> = None;
        for value in column {
            match &mut run {
                Some((v, n)) if *v == value => *n += 1,
                _ => {
                    if let Some((v, n)) = run.replace((value, 1)) {
                        self.put(v);
                        self.put(n);
                    }
                }
            }
        }
        if let Some((v, n)) = run {
            self.put(v);
            self.put(n);
        }
    }
}

/// Reads a body. Every method answers `None` when the bytes do not allow it.
#[derive(Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// Begins at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'b [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// How many bytes were not read yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// An unsigned number.
    pub fn get(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                return None;
            }
            n |= part << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    /// A signed number.
    pub fn get_signed(&mut self) -> Option<i64> {
        let n = self.get()?;
        Some((n >> 1).cast_signed() ^ -((n & 1).cast_signed()))
    }

    /// A number that is a length of something still to be read from these bytes.
    pub fn get_len(&mut self) -> Option<usize> {
        usize::try_from(self.get()?).ok()
    }

    /// Bytes with their length before them.
    pub fn get_bytes(&mut self) -> Option<&'b [u8]> {
        let n = self.get_len()?;
        self.take(n)
    }

    /// A column of `count` values written by [`Writer::put_runs`]. `count` is bounded by the caller.
    pub fn get_runs(&mut self, count: usize) -> Option<Vec<u64>> {
        let mut column = Vec::with_capacity(count);
        while column.len() < count {
            let (value, n) = (self.get()?, self.get_len()?);
            if n == 0 || n > count - column.len() {
                return None;
            }
            column.resize(column.len() + n, value);
        }
        Some(column)
    }
}

const POWERS: [f64; 10] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
/// Largest mantissa of the decimal form: below 2^53, so that it is exact.
const MANTISSA: f64 = 9.0e15;
const FROM_F32: u64 = 10;
const FULL: u64 = 11;

/// What is remembered of a point while its floats are written or read.
#[derive(Debug, Clone, Copy, Default)]
pub struct FloatState {
    digits: u8,
    mantissa: i64,
}

/// How one float is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Packed {
    /// `mantissa / 10^digits`
    Decimal(u8, i64),
    /// Bits of an `f32` of the same value.
    Short(u32),
    /// Bits of the `f64`.
    Full(u64),
}

impl Packed {
    /// The shortest form that reads back with the same bits. The point's last number of digits is tried first.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "the result is compared with the original bits"
    )]
    pub fn of(x: f64, state: FloatState) -> Self {
        let decimal = |digits: u8| {
            let m = (x * POWERS[usize::from(digits)]).round();
            let whole = m as i64;
            // As it will be read: an integer knows no negative zero.
            let again = whole as f64 / POWERS[usize::from(digits)];
            (m.abs() < MANTISSA && again.to_bits() == x.to_bits()).then_some(Self::Decimal(digits, whole))
        };
        if let Some(packed) = decimal(state.digits).or_else(|| (0..POWERS.len() as u8).find_map(decimal)) {
            return packed;
        }
        let short = x as f32;
        if f64::from(short).to_bits() == x.to_bits() {
            Self::Short(short.to_bits())
        } else {
            Self::Full(x.to_bits())
        }
    }

    /// The number that stands in the column of tags.
    #[must_use]
    pub fn tag(self) -> u64 {
        match self {
            Self::Decimal(digits, _) => u64::from(digits),
            Self::Short(_) => FROM_F32,
            Self::Full(_) => FULL,
        }
    }

    /// Writes it, without its tag.
    pub fn write(self, out: &mut Writer, state: &mut FloatState) {
        match self {
            Self::Decimal(digits, mantissa) => {
                let last = if state.digits == digits { state.mantissa } else { 0 };
                out.put_signed(mantissa.wrapping_sub(last));
                *state = FloatState { digits, mantissa };
            }
            Self::Short(bits) => out.bytes.extend_from_slice(&bits.to_le_bytes()),
            Self::Full(bits) => out.bytes.extend_from_slice(&bits.to_le_bytes()),
        }
    }

    /// Reads the float with this tag.
    #[expect(clippy::cast_precision_loss, reason = "a mantissa is below 2^53 unless the bytes are nonsense")]
    pub fn read(tag: u64, from: &mut Reader<'_>, state: &mut FloatState) -> Option<f64> {
        match tag {
            FROM_F32 => Some(f64::from(f32::from_le_bytes(from.array()?))),
            FULL => Some(f64::from_le_bytes(from.array()?)),
            _ => {
                let digits = u8::try_from(tag).ok()?;
                let power = POWERS.get(usize::from(digits))?;
                let last = if state.digits == digits { state.mantissa } else { 0 };
                let mantissa = last.wrapping_add(from.get_signed()?);
                *state = FloatState { digits, mantissa };
                Some(mantissa as f64 / power)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::FileFailurePersistence;

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(".proptest-regressions"))),
            ..ProptestConfig::default()
        })]

        #[test]
        fn numbers_read_back(a in any::<u64>(), b in any::<i64>(), runs in prop::collection::vec(0u64..3, 0..50)) {
            let mut out = Writer::default();
            out.put(a);
            out.put_signed(b);
            out.put_runs(runs.iter().copied());
            let mut back = Reader::new(&out.bytes);
            prop_assert_eq!((back.get(), back.get_signed()), (Some(a), Some(b)));
            prop_assert_eq!(back.get_runs(runs.len()), Some(runs));
            prop_assert!(back.is_empty());
        }

        #[test]
        fn floats_read_back_bit_for_bit(
            floats in prop::collection::vec(
                prop_oneof![
                    any::<f64>().prop_filter("finite", |x| x.is_finite()),
                    (-1_000_000i32..1_000_000, 0i32..7).prop_map(|(m, d)| f64::from(m) / 10f64.powi(d)),
                    any::<f32>().prop_filter("finite", |x| x.is_finite()).prop_map(f64::from),
                    Just(-0.0), Just(f64::MIN_POSITIVE / 4.0), Just(f64::MAX),
                ], 1..40),
        ) {
            let (mut out, mut state, mut tags) = (Writer::default(), FloatState::default(), Vec::new());
            for x in &floats {
                let packed = Packed::of(*x, state);
                tags.push(packed.tag());
                packed.write(&mut out, &mut state);
            }
            let (mut back, mut state) = (Reader::new(&out.bytes), FloatState::default());
            for (x, tag) in floats.iter().zip(tags) {
                let read = Packed::read(tag, &mut back, &mut state).expect("written above");
                prop_assert_eq!(read.to_bits(), x.to_bits());
            }
        }
    }

    #[test]
    fn a_scaled_register_costs_a_byte_or_two() {
        let (mut out, mut state) = (Writer::default(), FloatState::default());
        for x in [230.1, 230.2, 229.9, 230.0] {
            Packed::of(x, state).write(&mut out, &mut state);
        }
        assert!(out.bytes.len() <= 7, "{}", out.bytes.len());
    }

    #[test]
    fn endless_and_cut_numbers_are_refused() {
        assert_eq!(Reader::new(&[0xff; 20]).get(), None);
        assert_eq!(Reader::new(&[0x80]).get(), None);
        assert_eq!(Reader::new(&[5, 200, 1]).get_runs(4), None);
    }
}
