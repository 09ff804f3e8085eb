//! The few commands of bpf(2) that measuring needs: how long a program took, and programs of a
//! handful of instructions to compare with. The daemon has no use for any of it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// Commands of `enum bpf_cmd` (`linux/bpf.h`).
const PROG_LOAD: libc::c_int = 5;
const PROG_TEST_RUN: libc::c_int = 10;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const ENABLE_STATS: libc::c_int = 32;

/// `BPF_STATS_RUN_TIME`.
const RUN_TIME: u64 = 0;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`: frames really go where the program sends them.
const LIVE_FRAMES: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE` (`linux/if_link.h`).
const NATIVE: u32 = 1 << 2;

/// `XDP_PASS` (`linux/bpf.h`).
pub const XDP_PASS: u32 = 2;
/// `XDP_DROP`.
pub const XDP_DROP: u32 = 1;
/// `XDP_TX`.
pub const XDP_TX: u32 = 3;

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// In the driver, on arrival.
    Xdp,
    /// In traffic control, on arrival.
    TcxIngress,
}

impl Hook {
    /// Returns `BPF_PROG_TYPE_XDP` or `BPF_PROG_TYPE_SCHED_CLS`.
    const fn program_type(self) -> u32 {
        match self {
            Self::Xdp => 6,
            Self::TcxIngress => 3,
        }
    }

    /// Returns `BPF_XDP` or `BPF_TCX_INGRESS`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Xdp => 37,
            Self::TcxIngress => 46,
        }
    }

    /// Returns the verdict that lets a packet go on: `XDP_PASS`, `TCX_NEXT`.
    const fn pass(self) -> i32 {
        match self {
            Self::Xdp => XDP_PASS as i32,
            Self::TcxIngress => -1,
        }
    }
}

/// Calls bpf(2) with an attribute of 64-bit words; each word of those used here is one field of
/// eight bytes or two of four.
fn bpf(command: libc::c_int, attribute: &mut [u64]) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is readable and writable for its length, and addresses in it are of
    // memory that the callers keep for the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size_of_val(attribute))
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Two fields of four bytes, in order of their offsets.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// What a run of a program by [`Program::run`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The verdict of the last repeat.
    pub verdict: u32,
    /// Mean time of one repeat, whole nanoseconds, rounded down by the kernel.
    pub each: Duration,
}

/// What the kernel counted of a program while a [`Statistics`] was held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Time spent in it, in nanoseconds.
    pub run_time_ns: u64,
    /// How often it ran.
    pub runs: u64,
}

impl Counted {
    /// Returns what was added since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            run_time_ns: self.run_time_ns.saturating_sub(before.run_time_ns),
            runs: self.runs.saturating_sub(before.runs),
        }
    }

    /// Returns the mean time of one run in nanoseconds, `None` if there was none.
    #[must_use]
    pub fn mean_ns(self) -> Option<f64> {
        (self.runs != 0).then(|| self.run_time_ns as f64 / self.runs as f64)
    }
}

