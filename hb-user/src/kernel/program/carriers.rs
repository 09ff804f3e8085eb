//! The program that tells of a lost carrier before the kernel does.

use std::{fs, os::unix::fs::MetadataExt};

use aya::{Btf, EbpfLoader, programs::FEntry};

use super::{Kernel, KernelError, describe};
use crate::kernel::btf::{self, Types};

/// The program, and the function of the kernel that it stands before.
const PROGRAM: &str = "carrier_lost";
const FUNCTION: &str = "netif_carrier_off";

/// The network namespace of the thread; its inode number is what the kernel calls `ns.inum`
/// (namespaces(7)).
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// What the program has to be told of this kernel before it is loaded.
pub(super) struct Traced {
    namespace: u64,
    device_ifindex: u64,
    device_net: u64,
    net_inum: u64,
}

impl Traced {
    /// Finds it out.
    ///
    /// # Errors
    ///
    /// Why the program cannot be used here.
    pub(super) fn find() -> Result<Self, String> {
        let namespace = fs::metadata(NAMESPACE)
            .map_err(|error| format!("cannot read {NAMESPACE}: {error}"))?
            .ino();
        let bytes = fs::read(btf::PATH).map_err(|error| {
            format!("this kernel does not tell its types: {}: {error}", btf::PATH)
        })?;
        let unknown = || format!("{} has no {FUNCTION} as it is known", btf::PATH);
        let types = Types::read(&bytes).ok_or_else(unknown)?;
        let ifindex = types.field_of("net_device", "ifindex").ok_or_else(unknown)?;
        // A struct of one pointer.
        let holder = types.field_of("net_device", "nd_net").ok_or_else(unknown)?;
        let net = types.field_in(holder, "net").ok_or_else(unknown)?;
        let space = types.field_in(net, "ns").ok_or_else(unknown)?;
        let inum = types.field_in(space, "inum").ok_or_else(unknown)?;
        Ok(Self {
            namespace,
            device_ifindex: ifindex.offset,
            device_net: holder.offset + net.offset,
            net_inum: space.offset + inum.offset,
        })
    }

    /// Has it written into the object that is loaded.
    pub(super) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("NAMESPACE", &self.namespace, true)
            .override_global("DEVICE_IFINDEX", &self.device_ifindex, true)
            .override_global("DEVICE_NET", &self.device_net, true)
            .override_global("NET_INUM", &self.net_inum, true);
    }
}

impl Kernel {
    /// Has every interface of this network namespace that loses its carrier told of as an event, while
    /// this value lives. Kernels do so that have BTF and BPF trampolines: on x86-64 since 5.5, on ARM64
    /// since 6.0.
    ///
    /// # Errors
    ///
    /// Why this one does not: then the kernel's own notices are left, which may be a second late.
    pub fn hear_carriers(&mut self) -> Result<(), String> {
        self.traced.as_ref().map_err(Clone::clone)?;
        let types = Btf::from_sys_fs().map_err(|error| describe(&error))?;
        let missing = || describe(&KernelError::Missing(PROGRAM));
        let program = self.ebpf.program_mut(PROGRAM).ok_or_else(missing)?;
        let program: &mut FEntry = program.try_into().map_err(|error| describe(&error))?;
        program.load(FUNCTION, &types).map_err(|error| describe(&error))?;
        program.attach().map(drop).map_err(|error| describe(&error))
    }
}
