//! What the compiled programs do while they hold a lock: walked through without a kernel.
//!
//! Before Linux 6.9 the verifier takes no call under a `bpf_spin_lock` but that of the unlock: none of a
//! helper, and none of another function of the program. The compiler makes such calls out of stores of
//! zeros and copies, where no source has one.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionIndex,
    SectionKind, SymbolKind, read::elf::ElfFile64,
};

/// Numbers of helpers (`linux/bpf.h`).
const SPIN_LOCK: i32 = 93;
const SPIN_UNLOCK: i32 = 94;
/// Bytes of an instruction (RFC 9669, section 3).
const WIDTH: usize = 8;

/// An instruction (RFC 9669, section 3).
#[derive(Clone, Copy)]
struct Instruction {
    opcode: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

/// What may come after an instruction.
enum Step {
    Next,
    /// Twice as long: 64 bits of a constant.
    Wide,
    Jump(i64),
    Branch(i64),
    Call,
    Exit,
}

impl Instruction {
    fn read(bytes: &[u8]) -> Self {
        let &[opcode, registers, low, high, a, b, c, d] = bytes else { panic!("half of one") };
        Self {
            opcode,
            source: registers >> 4,
            offset: i16::from_le_bytes([low, high]),
            immediate: i32::from_le_bytes([a, b, c, d]),
        }
    }

    /// What follows (RFC 9669, sections 4.3 and 5.4).
    fn step(self) -> Step {
        match (self.opcode & 7, self.opcode >> 4) {
            (0, _) if self.opcode == 0x18 => Step::Wide,
            (5, 0) => Step::Jump(self.offset.into()),
            (6, 0) => Step::Jump(self.immediate.into()),
            (5, 8) => Step::Call,
            (5, 9) => Step::Exit,
            (5 | 6, _) => Step::Branch(self.offset.into()),
            _ => Step::Next,
        }
    }

    /// Tells whether it calls that helper.
    fn calls(self, helper: i32) -> bool {
        matches!(self.step(), Step::Call) && self.source == 0 && self.immediate == helper
    }
}

/// What was found on all ways through a function.
#[derive(Default)]
struct Walk {
    /// Instructions that take a lock.
    locks: BTreeSet<usize>,
    /// What a lock does not allow, by instruction.
    wrong: BTreeMap<usize, String>,
}

/// Walks through the instructions from the first one, on every way, with and without the lock. `callee` names
/// what the call at an instruction is of.
fn walk(code: &[Instruction], callee: impl Fn(usize) -> String) -> Walk {
    let mut found = Walk::default();
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![(0, false)]);
    while let Some((at, mut held)) = ahead.pop() {
        if !seen.insert((at, held)) {
            continue;
        }
        let Some(instruction) = code.get(at) else {
            found.wrong.insert(at, "the function ends without an exit".to_owned());
            continue;
        };
        let target = |offset: i64| {
            usize::try_from(at as i64 + 1 + offset).expect("a way out of the function")
        };
        match instruction.step() {
            Step::Next => {}
            Step::Wide => {
                ahead.push((at + 2, held));
                continue;
            }
            Step::Jump(offset) => {
                ahead.push((target(offset), held));
                continue;
            }
            Step::Branch(offset) => ahead.push((target(offset), held)),
            Step::Exit => {
                if held {
                    found.wrong.insert(at, "returns".to_owned());
                }
                continue;
            }
            Step::Call if held && instruction.calls(SPIN_UNLOCK) => held = false,
            Step::Call => {
                if held {
                    found.wrong.insert(at, format!("calls {}", callee(at)));
                }
                if instruction.calls(SPIN_LOCK) {
                    found.locks.insert(at);
                    held = true;
                }
            }
        }
        ahead.push((at + 1, held));
    }
    found
}

