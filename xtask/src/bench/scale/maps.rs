//! Memory of BPF maps, as the kernel accounts for it.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result};

/// Returns the bytes of all maps that this process has open: `memlock` in `fdinfo`, each map once.
///
/// # Errors
///
/// If `/proc/self/fdinfo` cannot be read.
pub(super) fn bytes() -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("cannot list /proc/self/fdinfo")? {
        // The descriptor of the listing itself is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let Some((id, bytes)) = map(&text) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}

/// Returns number and size of the map that an `fdinfo` is about, `None` for anything else.
fn map(text: &str) -> Option<(u64, u64)> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(1)?.trim().parse().ok()
    };
    Some((field("map_id")?, field("memlock")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_maps_have_a_number_and_a_size() {
        let text = "pos:\t0\nmap_type:\t2\nmax_entries:\t1\nmemlock:\t8192\nmap_id:\t17\n";
        assert_eq!(map(text), Some((17, 8192)));
        assert_eq!(map("pos:\t0\nprog_id:\t4\nmemlock:\t4096\n"), None);
    }
}