impl Program {
    /// Takes one more hold on a program that somebody loaded.
    ///
    /// # Errors
    ///
    /// If no file descriptor is left.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        fd.try_clone_to_owned().map(Self)
    }

    /// Loads a program that lets every packet go on and does nothing else.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN`.
    pub fn empty(hook: Hook) -> io::Result<Self> {
        Self::assemble(hook, &[set(0, hook.pass()), EXIT])
    }

    /// Loads a program that sends every packet out by `interface`: `XDP_REDIRECT`.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn redirect(interface: u32) -> io::Result<Self> {
        /// `bpf_redirect(ifindex, flags)`.
        const REDIRECT: i32 = 23;
        Self::assemble(Hook::Xdp, &[set(1, interface as i32), set(2, 0), call(REDIRECT), EXIT])
    }

    /// Loads a program that sends a copy of every packet of `mark` out by `interface` and lets the
    /// packet itself go out by its own interface again: it goes round for ever.
    ///
    /// # Errors
    ///
    /// As [`empty`](Self::empty).
    pub fn clone_and_return(interface: u32, back: u32) -> io::Result<Self> {
        /// `bpf_clone_redirect(skb, ifindex, flags)`.
        const CLONE_REDIRECT: i32 = 13;
        /// `bpf_redirect(ifindex, flags)`; its value is the verdict `TC_ACT_REDIRECT`.
        const REDIRECT: i32 = 23;
        Self::assemble(
            Hook::TcxIngress,
            &[
                set(2, interface as i32),
                set(3, 0),
                call(CLONE_REDIRECT),
                set(1, back as i32),
                set(2, 0),
                call(REDIRECT),
                EXIT,
            ],
        )
    }

    fn assemble(hook: Hook, instructions: &[u64]) -> io::Result<Self> {
        const LICENSE: &[u8; 4] = b"GPL\0";
        let mut attribute = [0; 9];
        attribute[0] = pair(hook.program_type(), instructions.len() as u32);
        attribute[1] = instructions.as_ptr() as u64;
        attribute[2] = LICENSE.as_ptr() as u64;
        attribute[8] = pair(0, hook.attach_type());
        let fd = bpf(PROG_LOAD, &mut attribute)?;
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Runs the program `repeat` times on `packet`, in the kernel, without a break. What it changes
    /// of the packet or of maps stays from one repeat to the next, so this measures only what
    /// leaves both as they are. An XDP program sees the packet arrive by `interface`.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EINVAL` for packets shorter than an Ethernet header or an interface
    /// that the calling thread's namespace lacks, `EINTR` when a signal came.
    pub fn run(&self, packet: &[u8], interface: Option<u32>, repeat: u32) -> io::Result<Run> {
        let mut attribute = self.test(packet, repeat);
        let context = interface.map(|index| context(packet, index));
        attach_context(&mut attribute, context.as_ref());
        bpf(PROG_TEST_RUN, &mut attribute)?;
        let [_, verdict] = halves(attribute[0]);
        let [_, each] = halves(attribute[4]);
        Ok(Run { verdict, each: Duration::from_nanos(each.into()) })
    }

    /// Has the kernel send `repeat` frames through an XDP program, `batch` at a time: where the
    /// program says redirect they leave.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn send(&self, frame: &[u8], interface: u32, repeat: u32, batch: u32) -> io::Result<()> {
        let mut attribute = self.test(frame, repeat);
        let context = context(frame, interface);
        attach_context(&mut attribute, Some(&context));
        attribute[8] = pair(LIVE_FRAMES, 0);
        attribute[9] = pair(batch, 0);
        bpf(PROG_TEST_RUN, &mut attribute).map(drop)
    }

    fn test(&self, packet: &[u8], repeat: u32) -> [u64; 10] {
        let mut attribute = [0; 10];
        attribute[0] = pair(self.0.as_raw_fd() as u32, 0);
        attribute[1] = pair(packet.len() as u32, 0);
        attribute[2] = packet.as_ptr() as u64;
        attribute[4] = pair(repeat, 0);
        attribute
    }

    /// Returns what the kernel counted of the program so far.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn counted(&self) -> io::Result<Counted> {
        /// Offsets of `run_time_ns` and `run_cnt` in `struct bpf_prog_info`, in words.
        const RUN_TIME_NS: usize = 24;
        const RUNS: usize = 25;
        let mut info = [0_u64; RUNS + 1];
        let mut attribute =
            [pair(self.0.as_raw_fd() as u32, size_of_val(&info) as u32), info.as_mut_ptr() as u64];
        bpf(OBJ_GET_INFO_BY_FD, &mut attribute)?;
        Ok(Counted { run_time_ns: info[RUN_TIME_NS], runs: info[RUNS] })
    }

    /// Attaches the program to an interface of the calling thread's namespace, natively where it is
    /// XDP, until the returned value is dropped.
    ///
    /// # Errors
    ///
    /// What the kernel says.
    pub fn attach(&self, hook: Hook, interface: u32) -> io::Result<Attached> {
        let flags = if hook == Hook::Xdp { NATIVE } else { 0 };
        let mut attribute = [0; 8];
        attribute[0] = pair(self.0.as_raw_fd() as u32, interface);
        attribute[1] = pair(hook.attach_type(), flags);
        let fd = bpf(LINK_CREATE, &mut attribute)?;
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(Attached { _link: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }
}

/// A program on an interface.
#[derive(Debug)]
pub struct Attached {
    _link: OwnedFd,
}

/// Has the kernel count the run time of every program while it is held, which costs each run two
/// looks at a clock: compare with an empty program counted at the same time.
#[derive(Debug)]
pub struct Statistics {
    _held: OwnedFd,
}

impl Statistics {
    /// Begins to count.
    ///
    /// # Errors
    ///
    /// What the kernel says; `EPERM` without `CAP_SYS_ADMIN`.
    pub fn hold() -> io::Result<Self> {
        let fd = bpf(ENABLE_STATS, &mut [RUN_TIME])?;
        // SAFETY: the kernel has just made it, and nobody else has it.
        Ok(Self { _held: unsafe { OwnedFd::from_raw_fd(fd as i32) } })
    }
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
type Context = [u32; 6];

fn context(packet: &[u8], interface: u32) -> Context {
    [0, packet.len() as u32, 0, interface, 0, 0]
}

fn attach_context(attribute: &mut [u64; 10], context: Option<&Context>) {
    if let Some(context) = context {
        attribute[5] = pair(size_of::<Context>() as u32, 0);
        attribute[6] = context.as_ptr() as u64;
    }
}

/// The two fields of four bytes of a word, in order of their offsets.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// `exit`.
const EXIT: u64 = 0x95;

/// `r<register> = value`.
const fn set(register: u8, value: i32) -> u64 {
    0xb7 | (register as u64) << 8 | (value as u32 as u64) << 32
}

/// Calls a helper of the kernel.
const fn call(helper: i32) -> u64 {
    0x85 | (helper as u32 as u64) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        // `struct bpf_insn`: code, two register numbers, offset, immediate.
        assert_eq!(set(2, -1).to_le_bytes(), [0xb7, 2, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(call(23).to_le_bytes(), [0x85, 0, 0, 0, 23, 0, 0, 0]);
    }

    #[test]
    fn pairs_come_apart_again() {
        assert_eq!(halves(pair(7, 9)), [7, 9]);
    }
}
