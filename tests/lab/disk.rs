//! A disk that is slow, or does not answer at all.
//!
//! What a process and its children write out (`fsync`, `fdatasync`) is held up by the kernel until
//! this says otherwise (`seccomp_unotify(2)`): the thread that asked waits, as it would for a disk,
//! and no other. `SIGKILL` ends it all the same.

use std::{
    io,
    mem::{offset_of, zeroed},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixDatagram, process::CommandExt},
    },
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use hb_ebpf::time::BootTime;

use crate::clock;

/// Between two looks at what is held up.
const STEP_MS: i32 = 1;
/// [`State::takes_ns`]: it does not answer.
const NEVER: u64 = u64::MAX;

/// The disk of one machine, as the processes see it that were started on it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How long writing out takes.
    takes_ns: AtomicU64,
    /// What was asked for, and what of it was let go on.
    asked: AtomicU64,
    done: AtomicU64,
}

impl Disk {
    /// Has each writing-out take `length`, also what is held up now; none for a disk that is well.
    pub fn take(&self, length: Duration) {
        self.state.takes_ns.store(length.as_nanos() as u64, Ordering::Release);
    }

    /// Has it answer no more.
    pub fn hang(&self) {
        self.state.takes_ns.store(NEVER, Ordering::Release);
    }

    /// Has it be as fast as it is.
    pub fn mend(&self) {
        self.take(Duration::ZERO);
    }

    /// Returns how often something was to be written out so far.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.state.asked.load(Ordering::Acquire)
    }

    /// Returns how many of these wait.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.asked() - self.state.done.load(Ordering::Acquire)
    }

    /// Has a command that is about to be started write to this disk; it does so once
    /// [`Plug::serve`] was called.
    ///
    /// # Errors
    ///
    /// If no descriptor is left.
    pub fn plug(&self, command: &mut Command) -> Result<Plug> {
        let (ours, theirs) = UnixDatagram::pair().context("cannot make a pair of sockets")?;
        let child = theirs.as_raw_fd();
        // SAFETY: the closure makes system calls and touches no memory of the parent.
        #[expect(clippy::disallowed_methods, reason = "no real-time daemon forks here")]
        unsafe {
            command.pre_exec(move || hand_over(child, &listen()?));
        }
        Ok(Plug { state: Arc::clone(&self.state), ours, _theirs: theirs })
    }
}

/// A command that was given a disk and is started next.
#[derive(Debug)]
pub struct Plug {
    state: Arc<State>,
    ours: UnixDatagram,
    /// Open until the command runs: the child has a copy.
    _theirs: UnixDatagram,
}

impl Plug {
    /// Serves the command, which runs now, and all that it starts, on a thread of its own that ends
    /// with them.
    ///
    /// # Errors
    ///
    /// If the command was not started.
    pub fn serve(self) -> Result<()> {
        let listener = receive(&self.ours).context("the command gave no disk to listen to")?;
        let state = self.state;
        thread::Builder::new()
            .name("disk".into())
            .spawn(move || {
                if let Err(error) = serve(&listener, &state) {
                    eprintln!("lab: a disk is broken: {error}");
                }
            })
            .context("cannot start a thread")?;
        Ok(())
    }
}

/// Has the kernel ask before this process writes out; returns where it asks.
fn listen() -> io::Result<OwnedFd> {
    let (syscall, allow) = (offset_of!(libc::seccomp_data, nr), libc::SECCOMP_RET_ALLOW);
    let is = |number: libc::c_long| number as u32;
    let mut filter = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, syscall as u32),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 2, 0, is(libc::SYS_fsync)),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, 0, is(libc::SYS_fdatasync)),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, allow),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let flags =
        libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: the program outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt, jf, k }
}

/// A message of one byte with room for one descriptor.
struct Message {
    byte: u8,
    control: [u64; 4],
}

