//! When a client asks next.

use crate::monotonic_ns;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use xfi_model::{LoadModel, Pacing, ThinkTime};

/// After a connection that was refused or lost, a client with no think time
/// waits this long, so that a server which is down is not asked in a spin;
/// nanoseconds.
const PAUSE_NS: u64 = 10_000_000;

/// The two random streams of one client: what it asks, and when.
pub(super) fn streams(seed: u64, service: usize, number: u32) -> (ChaCha8Rng, ChaCha8Rng) {
    let stream = |half: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream((service as u64) << 33 | u64::from(number) << 1 | half);
        random
    };
    (stream(0), stream(1))
}

/// The intended starts of one client's requests.
#[derive(Debug)]
pub(super) struct Schedule {
    pacing: Pacing,
    random: ChaCha8Rng,
    /// Mean time between arrivals at this client, open loop alone.
    mean_ns: f64,
    next_ns: u64,
}

impl Schedule {
    /// The schedule of a client; its first request is within the ramp-up.
    pub(super) fn new(load: &LoadModel, mut random: ChaCha8Rng, start_ns: u64) -> Self {
        let mean_ns = match load.pacing {
            Pacing::Closed { .. } => 0.0,
            Pacing::Open { rate_per_s } => 1e9 * f64::from(load.clients) / rate_per_s,
        };
        let offset_ns = random.next_u64() % load.ramp_up_ns.max(1);
        let mut schedule = Schedule {
            pacing: load.pacing,
            random,
            mean_ns,
            next_ns: start_ns.saturating_add(offset_ns),
        };
        if mean_ns > 0.0 {
            // A Poisson process has no arrival at its very beginning.
            schedule.next_ns += schedule.exponential(mean_ns);
        }
        schedule
    }

    /// When the next request is meant to start.
    pub(super) fn next_ns(&self) -> u64 {
        self.next_ns
    }

    /// Goes on after a request that ended at `end_ns`, `lost` when its
    /// connection was.
    pub(super) fn advance(&mut self, end_ns: u64, lost: bool) {
        match self.pacing {
            Pacing::Closed {
                think_ns,
                distribution,
            } => {
                let think_ns = match distribution {
                    ThinkTime::Fixed => think_ns,
                    ThinkTime::Exponential => self.exponential(think_ns as f64),
                };
                let least_ns = if lost { PAUSE_NS } else { 0 };
                self.next_ns = end_ns.saturating_add(think_ns.max(least_ns));
            }
            Pacing::Open { .. } => {
                self.next_ns = self.next_ns.saturating_add(self.exponential(self.mean_ns));
            }
        }
    }

    /// How many arrivals before `until_ns` have not been asked for: those of an
    /// open loop whose client was busy to the end.
    pub(super) fn unsent(mut self, until_ns: u64) -> u64 {
        let mut unsent = 0;
        if let Pacing::Open { .. } = self.pacing {
            while self.next_ns < until_ns {
                unsent += 1;
                self.advance(0, false);
            }
        }
        unsent
    }

    fn exponential(&mut self, mean_ns: f64) -> u64 {
        // 53 random bits: uniform on (0, 1].
        let uniform = ((self.random.next_u64() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        (-uniform.ln() * mean_ns).round() as u64
    }
}

/// Wakes a client at a moment of `CLOCK_MONOTONIC`. tokio's own timer knows
/// whole milliseconds only, and its lateness would count as latency.
pub(super) struct Alarm(Option<AsyncFd<Fd>>);

struct Fd(TimerFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Alarm {
    pub(super) fn new() -> Self {
        Alarm(None)
    }

    /// Sleeps until `at_ns`; not at all when that is past.
    pub(super) async fn sleep_until(&mut self, at_ns: u64) -> io::Result<()> {
        if at_ns <= monotonic_ns() {
            return Ok(());
        }
        let fd = match &mut self.0 {
            Some(fd) => fd,
            none => none.insert(timer()?),
        };
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns));
        let absolute = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        fd.get_ref().0.set(Expiration::OneShot(at), absolute)?;
        loop {
            let mut guard = fd.readable().await?;
            match guard.try_io(|fd| Ok(fd.get_ref().0.wait()?)) {
                Ok(done) => return done,
                Err(_) => continue,
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for types that change their descriptor; ours does not"
)]
fn timer() -> io::Result<AsyncFd<Fd>> {
    let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
    AsyncFd::new(Fd(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
}
