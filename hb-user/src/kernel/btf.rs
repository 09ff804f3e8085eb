//! Where the fields of the running kernel's types lie.
//!
//! BPF Type Format: `Documentation/bpf/btf.rst` of the kernel. A header, then types one after another, each
//! a header of twelve bytes and what its kind appends, then the strings that they name by offset; all in the
//! byte order of the machine. Only what leads to the field of a struct is understood here. A parser that
//! keeps every type takes a third of a second for a kernel's, and a restart does not wait for that.

use zerocopy::{FromBytes, Immutable, KnownLayout};

/// The kernel's own types.
pub(super) const PATH: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Header {
    magic: u16,
    version: u8,
    flags: u8,
    length: u32,
    types_offset: u32,
    types_length: u32,
    strings_offset: u32,
    strings_length: u32,
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Type {
    name: u32,
    info: u32,
    /// The size of what has one, else the type that is referred to.
    size_or_type: u32,
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    /// Returns how many bytes follow this header; `None` for a kind that is not known.
    fn appendix(self) -> Option<usize> {
        let count = self.count();
        Some(match self.kind() {
            // Integer, variable, tag of a declaration.
            1 | 14 | 17 => 4,
            // Pointer, forward, typedef, volatile, const, restrict, function, float, tag of a type.
            2 | 7..=12 | 16 | 18 => 0,
            // Array.
            3 => 12,
            STRUCT | UNION => count * size_of::<Member>(),
            // Enumeration, prototype of a function.
            6 | 13 => count * 8,
            // Section of data, enumeration of 64 bits.
            15 | 19 => count * 12,
            _ => return None,
        })
    }
}

#[derive(Clone, Copy, FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Member {
    name: u32,
    kind: u32,
    /// In bits; with the flag of the struct's `info`, the low 24 bits of it, below the width of a bit field.
    offset: u32,
}

/// All types, in the order of their numbers, from 1.
pub(super) struct Types<'a> {
    types: Vec<&'a [u8]>,
    strings: &'a [u8],
}

/// A field that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// In bytes, from the start of the struct.
    pub(super) offset: u64,
    /// Number of its type.
    kind: u32,
}

