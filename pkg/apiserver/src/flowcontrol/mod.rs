//! Priority and fairness: whose requests are served first, and how many at a time.
//!
//! # Flow
//! A request is classified by the flow schemas ([`matching`]), which names its priority level and
//! its flow; its seats are estimated ([`work`]); the level's [`queueset`] lets it in, lets it wait
//! its turn among the flows, or refuses it. [`config`] makes all this of the objects, [`limits`]
//! divides the server's seats among the levels, [`maintain`] follows the objects and keeps the
//! bootstrap ones.
//!
//! # Guarantees
//! A request that is let in holds its seats until its [`Pass`] is dropped; one that waits and is
//! given up by its client leaves its queue. Levels are independent: none waits for another's lock.

pub mod config;
mod demand;
mod dump;
mod limits;
pub mod maintain;
mod matching;
mod metrics;
mod page;
mod queueset;
mod retry;
mod seat;
mod watchers;
mod work;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use serde_json::Value;
use tokio::time::Instant;

use self::{
    config::{Books, Plan, Reference, Schema},
    demand::Ratio,
    queueset::{Asked, Start},
    watchers::Watchers,
    work::{Estimate, Stored},
};
use crate::{
    auth::UserInfo,
    core::Core,
    request::{Info, Query},
};

pub use seat::Seat;
pub use watchers::Counted as CountedWatch;

/// The longest that a request waits, whatever its own time is.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Which flow schema and level an answer belongs to, for its headers.
pub struct Marks {
    /// The schema's uid.
    pub schema: HeaderValue,
    /// The level's uid.
    pub level: HeaderValue,
}

/// A request is refused; its client may come again after as many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Seconds.
    pub after: u64,
}

/// A request is let in, until this is dropped.
pub enum Pass<'a> {
    /// It is not counted.
    Free,
    /// It has seats.
    Seat(Seat),
    /// It is one of those that run.
    Counted(Counted<'a>),
}

/// How requests are limited.
pub enum Limiter {
    /// By priority and fairness.
    Fair(Arc<FlowControl>),
    /// By how many run.
    InFlight(InFlight),
}

/// Whether a request changes something.
fn writes(info: &Info) -> bool {
    !matches!(info.verb.as_str(), "get" | "list" | "watch" | "head" | "options")
}

/// Limits of requests that read, and that write.
pub struct InFlight {
    limits: [u32; 2],
    running: [AtomicU64; 2],
}

/// A request that runs.
pub struct Counted<'a>(&'a AtomicU64);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl InFlight {
    fn enter(&self, user: &UserInfo, info: &Info) -> Result<Pass<'_>, Refused> {
        if info.long_running() {
            return Ok(Pass::Free);
        }
        let kind = usize::from(writes(info));
        let now = self.running[kind].fetch_add(1, Ordering::Relaxed) + 1;
        let counted = Counted(&self.running[kind]);
        let limit = self.limits[kind];
        if limit > 0 && now > u64::from(limit) && !user.is_in("system:masters") {
            return Err(Refused { after: 1 });
        }
        Ok(Pass::Counted(counted))
    }
}

impl Limiter {
    /// By priority and fairness if `fair`; `limits` are of requests that read, and that write.
    #[must_use]
    pub fn new(fair: bool, limits: (u32, u32)) -> Self {
        if fair {
            return Self::Fair(Arc::new(FlowControl::new(limits.0.saturating_add(limits.1))));
        }
        Self::InFlight(InFlight { limits: [limits.0, limits.1], running: Default::default() })
    }

    /// A request comes, that may take as long as `limit`. `marks` is set if it is classified.
    ///
    /// # Errors
    /// [`Refused`] if there are no seats for it, in time.
    pub async fn enter(&self, core: &Core, user: &Arc<UserInfo>, info: &Arc<Info>, query: &Query, limit: Option<Duration>, marks: &mut Option<Marks>) -> Result<Pass<'_>, Refused> {
        match self {
            Self::InFlight(l) => l.enter(user, info),
            Self::Fair(_) if info.long_running() && info.verb != "watch" => Ok(Pass::Free),
            Self::Fair(f) => {
                let plan = f.plan();
                let Some(schema) = plan.classify(user, info) else { return Ok(Pass::Free) };
                *marks = Some(Marks { schema: schema.uid.clone(), level: schema.level_uid.clone() });
                let estimate = f.estimate(core, schema, info, query);
                let wait = (limit.unwrap_or(core.settings.request_timeout) / 4).min(LONGEST_WAIT);
                f.admit(schema, user, info, estimate, wait).await.map(Pass::Seat)
            }
        }
    }

    /// Counts a watch among those that are told of writes.
    #[must_use]
    pub fn watches(&self, info: &Info, query: &Query) -> Option<CountedWatch> {
        match self {
            Self::Fair(f) => f.watchers.register(info, query),
            Self::InFlight(_) => None,
        }
    }

    /// Requests that run: those that read, and those that write.
    #[must_use]
    pub fn running(&self) -> [u64; 2] {
        match self {
            Self::Fair(f) => {
                let kinds = locked(&f.kinds);
                [kinds[0].executing.count, kinds[1].executing.count]
            }
            Self::InFlight(l) => [0, 1].map(|i| l.running[i].load(Ordering::Relaxed)),
        }
    }

    /// Priority and fairness, if that is how requests are limited.
    #[must_use]
    pub fn fair(&self) -> Option<&Arc<FlowControl>> {
        match self {
            Self::Fair(f) => Some(f),
            Self::InFlight(_) => None,
        }
    }
}

/// Requests of a kind and phase, over time.
struct Phase {
    count: u64,
    ratio: Ratio,
}

