//! Whose turn it is: labs with slow timers run beside each other, others have the machine alone.

use std::{
    cell::RefCell,
    sync::{Arc, Condvar, Mutex, PoisonError, Weak},
    time::Duration,
};

use lab::config::Settings;

/// Who counts less than this for a death would be told of one by a neighbour's start.
const SHARES_FROM: Duration = Duration::from_millis(100);

/// Labs that share the machine, or one that does not.
struct Labs {
    sharing: usize,
    waiting: usize,
    alone: bool,
}

static LABS: Mutex<Labs> = Mutex::new(Labs { sharing: 0, waiting: 0, alone: false });
static CHANGED: Condvar = Condvar::new();

thread_local! {
    /// A test that has several labs has one turn.
    static MINE: RefCell<Weak<Turn>> = const { RefCell::new(Weak::new()) };
}

/// Leave to run a lab, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    alone: bool,
}

impl Turn {
    /// Waits for one that suits `settings`.
    pub(crate) fn of(settings: &Settings) -> Arc<Self> {
        Self::wait(deadtime(settings) < SHARES_FROM)
    }

    /// Waits until no other lab runs.
    pub(crate) fn alone() -> Arc<Self> {
        Self::wait(true)
    }

    fn wait(alone: bool) -> Arc<Self> {
        MINE.with_borrow_mut(|mine| {
            if let Some(turn) = mine.upgrade() {
                return turn;
            }
            let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
            if alone {
                labs.waiting += 1;
                let busy = |labs: &mut Labs| labs.alone || labs.sharing > 0;
                labs = CHANGED.wait_while(labs, busy).unwrap_or_else(PoisonError::into_inner);
                labs.waiting -= 1;
                labs.alone = true;
            } else {
                // Whoever waits to be alone would wait for ever behind those who come later.
                let busy = |labs: &mut Labs| labs.alone || labs.waiting > 0;
                labs = CHANGED.wait_while(labs, busy).unwrap_or_else(PoisonError::into_inner);
                labs.sharing += 1;
            }
            drop(labs);
            let turn = Arc::new(Self { alone });
            *mine = Arc::downgrade(&turn);
            turn
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut labs = LABS.lock().unwrap_or_else(PoisonError::into_inner);
        if self.alone {
            labs.alone = false;
        } else {
            labs.sharing -= 1;
        }
        CHANGED.notify_all();
    }
}

fn deadtime(settings: &Settings) -> Duration {
    let digits = settings.interval.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = settings.interval.split_at(digits);
    let number = number.parse().unwrap();
    let interval = match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        _ => panic!("an interval of {}", settings.interval),
    };
    interval * settings.misses
}