impl<'a> Types<'a> {
    /// Finds the types in `bytes`; `None` if those are no BTF that is understood.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        if header.magic != MAGIC || header.version != 1 {
            return None;
        }
        let rest = bytes.get(header.length as usize..)?;
        let part = |offset: u32, length: u32| {
            let (offset, length) = (offset as usize, length as usize);
            rest.get(offset..)?.get(..length)
        };
        let strings = part(header.strings_offset, header.strings_length)?;
        let mut left = part(header.types_offset, header.types_length)?;
        let mut types = Vec::new();
        while !left.is_empty() {
            let (found, _) = Type::read_from_prefix(left).ok()?;
            let (this, others) = left.split_at_checked(size_of::<Type>() + found.appendix()?)?;
            types.push(this);
            left = others;
        }
        Some(Self { types, strings })
    }

    /// Returns the field of the struct called `name`.
    pub(super) fn field_of(&self, name: &str, field: &str) -> Option<Field> {
        let named = |bytes: &&&[u8]| {
            Type::read_from_prefix(bytes)
                .is_ok_and(|(found, _)| found.kind() == STRUCT && self.is_called(found.name, name))
        };
        self.field(self.types.iter().find(named)?, field)
    }

    /// Returns the field called `field` of the struct that `of` is, or points to.
    pub(super) fn field_in(&self, of: Field, field: &str) -> Option<Field> {
        let mut number = of.kind;
        // A pointer to a type that is a qualified name of a struct is a handful of steps.
        for _ in 0..16 {
            let bytes = self.types.get((number as usize).checked_sub(1)?)?;
            let (found, _) = Type::read_from_prefix(bytes).ok()?;
            match found.kind() {
                STRUCT | UNION => return self.field(bytes, field),
                2 | 8..=11 | 18 => number = found.size_or_type,
                _ => return None,
            }
        }
        None
    }

    fn field(&self, bytes: &[u8], field: &str) -> Option<Field> {
        let (of, members) = Type::read_from_prefix(bytes).ok()?;
        let has_bit_fields = of.info >> 31 != 0;
        members.chunks_exact(size_of::<Member>()).find_map(|member| {
            let member = Member::read_from_bytes(member).ok()?;
            let bits = if has_bit_fields { member.offset & 0xff_ffff } else { member.offset };
            (self.is_called(member.name, field) && bits % 8 == 0)
                .then_some(Field { offset: u64::from(bits / 8), kind: member.kind })
        })
    }

    fn is_called(&self, offset: u32, name: &str) -> bool {
        let found = self.strings.get(offset as usize..);
        let rest = found.and_then(|found| found.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types made by hand: what each appends, and the strings.
    fn btf(types: &[&[u32]], strings: &str) -> Vec<u8> {
        let body: Vec<u8> = types
            .iter()
            .flat_map(|words| words.iter().flat_map(|word| word.to_ne_bytes()))
            .collect();
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        for word in [24, 0, body.len() as u32, body.len() as u32, strings.len() as u32] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(body);
        bytes.extend(strings.as_bytes());
        bytes
    }

    const STRINGS: &str = "\0device\0index\0net\0space\0inum\0";
    const DEVICE: u32 = 1;
    const INDEX: u32 = 8;
    const NET: u32 = 14;
    const SPACE: u32 = 18;
    const INUM: u32 = 24;

    fn example() -> Vec<u8> {
        btf(
            &[
                // 1: an integer.
                &[0, 1 << 24, 4, 32],
                // 2: a pointer to struct net. 3: a const of it.
                &[0, 2 << 24, 4],
                &[0, 10 << 24, 2],
                // 4: struct net, whose field at 16 is struct 5.
                &[NET, 4 << 24 | 1, 32, SPACE, 5, 128],
                &[SPACE, 4 << 24 | 2, 8, INDEX, 1, 0, INUM, 1, 32],
                // 6: a forward of the name, which is no struct. 7: the struct, with bit fields.
                &[DEVICE, 7 << 24, 0],
                &[
                    DEVICE,
                    1 << 31 | 4 << 24 | 3,
                    64,
                    SPACE,
                    1,
                    3 << 24 | 5,
                    NET,
                    3,
                    64,
                    INDEX,
                    1,
                    192,
                ],
            ],
            STRINGS,
        )
    }

    #[test]
    fn fields_are_found_through_pointers_and_qualifiers() {
        let bytes = example();
        let types = Types::read(&bytes).unwrap();
        assert_eq!(types.field_of("device", "index").unwrap().offset, 24);
        let net = types.field_of("device", "net").unwrap();
        assert_eq!(net.offset, 8);
        let space = types.field_in(net, "space").unwrap();
        assert_eq!(space.offset, 16);
        assert_eq!(types.field_in(space, "inum").unwrap().offset, 4);
        assert_eq!(types.field_of("device", "space"), None, "bits of a byte have no offset");
        assert_eq!(types.field_of("device", "inde"), None);
        assert_eq!(types.field_of("dev", "index"), None);
        assert_eq!(types.field_in(space, "space"), None);
        let index = types.field_of("device", "index").unwrap();
        assert_eq!(types.field_in(index, "inum"), None, "an integer has no fields");
    }

    #[test]
    fn what_ends_early_or_goes_round_is_refused() {
        let bytes = example();
        for length in 0..bytes.len() - STRINGS.len() {
            assert!(Types::read(&bytes[..length]).is_none(), "{length}");
        }
        let mut foreign = bytes.clone();
        foreign[0] ^= 1;
        assert!(Types::read(&foreign).is_none());
        let unknown = btf(&[&[0, 31 << 24, 0]], STRINGS);
        assert!(Types::read(&unknown).is_none());
        let circle = btf(&[&[0, 2 << 24, 1], &[DEVICE, 4 << 24 | 1, 8, NET, 1, 0]], STRINGS);
        let types = Types::read(&circle).unwrap();
        let net = types.field_of("device", "net").unwrap();
        assert_eq!(types.field_in(net, "inum"), None);
    }
}