/// Walks through every function of an object; returns how many instructions take a lock, and what is wrong.
fn inspect(name: &str, bytes: &[u8]) -> (usize, Vec<String>) {
    let file = ElfFile64::<object::Endianness>::parse(bytes).unwrap();
    let name_of = |section: SectionIndex, address: u64| {
        let found = file.symbols().find(|symbol| {
            symbol.kind() == SymbolKind::Text
                && symbol.section_index() == Some(section)
                && (symbol.address()..symbol.address() + symbol.size()).contains(&address)
        });
        found.map_or_else(|| "?".to_owned(), |symbol| symbol.name().unwrap().to_owned())
    };
    let (mut locks, mut wrong) = (0, Vec::new());
    for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code: Vec<Instruction> =
            section.data().unwrap().chunks(WIDTH).map(Instruction::read).collect();
        let targets: BTreeMap<u64, RelocationTarget> =
            section.relocations().map(|(at, relocation)| (at, relocation.target())).collect();
        let callee = |at: usize| {
            let Instruction { source, immediate, .. } = code[at];
            if source != 1 {
                return format!("the helper {immediate}");
            }
            // Of a function of the same section, the distance; of another one, the symbol, which is that of
            // the section for a function that nothing else names.
            match targets.get(&((at * WIDTH) as u64)) {
                None => name_of(
                    section.index(),
                    ((at as i64 + 1 + i64::from(immediate)) * WIDTH as i64) as u64,
                ),
                Some(RelocationTarget::Symbol(index)) => {
                    let symbol = file.symbol_by_index(*index).unwrap();
                    match (symbol.kind(), symbol.section_index()) {
                        (SymbolKind::Section, Some(section)) => {
                            name_of(section, ((i64::from(immediate) + 1) * WIDTH as i64) as u64)
                        }
                        _ => symbol.name().unwrap().to_owned(),
                    }
                }
                Some(other) => format!("{other:?}"),
            }
        };
        let mut walked = BTreeSet::new();
        for function in file.symbols().filter(|symbol| {
            symbol.kind() == SymbolKind::Text && symbol.section_index() == Some(section.index())
        }) {
            let start = function.address() as usize / WIDTH;
            let end = start + function.size() as usize / WIDTH;
            let found = walk(&code[start..end], |at| callee(start + at));
            walked.extend(found.locks.iter().map(|at| start + at));
            let function = function.name().unwrap();
            wrong.extend(found.wrong.iter().map(|(at, what)| {
                format!("{name}: `{function}` {what} at instruction {at} of {}", end - start)
            }));
        }
        for (at, _) in
            code.iter().enumerate().filter(|(_, instruction)| instruction.calls(SPIN_LOCK))
        {
            assert!(
                walked.contains(&at),
                "{name}: no way leads to the lock at {at} of {:?}",
                section.name()
            );
        }
        locks += walked.len();
    }
    (locks, wrong)
}

fn object(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn nothing_is_called_under_a_lock() {
    let mut all = Vec::new();
    // Who takes locks: else nobody would hear that the walk finds none any more.
    for (path, takes_locks) in [
        ("hb-user/kernel/hb-node.bpf.o", true),
        ("hb-user/kernel/hb-witness.bpf.o", true),
        ("tests/kernel/hb-switch.bpf.o", false),
    ] {
        let (locks, wrong) = inspect(path, &object(path));
        assert_eq!(locks > 0, takes_locks, "{path} takes {locks} locks");
        all.extend(wrong);
    }
    assert!(all.is_empty(), "{} under a lock:\n{}", all.len(), all.join("\n"));
}

mod walking {
    use super::*;

    const LOCK: Instruction =
        Instruction { opcode: 0x85, source: 0, offset: 0, immediate: SPIN_LOCK };
    const UNLOCK: Instruction = Instruction { immediate: SPIN_UNLOCK, ..LOCK };
    const CALL: Instruction = Instruction { source: 1, immediate: 9, ..LOCK };
    const HELPER: Instruction = Instruction { immediate: 5, ..LOCK };
    const EXIT: Instruction = Instruction { opcode: 0x95, immediate: 0, ..LOCK };
    const MOVE: Instruction = Instruction { opcode: 0xb7, ..EXIT };
    const WIDE: Instruction = Instruction { opcode: 0x18, ..EXIT };

    /// Jumps over so many instructions if a register is zero.
    fn over(offset: i16) -> Instruction {
        Instruction { opcode: 0x15, offset, ..EXIT }
    }

    fn wrong(code: &[Instruction]) -> Vec<usize> {
        walk(code, |_| "it".to_owned()).wrong.into_keys().collect()
    }

    #[test]
    fn calls_before_and_after_are_allowed() {
        assert!(wrong(&[CALL, LOCK, MOVE, over(1), MOVE, UNLOCK, HELPER, EXIT]).is_empty());
    }

    #[test]
    fn every_other_call_between_is_found() {
        assert_eq!(wrong(&[LOCK, CALL, UNLOCK, EXIT]), [1]);
        assert_eq!(wrong(&[LOCK, HELPER, UNLOCK, EXIT]), [1]);
        assert_eq!(wrong(&[LOCK, LOCK, UNLOCK, EXIT]), [1]);
    }

    #[test]
    fn a_call_on_one_way_only_is_found() {
        // The unlock is jumped over: the call after it is under the lock on that way.
        assert_eq!(wrong(&[LOCK, over(1), UNLOCK, CALL, EXIT]), [3, 4]);
        let back = Instruction { opcode: 0x06, immediate: -4, ..EXIT };
        assert_eq!(wrong(&[over(2), CALL, EXIT, LOCK, back]), [1, 2]);
    }

    #[test]
    fn a_return_with_the_lock_is_found() {
        assert_eq!(wrong(&[LOCK, EXIT]), [1]);
    }

    #[test]
    fn the_second_half_of_a_constant_is_no_instruction() {
        assert!(wrong(&[LOCK, WIDE, CALL, UNLOCK, EXIT]).is_empty());
    }
}
