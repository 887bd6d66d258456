//! A number that tells two runs apart.

/// FNV-1a over what happened (Fowler, Noll and Vo).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Adds something that happened.
    pub(crate) fn add(&mut self, what: u64) {
        for byte in what.to_le_bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The number.
    pub(crate) const fn value(self) -> u64 {
        self.0
    }
}
