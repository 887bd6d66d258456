//! What a seed decides before anything happens: the cluster, its parameters, what goes wrong, and
//! what clients do.
//!
//! *Invariants.* Every number of a run comes from here, or from the generator that follows.

use std::time::Duration;

use base::{MemberId, Rng};
use storage::{bolt, wal};
use store::StoreOptions;
use worker::bootstrap::FileOptions;

/// Voters that a cluster may begin with.
const FOUNDERS: [u64; 12] = [1, 2, 3, 3, 3, 3, 3, 3, 3, 5, 5, 7];

/// How a member runs: small, so that everything happens often.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// Entries between two snapshots on disk.
    pub snapshot_count: u64,
    /// Entries that stay in memory behind them.
    pub catchup_entries: u64,
    /// Segments and snapshot files that are kept.
    pub kept: (usize, usize),
    /// Rows in a slice of a compaction.
    pub compaction_batch: usize,
    /// Bytes of pages in memory.
    pub cache_bytes: usize,
    /// Whether what remains of leases is noted in the log.
    pub checkpoints: bool,
}

impl Settings {
    /// Draws one.
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            segment_bytes: *rng.pick(&[16 << 10, 32 << 10, 64 << 10]),
            snapshot_count: 15 + rng.below(100),
            catchup_entries: 5 + rng.below(50),
            kept: (1 + small(rng, 3), 1 + small(rng, 3)),
            compaction_batch: 3 + small(rng, 60),
            cache_bytes: *rng.pick(&[1 << 14, 1 << 17, 1 << 20]),
            checkpoints: rng.one_in(4),
        }
    }

    /// How it keeps its files.
    pub fn files(&self) -> FileOptions {
        FileOptions {
            wal: wal::Options { segment_bytes: self.segment_bytes, sync: true },
            database: bolt::Options {
                cache_bytes: self.cache_bytes,
                sync: true,
                ..bolt::Options::default()
            },
        }
    }

    /// How it keeps its state.
    pub fn store(&self, member: MemberId) -> StoreOptions {
        StoreOptions {
            member,
            quota_bytes: None,
            compaction_batch: self.compaction_batch,
            learners_max: 1,
            ..StoreOptions::default()
        }
    }
}

fn small(rng: &mut Rng, bound: u64) -> usize {
    usize::try_from(rng.below(bound)).unwrap_or(0)
}

/// How fast a member's parts are when nothing is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest time that a write of the log takes.
    pub log: Duration,
    /// The longest time that applying a portion takes.
    pub apply: Duration,
    /// The longest time that a commit of the database takes.
    pub commit: Duration,
}

impl Pace {
    fn draw(rng: &mut Rng) -> Self {
        let micros = |rng: &mut Rng, choices: &[u64]| Duration::from_micros(*rng.pick(choices));
        Self {
            log: micros(rng, &[200, 2_000, 10_000]),
            apply: micros(rng, &[50, 500, 5_000]),
            commit: micros(rng, &[500, 5_000, 50_000]),
        }
    }
}

/// Mean times between faults of a kind; `None` for never.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// A member's process ends between two operations of its disk; sometimes the power goes.
    pub crash: Option<Duration>,
    /// Links are cut, one way or both, or mended.
    pub cut: Option<Duration>,
    /// A member is stopped as an operator would.
    pub stop: Option<Duration>,
    /// A member's process is suspended for a while.
    pub pause: Option<Duration>,
    /// The members change.
    pub change: Option<Duration>,
    /// Leadership is moved.
    pub transfer: Option<Duration>,
    /// A disk does not answer for a while.
    pub stall: Option<Duration>,
    /// A disk is full for a while.
    pub full: Option<Duration>,
    /// A sync, and with it the machine, fails.
    pub sync_error: Option<Duration>,
    /// A write fails, half done.
    pub write_error: Option<Duration>,
    /// What a disk holds is damaged while its member is down.
    pub rot: Option<Duration>,
    /// A clock jumps ahead.
    pub jump: Option<Duration>,
    /// Applying takes long for a while.
    pub slow_apply: Option<Duration>,
    /// The power of all members goes at once.
    pub blackout: Option<Duration>,
}

/// What a network does to messages.
#[derive(Debug, Clone, Copy)]
pub struct Network {
    /// One message in so many is lost; 0 for none.
    pub lose_one_in: u64,
    /// One message in so many comes twice; 0 for none.
    pub repeat_one_in: u64,
    /// One message in so many is held back and overtaken; 0 for none.
    pub reorder_one_in: u64,
    /// One message in so many finds its connection broken; 0 for none.
    pub reset_one_in: u64,
    /// The longest delay of what is not held back.
    pub delay: Duration,
}

