//! One line on a terminal's stderr while probes run; nothing elsewhere.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

pub(super) struct Progress {
    shown: bool,
    probes: AtomicU64,
    results: AtomicU64,
    started: Instant,
    drawn: Mutex<Option<Instant>>,
}

impl Progress {
    pub(super) fn new(shown: bool) -> Self {
        Self {
            shown,
            probes: AtomicU64::new(0),
            results: AtomicU64::new(0),
            started: Instant::now(),
            drawn: Mutex::new(None),
        }
    }

    /// So many more probes are about to be sent.
    pub(super) fn expect(&self, probes: u64) {
        self.probes.fetch_add(probes, Ordering::Relaxed);
    }

    /// One more probe has a result.
    pub(super) fn result(&self) {
        let results = self.results.fetch_add(1, Ordering::Relaxed) + 1;
        self.say(&format!(
            "{results} of {} probes answered for, {:.0} s",
            self.probes.load(Ordering::Relaxed),
            self.started.elapsed().as_secs_f64()
        ));
    }

    /// What is going on, at most four times a second.
    pub(super) fn say(&self, what: &str) {
        let Ok(mut drawn) = self.drawn.lock() else {
            return;
        };
        if self.shown && drawn.is_none_or(|at| at.elapsed() >= Duration::from_millis(250)) {
            let _ = write!(std::io::stderr(), "\r\x1b[K{what}");
            *drawn = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
