//! What tests throw: the same numbers every time.

/// Numbers that look random (xorshift).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below another.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn exactly(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// Up to so many bytes.
    pub(crate) fn bytes(&mut self, limit: usize) -> Vec<u8> {
        let length = self.below(limit);
        self.exactly(length)
    }

    /// Changes, cuts out, doubles or adds a few bytes.
    pub(crate) fn spoil(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(5) {
                0 => bytes.truncate(at),
                1 => {
                    let more = self.bytes(16);
                    bytes.splice(at..at, more);
                }
                2 if at < bytes.len() => {
                    let end = at + 1 + self.below((bytes.len() - at).min(16));
                    let copy = bytes[at..end.min(bytes.len())].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 if at < bytes.len() => bytes[at] = [0, 0x7F, 0x80, 0xFF][self.below(4)],
                _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
                _ => {}
            }
        }
    }
}
