//! The switch: a namespace with one bridge per network and a program on every port, so that a
//! cut is a memory store. The only file of the lab that names aya.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fmt::Write as _,
    io,
    ops::Deref,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::Map,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType, Xdp, XdpMode, tc::TcAttachOptions, xdp::XdpLinkId,
    },
};
use hb_ebpf::{
    ports::{MAX_PORTS, Port},
    time::BootTime,
};

use crate::{
    addresses::{LINKS, Link, Machine, NODES},
    clock,
    netns::Netns,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!("../kernel/hb-switch.bpf.o");
/// Names another build of the object, to be tried instead of the embedded one.
const OBJECT_VARIABLE: &str = "HB_SWITCH_OBJECT";

/// Which packets of a port are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the machine sends.
    FromMachine,
    /// What is sent to the machine.
    ToMachine,
    /// All.
    Both,
}

/// Interface index of each port.
type Ports = BTreeMap<(Machine, Link), u32>;
/// What holds the program on each port for what comes in.
type Held = BTreeMap<(Machine, Link), XdpLinkId>;

/// The switch of a lab, its machines plugged in.
pub struct Switch {
    wires: Wires,
    held: Held,
    /// Holds the programs on their ports.
    programs: Ebpf,
    netns: Netns,
}

impl Switch {
    /// Builds bridges and cables between `netns`, empty so far, and the namespaces of `machines`,
    /// configures the addresses and puts the program on each port.
    ///
    /// # Errors
    ///
    /// If `ip` or the kernel refuses a step, named in the error.
    pub fn build(netns: Netns, machines: &[(Machine, &Netns)]) -> Result<Self> {
        netns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        let mut bridges = String::new();
        for link in LINKS {
            writeln!(
                bridges,
                "link add {0} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
                 link set {0} up",
                link.bridge()
            )?;
        }
        netns.ip_batch(&bridges)?;
        for &(machine, inside) in machines {
            plug(&netns, machine, inside)?;
        }
        let names: Vec<_> = machines
            .iter()
            .flat_map(|&(machine, _)| machine.links().iter().map(move |&link| (machine, link)))
            .collect();
        let (programs, ports, held) = netns.enter(|| attach(&names))??;
        let wires = Wires { ports, table: Arc::new(Table::map(&programs)?) };
        Ok(Self { wires, held, programs, netns })
    }

    /// Takes the program for what a machine sends off its port. A native `XDP_TX` of the machine
    /// is lost from then on, as with a driver that takes a program and does not send for it; and
    /// a cut of the port only holds what is sent to the machine.
    ///
    /// # Errors
    ///
    /// If there is none, or the kernel refuses.
    pub fn lose_native_answers(&mut self, machine: Machine, link: Link) -> Result<()> {
        let port = port_name(machine, link);
        let held = self
            .held
            .remove(&(machine, link))
            .with_context(|| format!("no program is held on {port}"))?;
        let xdp: &mut Xdp = self
            .programs
            .program_mut("switch_in")
            .context("the switch object has no program switch_in")?
            .try_into()?;
        xdp.detach(held).with_context(|| format!("cannot take switch_in off {port}"))
    }

    /// Returns the switch's namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Returns the wires, for whoever cuts them from another thread.
    #[must_use]
    pub fn wires(&self) -> &Wires {
        &self.wires
    }

    /// Returns whether the nodes are certain to hear each other both ways on some link, as far as the
    /// switch can tell.
    #[must_use]
    pub fn connects_nodes(&self) -> bool {
        LINKS.iter().any(|&link| {
            NODES.into_iter().all(|node| {
                self.port(node, link).is_some_and(|port| {
                    port.drop_in == 0
                        && port.drop_out == 0
                        && port.loss == 0
                        && port.deaf_to & bit(node.peer()) == 0
                })
            })
        })
    }
}

/// Returns the bit of a machine in [`Port::deaf_to`].
const fn bit(machine: Machine) -> u32 {
    1 << machine.id()
}

impl Deref for Switch {
    type Target = Wires;

    fn deref(&self) -> &Wires {
        &self.wires
    }
}

/// What can be cut: the ports and what drops on each.
#[derive(Clone)]
pub struct Wires {
    ports: Ports,
    table: Arc<Table>,
}

impl Wires {
    /// Cuts every port of `machine`, both ways, in one instant.
    ///
    /// Returns the time just before the first store. The stores take some tens of nanoseconds
    /// all together; a packet that a program was looking at meanwhile may still pass.
    pub fn cut(&self, machine: Machine) -> BootTime {
        self.store(machine, LINKS.as_slice(), Direction::Both, true)
    }

