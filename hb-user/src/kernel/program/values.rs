//! Writing and reading the maps that are not mapped into memory.

use aya::maps::{Array, HashMap, PerCpuArray};
use hb_ebpf::{
    gate::{Bounce, COUNTS, Claims, MAX_MACS, Settings, Vip},
    lease::Terms,
    maps::{self, Path, PeerKeys, SLOTS},
    refusal::COUNTERS,
};
use zerocopy::{FromBytes, IntoBytes};

use super::{Counters, Kernel, KernelError};
use crate::id::{LinkId, NodeId};

/// Counters of a service address, by [`hb_ebpf::gate::Count`].
pub type GateCounters = [u64; COUNTS];

impl Kernel {
    /// Sets where frames of `link` to `peer` may come from.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_path(&mut self, peer: NodeId, link: LinkId, path: &Path) -> Result<(), KernelError> {
        let slot = maps::slot(peer.0, link.0).ok_or(KernelError::Missing("slot"))?;
        self.set::<{ size_of::<Path>() }>("PATHS", slot, path.as_bytes())
    }

    /// Sets the keys shared with `peer`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_keys(&mut self, peer: NodeId, keys: &PeerKeys) -> Result<(), KernelError> {
        let index = maps::peer_index(peer.0).ok_or(KernelError::Missing("peer"))?;
        self.set::<{ size_of::<PeerKeys>() }>("KEYS", index, keys.as_bytes())
    }

    /// Sets how long leases last and who votes.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_terms(&mut self, terms: &Terms) -> Result<(), KernelError> {
        self.set::<{ size_of::<Terms>() }>("TERMS", 0, terms.as_bytes())
    }

    /// Returns the terms that are there; all zero where there were none yet.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn terms(&self) -> Result<Terms, KernelError> {
        const MAP: &str = "TERMS";
        let failed = |source| KernelError::Map { map: MAP, step: "read", source: Box::new(source) };
        let found = self.ebpf.map(MAP).ok_or(KernelError::Missing(MAP))?;
        let array: Array<_, [u8; size_of::<Terms>()]> = found.try_into().map_err(failed)?;
        let bytes = array.get(&0, 0).map_err(failed)?;
        Terms::read_from_bytes(&bytes).map_err(|_| KernelError::Missing(MAP))
    }

    fn set<const N: usize>(
        &mut self,
        map: &'static str,
        index: u32,
        value: &[u8],
    ) -> Result<(), KernelError> {
        let value: [u8; N] = value.try_into().map_err(|_| KernelError::Missing(map))?;
        let failed = |source| KernelError::Map { map, step: "write", source: Box::new(source) };
        let found = self.ebpf.map_mut(map).ok_or(KernelError::Missing(map))?;
        let mut array: Array<_, [u8; N]> = found.try_into().map_err(failed)?;
        array.set(index, value, 0).map_err(failed)
    }

    /// Returns the counters of refused frames of one link, or of those that named none.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn refused(&self, slot: Option<(NodeId, LinkId)>) -> Result<Counters, KernelError> {
        let slot = match slot {
            Some((peer, link)) => maps::slot(peer.0, link.0).ok_or(KernelError::Missing("slot"))?,
            None => SLOTS as u32,
        };
        let mut sum = [0u64; COUNTERS];
        for counters in self.per_cpu::<Counters>("REFUSED", slot)? {
            for (sum, count) in sum.iter_mut().zip(counters) {
                *sum += count;
            }
        }
        Ok(sum)
    }

    /// Returns how many events did not fit into the ring.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn lost_events(&self) -> Result<u64, KernelError> {
        Ok(self.per_cpu::<u64>("LOST", 0)?.into_iter().sum())
    }

    fn per_cpu<V: aya::Pod>(&self, map: &'static str, index: u32) -> Result<Vec<V>, KernelError> {
        let failed = |source| KernelError::Map { map, step: "read", source: Box::new(source) };
        let found = self.ebpf.map(map).ok_or(KernelError::Missing(map))?;
        let array: PerCpuArray<_, V> = found.try_into().map_err(failed)?;
        Ok(array.get(&index, 0).map_err(failed)?.to_vec())
    }

    /// Sets what the gate does. Set the service addresses after it: only then is known again which
    /// addresses are none.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_gate(&mut self, settings: &Settings) -> Result<(), KernelError> {
        self.set::<{ size_of::<Settings>() }>("GATE", 0, settings.as_bytes())
    }

    /// Sets which addresses are none of ours, and leaves the mode as it is.
    pub(in crate::kernel) fn set_absent(&mut self, absent: u32) -> Result<(), KernelError> {
        const MAP: &str = "GATE";
        let failed = |source| KernelError::Map { map: MAP, step: "read", source: Box::new(source) };
        let found = self.ebpf.map(MAP).ok_or(KernelError::Missing(MAP))?;
        let array: Array<_, [u8; size_of::<Settings>()]> = found.try_into().map_err(failed)?;
        let bytes = array.get(&0, 0).map_err(failed)?;
        let settings: Settings = zerocopy::transmute!(bytes);
        self.set_gate(&Settings { absent, ..settings })
    }

    /// Replaces the service addresses of one family, each `N` bytes in network byte order. One that
    /// stays is gated all the while.
    pub(in crate::kernel) fn replace_vips<const N: usize>(
        &mut self,
        map: &'static str,
        vips: &[([u8; N], Vip)],
    ) -> Result<(), KernelError>
    where
        [u8; N]: aya::Pod,
    {
        let failed = |source| KernelError::Map { map, step: "write", source: Box::new(source) };
        let found = self.ebpf.map_mut(map).ok_or(KernelError::Missing(map))?;
        let mut entries: HashMap<_, [u8; N], [u8; 4]> = found.try_into().map_err(failed)?;
        for (address, vip) in vips {
            let value: [u8; 4] = zerocopy::transmute!(*vip);
            entries.insert(address, value, 0).map_err(failed)?;
        }
        let present: Vec<_> = entries.keys().collect::<Result<_, _>>().map_err(failed)?;
        for address in present {
            if !vips.iter().any(|(wanted, _)| *wanted == address) {
                entries.remove(&address).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Sets the MAC addresses of this node's own interfaces; what is beyond [`MAX_MACS`] is left out. A claim
    /// from one of them is not somebody else's.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_macs(&mut self, macs: &[[u8; 6]]) -> Result<(), KernelError> {
        const MAP: &str = "MACS";
        let failed =
            |source| KernelError::Map { map: MAP, step: "write", source: Box::new(source) };
        let macs = macs.get(..MAX_MACS).unwrap_or(macs);
        let found = self.ebpf.map_mut(MAP).ok_or(KernelError::Missing(MAP))?;
        let mut entries: HashMap<_, [u8; 6], u8> = found.try_into().map_err(failed)?;
        let present: Vec<_> = entries.keys().collect::<Result<_, _>>().map_err(failed)?;
        for gone in present.iter().filter(|mac| !macs.contains(mac)) {
            entries.remove(gone).map_err(failed)?;
        }
        for new in macs.iter().filter(|mac| !present.contains(mac)) {
            entries.insert(new, 1, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Returns how many packets were behind more tags than the gate looks behind.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn buried(&self) -> Result<u64, KernelError> {
        Ok(self.per_cpu::<u64>("BURIED", 0)?.into_iter().sum())
    }

    /// Sets where packets for service address `number` are sent on to.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn set_bounce(&mut self, number: u8, bounce: &Bounce) -> Result<(), KernelError> {
        self.set::<{ size_of::<Bounce>() }>("BOUNCES", number.into(), bounce.as_bytes())
    }

    /// Returns the counters of service address `number`.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn gate_counters(&self, number: u8) -> Result<GateCounters, KernelError> {
        let mut sum = [0; COUNTS];
        for counters in self.per_cpu::<GateCounters>("GATED", number.into())? {
            for (sum, count) in sum.iter_mut().zip(counters) {
                *sum += count;
            }
        }
        Ok(sum)
    }

    /// Returns who claimed service address `number` last while this node served it.
    ///
    /// # Errors
    ///
    /// [`KernelError::Map`].
    pub fn claims(&self, number: u8) -> Result<Claims, KernelError> {
        const MAP: &str = "CLAIMS";
        let failed = |source| KernelError::Map { map: MAP, step: "read", source: Box::new(source) };
        let found = self.ebpf.map(MAP).ok_or(KernelError::Missing(MAP))?;
        let array: Array<_, [u8; size_of::<Claims>()]> = found.try_into().map_err(failed)?;
        let bytes = array.get(&u32::from(number), 0).map_err(failed)?;
        Claims::read_from_bytes(&bytes).map_err(|_| KernelError::Missing(MAP))
    }
}
