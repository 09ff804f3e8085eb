//! SipHash-2-4 (Aumasson and Bernstein, INDOCRYPT 2012) over whole words.
//!
//! Frames are a whole number of 64-bit words, so no byte is ever buffered; that is what lets the
//! kernel's verifier and its compiler see straight-line code.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 128-bit SipHash key.
#[derive(Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Key {
    /// The key's bytes 0 to 7 and 8 to 15, each read little-endian.
    pub words: [u64; 2],
}

impl Key {
    /// Reads a key from its 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (low, high) = bytes.split_at(8);
        let word =
            |half: &[u8]| half.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        Self { words: [word(low), word(high)] }
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// Returns the tag of `words`, each the little-endian reading of eight message bytes.
#[inline(always)]
#[must_use]
pub fn tag<const N: usize>(key: &Key, words: &[u64; N]) -> u64 {
    let [k0, k1] = key.words;
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    for word in words {
        let word = u64::from_le(*word);
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    // The last block holds only the message length, modulo 256, in its top byte.
    let last = ((N as u64 * 8) & 0xff) << 56;
    v[3] ^= last;
    round(&mut v);
    round(&mut v);
    v[0] ^= last;
    v[2] ^= 0xff;
    round(&mut v);
    round(&mut v);
    round(&mut v);
    round(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;
    use proptest::prelude::*;
    use siphasher::sip::SipHasher24;

    /// The published vector for the message 00 01 .. 07 under the key 00 01 .. 0f.
    #[test]
    fn published_vector() {
        let key = Key::from_bytes(core::array::from_fn(|n| n as u8));
        let message = u64::from_le_bytes(core::array::from_fn(|n| n as u8));
        assert_eq!(
            tag(&key, &[message.to_le()]).to_le_bytes(),
            [0x62, 0x24, 0x93, 0x9a, 0x79, 0xf5, 0xf5, 0x93]
        );
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(key: [u8; 16], message: [u8; 416]) {
            let mut words = [0u64; 52];
            for (word, bytes) in words.iter_mut().zip(message.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into().unwrap());
            }
            let mut reference = SipHasher24::new_with_key(&key);
            reference.write(&message);
            prop_assert_eq!(tag(&Key::from_bytes(key), &words), reference.finish());
        }
    }
}
