//! Priority levels and flow schemas, as the objects describe them, in the form requests need.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use http::HeaderValue;
use knarr_registry::Object;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    limits::{Limits, Member, Shares, rebalance},
    matching::Rules,
    metrics::Flow,
    queueset::{QueueSet, Queuing},
    retry::Retry,
};
use crate::{auth::UserInfo, request::Info};

/// The schema and the level of requests that are never limited.
pub const EXEMPT: &str = "exempt";
/// The schema and the level of requests that no other schema means.
pub const CATCH_ALL: &str = "catch-all";

/// A priority level: its requests, and where they wait.
pub struct Level {
    /// Its name.
    pub name: String,
    /// Whether it is never limited.
    pub exempt: bool,
    set: Mutex<QueueSet>,
    /// The most seats one request gets; 0: as many as any.
    one_request: AtomicU32,
    /// What refused clients are told.
    pub retry: Mutex<Retry>,
}

impl Level {
    /// Its requests.
    pub fn set(&self) -> MutexGuard<'_, QueueSet> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The most seats one request gets; 0: as many as any.
    #[must_use]
    pub fn one_request(&self) -> u32 {
        self.one_request.load(Ordering::Relaxed)
    }
}

/// What makes requests of a schema different flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    /// Nothing.
    None,
    /// Who asks.
    ByUser,
    /// The namespace asked for.
    ByNamespace,
}

impl Distinguisher {
    /// Which flow of the schema a request belongs to.
    #[must_use]
    pub fn of<'a>(self, user: &'a UserInfo, info: &'a Info) -> &'a str {
        match self {
            Self::None => "",
            Self::ByUser => &user.name,
            Self::ByNamespace => &info.namespace,
        }
    }
}

/// A flow schema that is in force.
pub struct Schema {
    /// Its name.
    pub name: String,
    precedence: i64,
    rules: Rules,
    /// What makes its requests different flows.
    pub distinguisher: Distinguisher,
    /// Its level.
    pub level: Arc<Level>,
    /// What is counted of it.
    pub flow: Arc<Flow>,
    /// Its uid.
    pub uid: HeaderValue,
    /// Its level's uid.
    pub level_uid: HeaderValue,
}

/// All that is in force.
pub struct Plan {
    /// The schemas in the order in which they are asked.
    schemas: Vec<Arc<Schema>>,
    /// The levels by name.
    pub levels: Vec<Arc<Level>>,
}

impl Plan {
    /// The schema that a request belongs to.
    #[must_use]
    pub fn classify(&self, user: &UserInfo, info: &Info) -> Option<&Arc<Schema>> {
        self.schemas.iter().find(|s| s.rules.match_(user, info)).or_else(|| self.schemas.iter().find(|s| s.name == CATCH_ALL))
    }
}

fn number(v: &Value, member: &str) -> Option<u32> {
    v.get(member).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())
}

/// A level as its object describes it; `None` if it contradicts itself.
fn level(object: &Value) -> Option<(Queuing, Shares)> {
    let spec = object.get("spec")?;
    let part = |m: &str| spec.get(m).filter(|v| !v.is_null());
    let exempt = match (spec.str_at(&["type"]), part("limited"), part("exempt")) {
        ("Limited", Some(_), None) => false,
        ("Exempt", None, Some(_)) => true,
        _ => return None,
    };
    if exempt != (object.name() == EXEMPT) {
        return None;
    }
    let body = part(if exempt { "exempt" } else { "limited" })?;
    let shares = Shares {
        nominal: number(body, "nominalConcurrencyShares").unwrap_or(if exempt { 0 } else { 30 }),
        lendable: number(body, "lendablePercent").unwrap_or(0),
        borrowing: number(body, "borrowingLimitPercent"),
    };
    let queuing = body.at(&["limitResponse", "queuing"]).filter(|v| !v.is_null());
    let queuing = match (exempt, body.str_at(&["limitResponse", "type"]), queuing) {
        (true, ..) => Queuing::Exempt,
        (_, "Reject", None) => Queuing::Reject,
        (_, "Queue", Some(q)) => {
            let n = |m: &str| number(q, m).filter(|n| *n > 0).map(|n| n as usize);
            let (queues, hand, length) = (n("queues")?, n("handSize")?, n("queueLengthLimit")?);
            if hand > queues {
                return None;
            }
            Queuing::Queue { queues, hand, length }
        }
        _ => return None,
    };
    Some((queuing, shares))
}

/// A level's state beyond its requests.
struct Book {
    level: Arc<Level>,
    uid: HeaderValue,
    queuing: Queuing,
    shares: Shares,
    limits: Limits,
    /// Whether its object is gone, and only its last requests are waited for.
    quiescing: bool,
    /// How often it was looked at: not yet if 0.
    fresh: bool,
}

/// All levels, and what was counted of all flows.
pub struct Books {
    server: u32,
    levels: BTreeMap<String, Book>,
    flows: BTreeMap<(String, String), Arc<Flow>>,
    /// The part of its target that each level got when seats were last divided.
    pub fair: f64,
}

