//! Running the programs on packets that nobody sent.

use std::os::fd::{AsFd, BorrowedFd};

use aya::programs::{SchedClassifier, TestRun, TestRunOptions, Xdp};
use zerocopy::IntoBytes;

use super::{Kernel, KernelError, Way};
use crate::kernel::owner::HEARS;

impl Kernel {
    /// Runs the attached program on `packet` as if it had arrived by the interface of index
    /// `interface`, on the CPU at hand. Maps change and events come as for a real one; nothing is
    /// sent. Returns the program's verdict (`XDP_*` of `linux/bpf.h`) and the packet it left.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`] if the packet is shorter than an Ethernet header or longer than a
    /// page, or if the calling thread's network namespace has no such interface.
    pub fn run_packet(&self, packet: &[u8], interface: u32) -> Result<(u32, Vec<u8>), KernelError> {
        const PROGRAM: &str = "heartbeat";
        let program: &Xdp = self
            .ebpf
            .program(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Missing(PROGRAM))?;
        // `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let context = [0, packet.len() as u32, 0, interface, 0, 0];
        let mut left = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut left),
            ctx_in: Some(context.as_bytes()),
            ..TestRunOptions::new()
        };
        let done = program.test_run(options).map_err(|source| KernelError::Program {
            program: PROGRAM,
            source: Box::new(source),
        })?;
        left.truncate(done.data_size_out as usize);
        Ok((done.return_value, left))
    }

    /// Runs the program that hears heartbeats in traffic control as [`run_packet`](Self::run_packet) runs the
    /// other one. Returns the verdict (`TC_ACT_*`, or `TCX_NEXT` as -1) and the packet it left.
    ///
    /// # Errors
    ///
    /// As for [`run_packet`](Self::run_packet), and if the kernel does not take the program.
    pub fn run_late(
        &mut self,
        packet: &[u8],
        interface: u32,
    ) -> Result<(i32, Vec<u8>), KernelError> {
        let failed = |source| KernelError::Program { program: HEARS, source };
        let program = self.tcx.program().map_err(failed)?;
        // `struct __sk_buff`: `ifindex` is its eleventh word.
        let mut context = [0; 11];
        context[10] = interface;
        let mut left = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut left),
            ctx_in: Some(context.as_bytes()),
            ..TestRunOptions::new()
        };
        let done = program.test_run(options).map_err(|source| failed(Box::new(source)))?;
        left.truncate(done.data_size_out as usize);
        Ok((done.return_value.cast_signed(), left))
    }

    /// Returns a loaded program, for whoever looks at it or runs it with a system call of their own.
    ///
    /// # Errors
    ///
    /// [`KernelError::Missing`] if there is none of that name, or it is not loaded.
    pub fn program_fd(&self, name: &'static str) -> Result<BorrowedFd<'_>, KernelError> {
        let program = self.ebpf.program(name).ok_or(KernelError::Missing(name))?;
        program.fd().map(AsFd::as_fd).map_err(|_| KernelError::Missing(name))
    }

    /// Runs the gate of what leaves (`way` [`Way::Out`]), or of what arrives where no heartbeats are
    /// heard, on `packet`, as [`run_packet`](Self::run_packet) does. Returns the verdict (`TC_ACT_*`,
    /// or `TCX_NEXT` as -1) and the packet it left.
    ///
    /// # Errors
    ///
    /// [`KernelError::Program`] if the packet is shorter than its headers.
    pub fn run_gate(&self, way: Way, packet: &[u8]) -> Result<(i32, Vec<u8>), KernelError> {
        let name = way.program();
        let program: &SchedClassifier = self
            .ebpf
            .program(name)
            .and_then(|program| program.try_into().ok())
            .ok_or(KernelError::Missing(name))?;
        let mut left = vec![0; packet.len()];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut left),
            ..TestRunOptions::new()
        };
        let done = program
            .test_run(options)
            .map_err(|source| KernelError::Program { program: name, source: Box::new(source) })?;
        left.truncate(done.data_size_out as usize);
        Ok((done.return_value.cast_signed(), left))
    }
}
