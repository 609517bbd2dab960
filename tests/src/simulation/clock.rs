//! A machine's wall clock, which goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rebootlock::clock::Clock;
use rebootlock::record::UnixTime;
use tokio::time::Instant;

use super::Dice;

/// When it really is as a simulation begins: in November 2026.
const BEGINNING: i64 = 1_795_000_000;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A clock that is wrong by so many seconds.
#[derive(Debug, Clone)]
pub struct WallClock {
    began: Instant,
    wrong_by: Arc<AtomicI64>,
}

impl WallClock {
    /// One that may be wrong from the start.
    pub fn new(dice: &Dice) -> Self {
        let clock = Self { began: Instant::now(), wrong_by: Arc::default() };
        clock.jump(dice);
        clock
    }

    /// Is set anew, forwards or backwards, by somebody who may know the time. How wrong it is now.
    pub fn jump(&self, dice: &Dice) -> i64 {
        let up_to = |most: i64| i64::from(dice.below(2 * most as u32 + 1)) - most;
        let wrong_by = match dice.below(7) {
            0 | 1 => 0,
            2 => up_to(120),
            3 => up_to(3 * HOUR),
            4 => up_to(400 * DAY),
            // What clocks without a battery say.
            5 => -BEGINNING + i64::from(dice.below(100)),
            // The year 9999.
            _ => 253_402_300_799 - BEGINNING,
        };
        self.wrong_by.store(wrong_by, Ordering::Relaxed);
        wrong_by
    }

    /// For whoever dates documents on this machine.
    pub fn clock(&self) -> Clock {
        let (began, wrong_by) = (self.began, self.wrong_by.clone());
        Clock::new(move || {
            let since = i64::try_from(began.elapsed().as_secs()).unwrap_or(i64::MAX);
            UnixTime(BEGINNING + since + wrong_by.load(Ordering::Relaxed))
        })
    }
}