    /// Undoes every cut of `machine`. Returns the time just before the first store.
    pub fn heal(&self, machine: Machine) -> BootTime {
        self.store(machine, LINKS.as_slice(), Direction::Both, false)
    }

    /// Parts `machine` from each of `others`: neither hears the other on any link, while all else
    /// goes on. Replaces what it was parted from before; none joins it again. Returns the time just
    /// before the first store.
    pub fn part(&self, machine: Machine, others: &[Machine]) -> BootTime {
        let at = clock::now();
        for (&(owner, _), &index) in &self.ports {
            let before = self.table.read(index).deaf_to;
            let deaf_to = if owner == machine {
                others.iter().fold(0, |mask, other| mask | bit(*other))
            } else if others.contains(&owner) {
                before | bit(machine)
            } else {
                before & !bit(machine)
            };
            self.table.write_deaf_to(index, deaf_to);
        }
        at
    }

    /// Cuts one port, perhaps one way only. Returns the time just before the store; does nothing
    /// on a port that does not exist.
    pub fn cut_link(&self, machine: Machine, link: Link, direction: Direction) -> BootTime {
        self.store(machine, &[link], direction, true)
    }

    /// Undoes a cut of one port, perhaps one way only. Returns the time just before the store.
    pub fn heal_link(&self, machine: Machine, link: Link, direction: Direction) -> BootTime {
        self.store(machine, &[link], direction, false)
    }

    /// Loses each packet to `machine` by itself with this chance, on every link, in whole percent; 0
    /// loses none.
    pub fn lose(&self, machine: Machine, percent: u32) {
        let loss = (u64::from(u32::MAX) * u64::from(percent.min(100)) / 100) as u32;
        for (&(owner, _), &index) in &self.ports {
            if owner == machine {
                self.table.write_loss(index, loss);
            }
        }
    }

    /// Returns what a port has counted and what it drops, or `None` for one that does not exist.
    #[must_use]
    pub fn port(&self, machine: Machine, link: Link) -> Option<Port> {
        self.ports.get(&(machine, link)).map(|&index| self.table.read(index))
    }

    fn store(
        &self,
        machine: Machine,
        links: &[Link],
        direction: Direction,
        drop: bool,
    ) -> BootTime {
        let mut indexes = [0; LINKS.len()];
        let mut count = 0;
        for link in links {
            if let Some(&index) = self.ports.get(&(machine, *link)) {
                indexes[count] = index;
                count += 1;
            }
        }
        let at = clock::now();
        for &index in &indexes[..count] {
            self.table.write(index, direction, drop);
        }
        at
    }
}

