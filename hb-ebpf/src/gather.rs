//! Bits gathered one by one, so that the verifier walks through what follows only once.
//!
//! The verifier knows which constants a register or the stack can hold, and walks through all that
//! comes after once for each combination of them. Of what lies in a map it knows nothing: once a bit
//! is there, the ways that led to it are one again.

/// Bits in memory that belongs to a map.
pub struct Gathered<'a>(&'a mut u32);

impl<'a> Gathered<'a> {
    /// Begins without any, in memory whose content does not matter.
    #[inline(always)]
    pub fn none_yet(memory: &'a mut u32) -> Self {
        let mut gathered = Self(memory);
        gathered.set(0);
        gathered
    }

    /// Adds `bits`.
    #[inline(always)]
    pub fn add(&mut self, bits: u32) {
        let all = self.get() | bits;
        self.set(all);
    }

    /// Returns all that were added.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> u32 {
        // SAFETY: a reference is valid to read. Volatile, or the compiler would keep the bits in a
        // register.
        unsafe { core::ptr::read_volatile(self.0) }
    }

    #[inline(always)]
    fn set(&mut self, bits: u32) {
        // SAFETY: a unique reference is valid to write. Volatile, as above.
        unsafe { core::ptr::write_volatile(self.0, bits) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_there_and_nothing_else() {
        let mut memory = 0xffff;
        let mut gathered = Gathered::none_yet(&mut memory);
        assert_eq!(gathered.get(), 0);
        gathered.add(4);
        gathered.add(1);
        gathered.add(4);
        assert_eq!(gathered.get(), 5);
        assert_eq!(memory, 5);
    }
}
