//! Pinned maps, reached by the system call alone: whoever only looks needs no program.

use std::{
    fs, io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    chain,
    pins::{bpf, open},
};

/// `BPF_MAP_LOOKUP_ELEM` of `linux/bpf.h`.
const LOOKUP: libc::c_int = 1;
/// `BPF_MAP_UPDATE_ELEM`.
const UPDATE: libc::c_int = 2;
/// `BPF_MAP_DELETE_ELEM`.
const DELETE: libc::c_int = 3;
/// `BPF_MAP_GET_NEXT_KEY`.
const NEXT_KEY: libc::c_int = 4;
/// Where the kernel says how many CPUs there may be: per-CPU values come for each.
const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// The part of `union bpf_attr` for elements of maps.
#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// A map of `V`s by `K`, whose sizes were checked when it was pinned or found.
pub(super) struct PinnedMap<V, K = u32> {
    map: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

impl<V, K> PinnedMap<V, K>
where
    V: FromBytes + IntoBytes + Immutable,
    K: FromBytes + IntoBytes + Immutable + Copy,
{
    /// Opens the map pinned at `pin`.
    ///
    /// # Safety
    ///
    /// Its keys must have as many bytes as a `K`, and its values as many as a `V`.
    ///
    /// # Errors
    ///
    /// The kernel's own: `ENOENT` if there is no pin.
    pub(super) unsafe fn open(pin: &Path) -> io::Result<Self> {
        Ok(Self { map: open(pin)?, types: PhantomData })
    }

    /// Takes an open map whose keys and values have as many bytes as a `K` and a `V`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if they have not.
    pub(super) fn of(map: OwnedFd) -> io::Result<Self> {
        let sizes = (size_of::<K>() as u32, size_of::<V>() as u32);
        if chain::describe_map(map.as_fd())?.sizes != sizes {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(Self { map, types: PhantomData })
    }

    /// Returns the value of `key`, if there is one.
    pub(super) fn get(&self, key: K) -> io::Result<Option<V>> {
        let mut value = MaybeUninit::<V>::zeroed();
        if !self.find(key, value.as_mut_ptr().cast())? {
            return Ok(None);
        }
        // SAFETY: zeroed at first, and any bytes are a `V`.
        Ok(Some(unsafe { value.assume_init() }))
    }

    /// Returns the values of `key`, one for each CPU that may be, of a map per CPU.
    pub(super) fn get_per_cpu(&self, key: K) -> io::Result<Vec<V>> {
        const { assert!(size_of::<V>().is_multiple_of(8), "the kernel rounds values up to 8 bytes") };
        let mut values: Vec<V> = (0..possible_cpus()?).map(|_| V::new_zeroed()).collect();
        self.find(key, values.as_mut_ptr().cast())?;
        Ok(values)
    }

    /// Has the kernel write what it holds of `key` at `value`; tells whether there is any.
    fn find(&self, key: K, value: *mut u8) -> io::Result<bool> {
        // SAFETY: both addresses are valid; `value` has room for all that the kernel writes.
        match unsafe { self.act(LOOKUP, &raw const key, value) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            result => result.map(|()| true),
        }
    }

    /// Gives `key` the value.
    pub(super) fn set(&self, key: K, value: &V) -> io::Result<()> {
        let value: *const V = value;
        // SAFETY: both addresses are valid; the kernel only reads.
        unsafe { self.act(UPDATE, &raw const key, value.cast_mut().cast()) }
    }

    /// Takes `key` away; it is no error if it was not there.
    pub(super) fn remove(&self, key: K) -> io::Result<()> {
        // SAFETY: the address of the key is valid, the other is not used.
        match unsafe { self.act(DELETE, &raw const key, std::ptr::null_mut()) } {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Returns all keys and values of a hash map.
    pub(super) fn entries(&self) -> io::Result<Vec<(K, V)>> {
        let mut entries = Vec::new();
        for key in self.keys()? {
            if let Some(value) = self.get(key)? {
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    /// Returns all keys of a hash map.
    pub(super) fn keys(&self) -> io::Result<Vec<K>> {
        let mut keys = Vec::new();
        let mut last: Option<K> = None;
        loop {
            let from = last.as_ref().map_or(std::ptr::null(), |last| &raw const *last);
            let mut next = MaybeUninit::<K>::zeroed();
            // SAFETY: null or valid, and room for a key.
            match unsafe { self.act(NEXT_KEY, from, next.as_mut_ptr().cast()) } {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                result => result?,
            }
            // SAFETY: zeroed at first, and any bytes are a `K`.
            let next = unsafe { next.assume_init() };
            keys.push(next);
            last = Some(next);
        }
    }

    /// Makes the call.
    ///
    /// # Safety
    ///
    /// `key` must be null or valid, and `value` valid for what the command does with it.
    unsafe fn act(&self, command: libc::c_int, key: *const K, value: *mut u8) -> io::Result<()> {
        let element = Element {
            map_fd: self.map.as_raw_fd().unsigned_abs(),
            padding: 0,
            key: key as u64,
            value: value as u64,
            flags: 0,
        };
        // SAFETY: the caller's promise covers the addresses.
        unsafe { bpf(command, &element) }.map(drop)
    }
}

/// Returns how many CPUs there may be, now or later.
fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string(POSSIBLE)?;
    count_cpus(text.trim()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{POSSIBLE} holds {text:?}"))
    })
}

/// Counts a list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    let counts = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first).map(|more| more + 1)
    });
    counts.sum()
}

/// Sums counters of all CPUs.
pub(super) fn sum<const N: usize>(values: &[[u64; N]]) -> [u64; N] {
    let mut sum = [0; N];
    for counters in values {
        for (sum, count) in sum.iter_mut().zip(counters) {
            *sum += count;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted() {
        for (list, count) in
            [("0", Some(1)), ("0-3", Some(4)), ("0-1,4-7", Some(6)), ("0,2", Some(2))]
        {
            assert_eq!(count_cpus(list), count, "{list}");
        }
        for list in ["", "x", "0-", "1-x", "3-1"] {
            assert_eq!(count_cpus(list), None, "{list}");
        }
        assert!(possible_cpus().unwrap() > 0);
    }

    #[test]
    fn counters_add_up() {
        assert_eq!(sum(&[[1, 2], [10, 20]]), [11, 22]);
        assert_eq!(sum::<3>(&[]), [0; 3]);
    }
}
