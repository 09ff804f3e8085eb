//! A peer's timer: armed, due, judged. The only `bpf_timer` calls.

use core::{
    ffi::c_void,
    ptr::{addr_of, addr_of_mut},
};

use aya_ebpf::{
    bindings::{bpf_spin_lock, bpf_timer},
    helpers::{
        bpf_spin_lock as lock, bpf_spin_unlock as unlock, bpf_timer_init, bpf_timer_set_callback,
        bpf_timer_start,
    },
    programs::XdpContext,
};
use hb_ebpf::{
    deadline::{self, Others},
    gather::Gathered,
    maps::{EventKind, Life, Link, MAX_LINKS, PeerTimer, Request, peer_index},
};

use crate::{clock, maps, report};

const CLOCK_MONOTONIC: u64 = 1;
const EBUSY: i64 = -16;
/// A controller older than this (and than its deadtime) is gone, and nobody reads our verdicts.
const ABANDONED_NS: u64 = 1_000_000_000;

fn request(ctx: &XdpContext) -> Option<Request> {
    let start = ctx.data();
    if start + size_of::<Request>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the check above keeps the whole request inside the packet; it takes any content.
    Some(unsafe { *(start as *const Request) })
}

/// Begins the watch and starts the timer.
#[inline(always)]
pub(crate) fn arm(ctx: &XdpContext) -> Option<()> {
    let request = request(ctx)?;
    let index = peer_index(request.peer)?;
    let due = begin(index, request.forget)?;
    let slot = maps::TIMERS.get_ptr_mut(index)?;
    // SAFETY: the element outlives the program; the kernel serialises what happens to a timer.
    let refused = unsafe {
        let timer = addr_of_mut!((*slot).timer).cast::<bpf_timer>();
        let map = addr_of!(maps::TIMERS).cast_mut().cast::<c_void>();
        // Busy: a timer of an earlier daemon, found in pinned maps.
        match bpf_timer_init(timer, map, CLOCK_MONOTONIC) {
            0 | EBUSY => match bpf_timer_set_callback(timer, on_due as *mut c_void) {
                0 => bpf_timer_start(timer, due, 0),
                error => error,
            },
            error => error,
        }
    };
    if refused != 0 {
        aya_log_ebpf::warn!(ctx, "no timer for node {}: error {}", request.peer, refused);
        return None;
    }
    Some(())
}

/// Begins the watch without a timer.
#[inline(always)]
pub(crate) fn watch(ctx: &XdpContext) -> Option<()> {
    let request = request(ctx)?;
    begin(peer_index(request.peer)?, request.forget).map(|_| ())
}

/// Judges once.
#[inline(always)]
pub(crate) fn judge(ctx: &XdpContext) -> Option<()> {
    let request = request(ctx)?;
    tick(peer_index(request.peer)?).map(|_| ())
}

/// Returns the time to the first deadline.
#[inline(always)]
fn begin(index: u32, forget: u8) -> Option<u64> {
    let guard = maps::LOCKS.get_ptr_mut(index)?;
    let peer = maps::PEERS.get_ptr_mut(index)?;
    // SAFETY: the elements outlive the program, and the lock guards them against other CPUs.
    unsafe {
        // A peer without timing would keep its timer firing without a pause.
        if (*peer).timing.interval_ns == 0 {
            return None;
        }
        let now = clock::now();
        let held = addr_of_mut!((*guard).lock).cast::<bpf_spin_lock>();
        lock(held);
        let peer = &mut *peer;
        peer.count_sequence();
        peer.started_ns = now;
        peer.watched = 1;
        peer.misses = 0;
        peer.doubt_since_ns = 0;
        if forget != 0 {
            peer.life = Life::Unheard as u8;
            peer.links_up = 0;
        }
        let interval = peer.timing.interval_ns;
        peer.due_ns = now + interval;
        peer.count_sequence();
        unlock(held);
        Some(interval)
    }
}

/// The timer callback; runs in softirq.
unsafe extern "C" fn on_due(_: *mut c_void, key: *mut u32, slot: *mut PeerTimer) -> i64 {
    // SAFETY: the kernel hands the callback the key and the element that its timer lives in.
    unsafe {
        if let Some(sleep) = tick(*key) {
            bpf_timer_start(addr_of_mut!((*slot).timer).cast::<bpf_timer>(), sleep, 0);
        }
    }
    0
}