fn plug(switch: &Netns, machine: Machine, inside: &Netns) -> Result<()> {
    // The client's neighbour settings stay ordinary: it is the judge. Duplicate address detection
    // would only delay the start.
    for scope in ["all", "default"] {
        inside.sysctl(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        inside.sysctl(&format!("ipv6/conf/{scope}/dad_transmits"), "0")?;
        inside.sysctl(&format!("ipv6/conf/{scope}/router_solicitations"), "0")?;
    }
    let mut outer = String::new();
    let mut inner = String::new();
    for &link in machine.links() {
        let port = port_name(machine, link);
        writeln!(
            outer,
            "link add {port} type veth peer name {interface} address {mac} netns {netns}\n\
             link set {port} master {bridge} up",
            interface = link.interface(),
            mac = machine.mac(link),
            netns = inside.name(),
            bridge = link.bridge(),
        )?;
        let interface = link.interface();
        writeln!(inner, "link set {interface} up")?;
        writeln!(inner, "address add {}/24 dev {interface}", machine.v4(link))?;
        if link == Link::Client {
            writeln!(inner, "address add {}/64 dev {interface} nodad", machine.v6())?;
        }
    }
    switch.ip_batch(&outer)?;
    inside.ip_batch(&inner)
}

/// Returns the name of the port of a machine, an interface of the switch's namespace.
#[must_use]
pub fn port_name(machine: Machine, link: Link) -> String {
    match machine {
        Machine::Client => "client".into(),
        // Also `w-client`: the witness is plugged in as a node is.
        node => format!("{node}-{}", link.name()),
    }
}

/// Loads the program and attaches it; to be called inside the switch's namespace.
fn attach(names: &[(Machine, Link)]) -> Result<(Ebpf, Ports, Held)> {
    let other = match std::env::var_os(OBJECT_VARIABLE) {
        Some(path) => Some(
            std::fs::read(&path)
                .with_context(|| format!("cannot read {}", path.to_string_lossy()))?,
        ),
        None => None,
    };
    let mut held = BTreeMap::new();
    let mut programs = EbpfLoader::new()
        .load(other.as_deref().unwrap_or(OBJECT))
        .context("cannot load the switch program (needs CAP_BPF and CAP_NET_ADMIN)")?;
    {
        let xdp: &mut Xdp = programs
            .program_mut("switch_in")
            .context("the switch object has no program switch_in")?
            .try_into()?;
        xdp.load().context("the kernel refused program switch_in")?;
        for &(machine, link) in names {
            let name = port_name(machine, link);
            let link_id = xdp
                .attach(&name, XdpMode::Driver)
                .with_context(|| format!("cannot attach switch_in to {name} in driver mode"))?;
            held.insert((machine, link), link_id);
        }
    }
    {
        let egress: &mut SchedClassifier = programs
            .program_mut("switch_out")
            .context("the switch object has no program switch_out")?
            .try_into()?;
        egress.load().context("the kernel refused program switch_out")?;
        for &(machine, link) in names {
            let name = port_name(machine, link);
            egress
                .attach_with_options(
                    &name,
                    TcAttachType::Egress,
                    TcAttachOptions::TcxOrder(LinkOrder::default()),
                )
                .with_context(|| format!("cannot attach switch_out to {name} (needs Linux 6.6)"))?;
        }
    }
    let mut ports = BTreeMap::new();
    for &(machine, link) in names {
        let name = port_name(machine, link);
        let text = CString::new(name.as_str())?;
        // SAFETY: the string ends in zero.
        let index = unsafe { libc::if_nametoindex(text.as_ptr()) };
        ensure!(
            index > 0 && (index as usize) < MAX_PORTS,
            "interface index {index} of {name} is not between 1 and {MAX_PORTS}"
        );
        ports.insert((machine, link), index);
    }
    Ok((programs, ports, held))
}

/// The map `PORTS`, mapped.
struct Table {
    ports: NonNull<Port>,
}

// SAFETY: the memory belongs to the kernel's map and is mapped until the drop; every access is
// volatile and of one field, so threads may share it.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

const TABLE_BYTES: usize = MAX_PORTS * size_of::<Port>();

impl Table {
    fn map(programs: &Ebpf) -> Result<Self> {
        let map = programs.map("PORTS").context("the switch object has no map PORTS")?;
        let Map::Array(data) = map else {
            anyhow::bail!("map PORTS of the switch object is not an array");
        };
        // SAFETY: a fresh mapping of a file descriptor that is open; it outlives the descriptor.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                TABLE_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map PORTS");
        }
        let ports = NonNull::new(address.cast()).context("PORTS was mapped at address zero")?;
        Ok(Self { ports })
    }

    fn port(&self, index: u32) -> *mut Port {
        assert!((index as usize) < MAX_PORTS, "port {index} is outside the table");
        // SAFETY: the index is inside the mapping, by the line above.
        unsafe { self.ports.as_ptr().add(index as usize) }
    }

    fn write(&self, index: u32, direction: Direction, drop: bool) {
        let port = self.port(index);
        // SAFETY: `port` lies in the mapping; the kernel only reads these two fields.
        unsafe {
            if direction != Direction::ToMachine {
                (&raw mut (*port).drop_in).write_volatile(u32::from(drop));
            }
            if direction != Direction::FromMachine {
                (&raw mut (*port).drop_out).write_volatile(u32::from(drop));
            }
        }
    }

    fn write_deaf_to(&self, index: u32, mask: u32) {
        // SAFETY: the port lies in the mapping; the kernel only reads this field.
        unsafe { (&raw mut (*self.port(index)).deaf_to).write_volatile(mask) };
    }

    fn write_loss(&self, index: u32, loss: u32) {
        // SAFETY: the port lies in the mapping; the kernel only reads this field.
        unsafe { (&raw mut (*self.port(index)).loss).write_volatile(loss) };
    }

    fn read(&self, index: u32) -> Port {
        // SAFETY: `port` lies in the mapping and any bytes are a `Port`.
        unsafe { self.port(index).read_volatile() }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: mapped with this length by `map`, and nothing refers to it any more.
        unsafe { libc::munmap(self.ports.as_ptr().cast(), TABLE_BYTES) };
    }
}