impl Network {
    /// One that does no harm.
    pub const QUIET: Self = Self {
        lose_one_in: 0,
        repeat_one_in: 0,
        reorder_one_in: 0,
        reset_one_in: 0,
        delay: Duration::from_millis(1),
    };

    fn draw(rng: &mut Rng) -> Self {
        Self {
            lose_one_in: *rng.pick(&[0, 0, 200, 40, 15]),
            repeat_one_in: *rng.pick(&[0, 50]),
            reorder_one_in: *rng.pick(&[0, 20, 100]),
            reset_one_in: *rng.pick(&[0, 100, 400]),
            delay: Duration::from_millis(*rng.pick(&[1, 1, 5, 30])),
        }
    }
}

/// What clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients that read and write keys.
    pub clients: u32,
    /// Clients that watch.
    pub watchers: u32,
    /// Clients that keep leases alive.
    pub keepers: u32,
    /// Calls of all clients together.
    pub calls: u64,
    /// The longest time between an answer and the next call of a client.
    pub think: Duration,
    /// Keys that are fought for.
    pub keys: u64,
}

impl Load {
    fn draw(rng: &mut Rng) -> Self {
        let count = |rng: &mut Rng, bound| u32::try_from(rng.below(bound)).unwrap_or(0);
        Self {
            clients: 4 + count(rng, 9),
            watchers: 1 + count(rng, 5),
            keepers: 1 + count(rng, 2),
            calls: 700 + rng.below(500),
            think: Duration::from_millis(*rng.pick(&[2, 10, 40])),
            keys: *rng.pick(&[4, 24, 48]),
        }
    }
}

/// A run, before anything happens.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What decides everything after this.
    pub seed: u64,
    /// Voters at the beginning.
    pub founders: u64,
    /// Members at once, at most.
    pub members_max: usize,
    /// Ticks of 100 ms without a leader before an election.
    pub election_ticks: u32,
    /// Whether candidates ask first.
    pub pre_vote: bool,
    /// How every member's parts run; one is drawn for each.
    pub settings: Vec<Settings>,
    /// How fast they are.
    pub paces: Vec<Pace>,
    /// By how much clocks drift at most, in millionths.
    pub drift_ppm: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// What the network does.
    pub network: Network,
    /// What clients do.
    pub load: Load,
}

/// The length of a tick.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

impl Plan {
    /// What `seed` decides.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let founders = *rng.pick(&FOUNDERS);
        let settings = (0..8).map(|_| Settings::draw(rng)).collect();
        let paces = (0..8).map(|_| Pace::draw(rng)).collect();
        Self {
            seed: rng.next_u64(),
            founders,
            members_max: usize::try_from(founders).unwrap_or(1).max(3) + small(rng, 3),
            election_ticks: *rng.pick(&[10, 10, 10, 5, 20]),
            pre_vote: !rng.one_in(8),
            settings,
            paces,
            drift_ppm: *rng.pick(&[0, 100, 20_000]),
            faults: Self::draw_faults(rng),
            network: if rng.one_in(4) { Network::QUIET } else { Network::draw(rng) },
            load: Load::draw(rng),
        }
    }

    fn draw_faults(rng: &mut Rng) -> Faults {
        let mut mean = |seconds: &[u64]| match *rng.pick(seconds) {
            0 => None,
            seconds => Some(Duration::from_secs(seconds)),
        };
        Faults {
            crash: mean(&[0, 3, 8]),
            cut: mean(&[0, 3, 8]),
            stop: mean(&[0, 0, 10]),
            pause: mean(&[0, 0, 6]),
            change: mean(&[0, 2, 5]),
            transfer: mean(&[0, 3, 8]),
            stall: mean(&[0, 0, 8]),
            full: mean(&[0, 0, 0, 10]),
            sync_error: mean(&[0, 0, 0, 15]),
            write_error: mean(&[0, 0, 0, 15]),
            rot: mean(&[0, 0, 3]),
            jump: mean(&[0, 0, 10]),
            slow_apply: mean(&[0, 0, 5]),
            blackout: mean(&[0, 0, 0, 8]),
        }
    }

    /// A cluster of `founders` in which nothing goes wrong by itself: for scenarios.
    pub fn quiet(seed: u64, founders: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rng = &mut rng;
        let pace = Pace {
            log: Duration::from_millis(1),
            apply: Duration::from_micros(100),
            commit: Duration::from_millis(5),
        };
        Self {
            seed: rng.next_u64(),
            founders,
            members_max: 7,
            election_ticks: 10,
            pre_vote: true,
            settings: (0..8).map(|_| Settings::draw(rng)).collect(),
            paces: vec![pace; 8],
            drift_ppm: 0,
            faults: Faults::default(),
            network: Network::QUIET,
            load: Load { calls: 0, watchers: 0, keepers: 0, ..Load::draw(rng) },
        }
    }
}