impl Message {
    fn with<R>(&mut self, work: impl FnOnce(&mut libc::msghdr) -> R) -> R {
        let mut part =
            libc::iovec { iov_base: (&raw mut self.byte).cast(), iov_len: size_of::<u8>() };
        // SAFETY: all zeroes are a header without anything.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        // SAFETY: it only computes.
        header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
        work(&mut header)
    }
}

fn hand_over(socket: RawFd, listener: &OwnedFd) -> io::Result<()> {
    let fd = listener.as_raw_fd();
    let sent = Message { byte: 0, control: [0; 4] }.with(|header| {
        // SAFETY: the control buffer has room for one descriptor, and all of it outlives the call.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header);
            (*first).cmsg_level = libc::SOL_SOCKET;
            (*first).cmsg_type = libc::SCM_RIGHTS;
            (*first).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            libc::CMSG_DATA(first).cast::<RawFd>().write_unaligned(fd);
            libc::sendmsg(socket, header, 0)
        }
    });
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn receive(socket: &UnixDatagram) -> io::Result<OwnedFd> {
    let socket = socket.as_raw_fd();
    Message { byte: 0, control: [0; 4] }.with(|header| {
        let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the header's buffers outlive the call.
        if unsafe { libc::recvmsg(socket, header, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel filled the header in; a descriptor in it is new and nobody else's.
        unsafe {
            let first = libc::CMSG_FIRSTHDR(header);
            if first.is_null() || (*first).cmsg_type != libc::SCM_RIGHTS {
                return Err(io::Error::other("a message without a descriptor"));
            }
            Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned()))
        }
    })
}

/// Lets go on what has waited for as long as the disk takes, until nobody is left to ask.
fn serve(listener: &OwnedFd, state: &State) -> io::Result<()> {
    let mut waiting: Vec<(u64, BootTime)> = Vec::new();
    loop {
        let timeout = if waiting.is_empty() { -1 } else { STEP_MS };
        let mut ready = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, for the length of the call.
        if unsafe { libc::poll(&raw mut ready, 1, timeout) } < 0 {
            match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            }
        }
        if ready.revents & libc::POLLIN != 0 {
            if let Some(id) = next(listener)? {
                state.asked.fetch_add(1, Ordering::AcqRel);
                waiting.push((id, clock::now()));
            }
        } else if ready.revents & (libc::POLLHUP | libc::POLLERR) != 0 {
            state.done.fetch_add(waiting.len() as u64, Ordering::AcqRel);
            return Ok(());
        }
        let (takes, now) = (state.takes_ns.load(Ordering::Acquire), clock::now());
        let over =
            |since: BootTime| takes != NEVER && now.since(since) >= Duration::from_nanos(takes);
        for &(id, _) in waiting.iter().filter(|(_, since)| over(*since)) {
            go_on(listener, id)?;
        }
        let before = waiting.len();
        waiting.retain(|(id, since)| !over(*since) && waits(listener, *id));
        state.done.fetch_add((before - waiting.len()) as u64, Ordering::AcqRel);
    }
}

/// Takes what was asked; `None` if who asked was killed meanwhile.
fn next(listener: &OwnedFd) -> io::Result<Option<u64>> {
    // SAFETY: all zeroes are what the kernel wants to fill in.
    let mut asked: libc::seccomp_notif = unsafe { zeroed() };
    // SAFETY: the value outlives the call.
    let got = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut asked)
    };
    gone(got).map(|there| there.then_some(asked.id))
}

fn go_on(listener: &OwnedFd, id: u64) -> io::Result<()> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the value outlives the call.
    let sent = unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer)
    };
    gone(sent).map(drop)
}

/// Tells whether who asked is there still.
fn waits(listener: &OwnedFd, id: u64) -> bool {
    // SAFETY: the value outlives the call.
    unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0
    }
}

/// Reads a result: `false` if who asked was killed meanwhile.
fn gone(result: libc::c_int) -> io::Result<bool> {
    if result == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(false),
        error => Err(error),
    }
}