/// Decides for one peer, writes what was decided and tells the daemon. Returns how long to sleep,
/// or `None` to stop.
#[inline(always)]
fn tick(index: u32) -> Option<u64> {
    let node = maps::NODE.get(0)?;
    let guard = maps::LOCKS.get_ptr_mut(index)?;
    let peer = maps::PEERS.get_ptr_mut(index)?;
    let now = clock::now();
    let age = now.saturating_sub(node.controller_stamp_ns);
    let abandoned = age > ABANDONED_NS && age > node.controller_deadtime_ns;
    // SAFETY: the element outlives the program; one byte.
    let others = others(unsafe { (*peer).buddy }, now);
    let links = [0, 1, 2, 3].map(|link| maps::LINKS.get_ptr_mut(index * MAX_LINKS as u32 + link));
    // SAFETY: the elements outlive the program, and the lock guards them against other CPUs.
    let (decision, before, life, first, links_lost) = unsafe {
        let held = addr_of_mut!((*guard).lock).cast::<bpf_spin_lock>();
        lock(held);
        let peer = &mut *peer;
        let mut links_lost = Gathered::none_yet(&mut (*guard).gathered);
        let before = peer.life;
        let decision = deadline::decide(peer, others, now);
        let first = peer.misses == 0 && decision.misses > 0;
        peer.count_sequence();
        if abandoned {
            peer.watched = 0;
        } else {
            peer.life = decision.life as u8;
            peer.misses = decision.misses;
            peer.misses_total += u64::from(decision.new_misses);
            peer.doubts_total += u64::from(decision.new_doubts);
            peer.doubt_since_ns = decision.doubt_since_ns;
            peer.due_ns = decision.due_ns;
            if decision.life as u8 == Life::Dead as u8 && before != Life::Dead as u8 {
                peer.cause = decision.cause as u8;
                peer.verdict_ns = now;
                peer.deaths_total += 1;
                peer.links_up = 0;
            } else {
                silent_links(&links, peer.links_up, peer.timing.dead_ns, now, &mut links_lost);
                peer.links_up &= !links_lost.get() as u8;
            }
        }
        peer.count_sequence();
        // Out of the map again, for the reason that links are gathered in one.
        let life = addr_of!(peer.life).read_volatile();
        let links_lost = links_lost.get();
        unlock(held);
        (decision, before, life, first, links_lost)
    };
    let id = index as u8 + 1;
    if abandoned {
        report::push(report::event(EventKind::Unwatched, id, 0, now));
        return None;
    }
    if life != before {
        let kind = match Life::from_code(life) {
            Life::Dead => Some(EventKind::Dead),
            Life::Late => Some(EventKind::Late),
            Life::Alive | Life::Unheard => None,
        };
        if let Some(kind) = kind {
            let mut event = report::event(kind, id, 0, now);
            event.cause = decision.cause as u8;
            event.silence_ns = decision.silence_ns;
            if let EventKind::Dead = kind {
                event.due_ns = decision.verdict_due_ns;
            }
            report::push(event);
        }
    }
    if first && life != Life::Dead as u8 {
        report::push(report::event(EventKind::Missed, id, 0, now));
    }
    if links_lost != 0 {
        report::push(report::event(EventKind::Link, id, links_lost.trailing_zeros() as u8, now));
    }
    Some(decision.due_ns.saturating_sub(now))
}

/// Adds a bit for each link of `up` whose last arrival is older than `patience`.
#[inline(always)]
fn silent_links(
    links: &[Option<*mut Link>; MAX_LINKS],
    up: u8,
    patience: u64,
    now: u64,
    lost: &mut Gathered<'_>,
) {
    for (index, link) in links.iter().enumerate() {
        if let Some(link) = link
            && up & (1 << index) != 0
        {
            // SAFETY: the element outlives the program; its words are guarded by the peer's lock.
            let last = unsafe { (**link).last_arrival_ns };
            if now.saturating_sub(last) >= patience {
                lost.add(1 << index);
            }
        }
    }
}

/// Asks the peer's buddy whether we still hear anything.
#[inline(always)]
fn others(buddy: u8, now: u64) -> Others {
    let Some(buddy) = peer_index(buddy).and_then(|index| maps::PEERS.get(index)) else {
        return Others::None;
    };
    let alive = matches!(Life::from_code(buddy.life), Life::Alive | Life::Late);
    if buddy.watched == 0 || !alive {
        Others::None
    } else if now.saturating_sub(buddy.last_arrival_ns) <= 2 * buddy.timing.interval_ns {
        Others::Fresh
    } else {
        Others::Overdue
    }
}