fn header(object: &Value) -> HeaderValue {
    HeaderValue::from_str(object.str_at(&["metadata", "uid"])).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Whether a schema's level is there.
pub struct Reference {
    /// The schema's name.
    pub schema: String,
    /// The level's name.
    pub level: String,
    /// Whether it is there.
    pub found: bool,
}

impl Books {
    /// For a server of as many seats; nothing is known yet.
    #[must_use]
    pub fn new(server: u32) -> Self {
        Self { server, levels: BTreeMap::new(), flows: BTreeMap::new(), fair: 0.0 }
    }

    /// Puts objects in force; those of the two mandatory schemas and levels that are missing are
    /// put in the place of. Also says which schemas' levels are there.
    pub fn digest(&mut self, now: Instant, levels: &[Value], schemas: &[Value], mandatory: &(Vec<Value>, Vec<Value>)) -> (Plan, Vec<Reference>) {
        for b in self.levels.values_mut() {
            b.quiescing = true;
        }
        for object in levels {
            match level(object) {
                Some((queuing, shares)) => self.book(now, object, queuing, shares),
                None => tracing::warn!(name = object.name(), "the priority level contradicts itself; it is ignored"),
            }
        }
        let known = |this: &Self, name: &str| this.levels.get(name).is_some_and(|b| !b.quiescing);
        let references: Vec<Reference> = schemas
            .iter()
            .map(|s| {
                let level = s.str_at(&["spec", "priorityLevelConfiguration", "name"]);
                Reference { schema: s.name().to_owned(), level: level.to_owned(), found: known(self, level) }
            })
            .collect();
        for object in &mandatory.1 {
            if !known(self, object.name())
                && let Some((queuing, shares)) = level(object)
            {
                self.book(now, object, queuing, shares);
            }
        }
        self.levels.retain(|_, b| !b.quiescing || !b.level.set().idle());
        self.divide(now);
        let missing = mandatory.0.iter().filter(|m| !references.iter().any(|r| r.found && r.schema == m.name()));
        let mut all: Vec<Arc<Schema>> = schemas.iter().chain(missing).filter_map(|s| self.schema(s)).map(Arc::new).collect();
        all.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        let levels = self.levels.values().map(|b| Arc::clone(&b.level)).collect();
        (Plan { schemas: all, levels }, references)
    }

    fn schema(&mut self, object: &Value) -> Option<Schema> {
        let spec = object.get("spec")?;
        let book = self.levels.get(spec.str_at(&["priorityLevelConfiguration", "name"])).filter(|b| !b.quiescing)?;
        let key = (book.level.name.clone(), object.name().to_owned());
        let flow = self.flows.entry(key).or_insert_with_key(|(l, s)| Arc::new(Flow::new(l, s)));
        Some(Schema {
            name: object.name().to_owned(),
            precedence: spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
            rules: Rules::of(spec),
            distinguisher: match spec.str_at(&["distinguisherMethod", "type"]) {
                "ByUser" => Distinguisher::ByUser,
                "ByNamespace" => Distinguisher::ByNamespace,
                _ => Distinguisher::None,
            },
            level: Arc::clone(&book.level),
            flow: Arc::clone(flow),
            uid: header(object),
            level_uid: book.uid.clone(),
        })
    }

    fn book(&mut self, now: Instant, object: &Value, queuing: Queuing, shares: Shares) {
        let name = object.name();
        let uid = header(object);
        let book = self.levels.entry(name.to_owned()).or_insert_with(|| Book {
            level: Arc::new(Level {
                name: name.to_owned(),
                exempt: queuing == Queuing::Exempt,
                set: Mutex::new(QueueSet::new(now, queuing)),
                one_request: AtomicU32::new(0),
                retry: Mutex::default(),
            }),
            uid: uid.clone(),
            queuing,
            shares,
            limits: Limits::default(),
            quiescing: false,
            fresh: true,
        });
        (book.uid, book.queuing, book.shares, book.quiescing) = (uid, queuing, shares, false);
    }

    /// Gives every level its nominal seats.
    fn divide(&mut self, now: Instant) {
        let sum: f64 = self.levels.values().map(|b| f64::from(b.shares.nominal)).sum();
        for b in self.levels.values_mut() {
            b.limits.configure(self.server, b.shares, sum, b.fresh);
            b.fresh = false;
            let most = if let Queuing::Queue { hand, .. } = b.queuing { b.limits.one_request(u32::try_from(hand).unwrap_or(1)) } else { 0 };
            b.level.one_request.store(most, Ordering::Relaxed);
        }
        self.rebalance(now);
    }

    /// Divides the seats anew by what the levels could use of late. Answers whether a level whose
    /// object is gone has ended its last request.
    pub fn rebalance(&mut self, now: Instant) -> bool {
        let mut members: Vec<Member> = self
            .levels
            .values_mut()
            .map(|b| Member { exempt: b.level.exempt, seen: b.level.set().demand(now), limits: &mut b.limits })
            .collect();
        self.fair = rebalance(&mut members);
        let mut ended = false;
        for b in self.levels.values() {
            let current = b.limits.current;
            let whole = if current > 0 { current } else { (self.server / 10).max(1) };
            let mut set = b.level.set();
            set.configure(now, b.queuing, current, whole);
            ended |= b.quiescing && set.idle();
        }
        ended
    }

    /// How many requests may run and wait in all.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        let waiting = |q: Queuing| if let Queuing::Queue { queues, length, .. } = q { (queues * length) as u64 } else { 0 };
        self.levels.values().fold((0, 0), |(run, wait), b| (run + u64::from(b.limits.nominal), wait + waiting(b.queuing)))
    }

    /// The levels by name, their seats, and whether they end.
    pub fn levels(&self) -> impl Iterator<Item = (&Arc<Level>, &Limits, bool)> {
        self.levels.values().map(|b| (&b.level, &b.limits, b.quiescing))
    }

    /// What was counted of all flows.
    #[must_use]
    pub fn flows(&self) -> Vec<Arc<Flow>> {
        self.flows.values().cloned().collect()
    }
}