impl Phase {
    fn new(now: Instant) -> Self {
        Self { count: 0, ratio: Ratio::new(now, metrics::KIND_RATIOS) }
    }
    #[allow(clippy::cast_precision_loss)]
    fn change(&mut self, now: Instant, more: bool) {
        self.count = if more { self.count + 1 } else { self.count.saturating_sub(1) };
        self.ratio.set(now, self.count as f64);
    }
}

/// Requests of a kind.
struct Kind {
    waiting: Phase,
    executing: Phase,
}

/// Priority and fairness of one server.
pub struct FlowControl {
    plan: RwLock<Arc<Plan>>,
    books: Mutex<Books>,
    mandatory: (Vec<Value>, Vec<Value>),
    hash: RandomState,
    /// Watches that run.
    pub watchers: Arc<Watchers>,
    kinds: Mutex<[Kind; 2]>,
}

fn locked<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FlowControl {
    /// For a server of as many seats, with the mandatory schemas and levels alone.
    #[must_use]
    pub fn new(server: u32) -> Self {
        let now = Instant::now();
        let mandatory = maintain::mandatory();
        let mut books = Books::new(server);
        let (plan, _) = books.digest(now, &[], &[], &mandatory);
        let kind = || Kind { waiting: Phase::new(now), executing: Phase::new(now) };
        Self {
            plan: RwLock::new(Arc::new(plan)),
            books: Mutex::new(books),
            mandatory,
            hash: RandomState::new(),
            watchers: Arc::default(),
            kinds: Mutex::new([kind(), kind()]),
        }
    }

    /// What is in force.
    #[must_use]
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts objects in force; says which schemas' levels are there.
    #[allow(clippy::cast_precision_loss)]
    pub fn configure(&self, levels: &[Value], schemas: &[Value]) -> Vec<Reference> {
        let now = Instant::now();
        let mut books = locked(&self.books);
        let (plan, references) = books.digest(now, levels, schemas, &self.mandatory);
        let (run, wait) = books.capacity();
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(plan);
        drop(books);
        for k in locked(&self.kinds).iter_mut() {
            k.waiting.ratio.of(now, wait as f64);
            k.executing.ratio.of(now, run as f64);
        }
        references
    }

    /// Divides the seats anew; answers whether a level has ended that is to go.
    #[must_use]
    pub fn rebalance(&self) -> bool {
        locked(&self.books).rebalance(Instant::now())
    }

    fn estimate(&self, core: &Core, schema: &Schema, info: &Info, query: &Query) -> Estimate {
        let level = schema.level.one_request();
        let estimate = match info.verb.as_str() {
            "watch" if !query.flag("sendInitialEvents") && !matches!(query.get("resourceVersion"), "" | "0") => Estimate::plain(1),
            "list" | "watch" => {
                let limit = query.get("limit").parse().unwrap_or(0);
                stored(core, info).map_or(Estimate::plain(1), |s| work::list(s, !info.name.is_empty(), limit, level))
            }
            // A token of an account changes nothing.
            "create" if info.resource == "serviceaccounts" && info.subresource == "token" => Estimate::plain(1),
            "create" | "update" | "patch" | "delete" => {
                let watchers = self.watchers.interested(info);
                schema.flow.watches.observe(u64::from(watchers));
                work::write(watchers, level)
            }
            _ => Estimate::plain(1),
        };
        schema.flow.estimated.observe(u64::from(estimate.seats()));
        estimate
    }

    async fn admit(self: &Arc<Self>, schema: &Schema, user: &Arc<UserInfo>, info: &Arc<Info>, estimate: Estimate, wait: Duration) -> Result<Seat, Refused> {
        let arrived = Instant::now();
        let level = &schema.level;
        let hash = self.hash.hash_one((schema.name.as_str(), schema.distinguisher.of(user, info)));
        let asked = Asked { flow: Arc::clone(&schema.flow), user: Arc::clone(user), info: Arc::clone(info), by: schema.distinguisher, estimate, arrived };
        let kind = usize::from(writes(info));
        let started = {
            let mut set = level.set();
            let started = set.start(arrived, asked, hash);
            seat::alarm(level, set.alarm());
            started
        };
        let (slot, now) = match started {
            Start::Run(slot) => (Some(slot), arrived),
            Start::Refused(_) => (None, arrived),
            Start::Wait(place) => {
                let _waits = seat::Waits::begin(self, kind, arrived);
                let slot = seat::Turn::new(level, place).wait(arrived + wait).await;
                (slot, Instant::now())
            }
        };
        if !level.exempt {
            schema.flow.waited(slot.is_some(), now.saturating_duration_since(arrived));
        }
        match slot {
            Some(slot) => Ok(Seat::new(self, level, &schema.flow, slot, now, kind, info.verb == "watch")),
            None => Err(Refused { after: locked(&level.retry).refused(now_in_seconds()) }),
        }
    }

    /// A request of this kind (1: that writes) begins or ends to wait, or to run.
    fn count(&self, now: Instant, kind: usize, phase: fn(&mut Kind) -> &mut Phase, more: bool) {
        if let Some(k) = locked(&self.kinds).get_mut(kind) {
            phase(k).change(now, more);
        }
    }
}

/// What is stored of the resource that is asked for; `None` if this server stores none of it.
fn stored(core: &Core, info: &Info) -> Option<Stored> {
    let table = core.table();
    let cache = &table.kind(table.catalog.lookup(&info.group, &info.version, &info.resource)?)?.cache;
    Some(Stored { objects: cache.len() as u64, bytes: cache.bytes() as u64 })
}

fn now_in_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
