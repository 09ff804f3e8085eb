//! The files there are.

/// Addresses of the universe.
pub(crate) const ADDRESSES: usize = 3;
const NAMES: [char; 3] = ['x', 'y', 'z'];

/// A group: its name, and its addresses as bits. None is without one.
pub(crate) type Group = (char, u8);

/// A file: its groups in their order, no address in two of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File(pub(crate) Vec<Group>);

impl File {
    /// What stands for a group; no two groups have the same.
    pub(crate) fn fingerprint(&self, index: usize) -> u32 {
        let (name, addresses) = self.0[index];
        (name as u32) << 8 | u32::from(addresses)
    }

    /// Returns the group, by its place in the file, that has an address.
    pub(crate) fn owner(&self, address: usize) -> Option<usize> {
        self.0.iter().position(|(_, addresses)| addresses & 1 << address != 0)
    }
}

/// Every file there is.
pub(crate) fn all() -> Vec<File> {
    let mut files = Vec::new();
    extend(File(Vec::new()), &mut files);
    files
}

fn extend(file: File, files: &mut Vec<File>) {
    for name in NAMES {
        if file.0.iter().any(|(known, _)| *known == name) {
            continue;
        }
        for addresses in 1..1 << ADDRESSES {
            if file.0.iter().any(|(_, taken)| taken & addresses != 0) {
                continue;
            }
            let mut longer = file.clone();
            longer.0.push((name, addresses));
            extend(longer, files);
        }
    }
    files.push(file);
}

/// The files that differ by more than what their names and addresses are called.
pub(crate) fn canonical() -> Vec<File> {
    let files: [&[Group]; 8] = [
        &[],
        &[('x', 0b001)],
        &[('x', 0b011)],
        &[('x', 0b111)],
        &[('x', 0b001), ('y', 0b010)],
        &[('x', 0b001), ('y', 0b110)],
        &[('x', 0b011), ('y', 0b100)],
        &[('x', 0b001), ('y', 0b010), ('z', 0b100)],
    ];
    files.into_iter().map(|groups| File(groups.to_vec())).collect()
}
