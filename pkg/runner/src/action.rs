//! What a plan asks the runner to do.

use crate::{EventType, Informers, Kind, Propagation};
use futures::future::BoxFuture;
use std::fmt;
use std::time::Duration;

type Run = Box<dyn FnOnce(Informers) -> BoxFuture<'static, Result<(), kube::Error>> + Send>;

/// One call to be made. Its description says what; tests look at that.
pub struct Action {
    /// For people and tests: verb, kind and key, such as `create Pod default/web-`.
    pub what: String,
    run: Run,
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

fn describe<K: Kind>(verb: &str, o: &K) -> String {
    let m = o.meta();
    let name = m.name.as_deref().or(m.generate_name.as_deref()).unwrap_or("");
    format!("{verb} {} {}/{name}", K::kind(&()), m.namespace.as_deref().unwrap_or(""))
}

impl Action {
    /// Any asynchronous work.
    pub fn call<F, Fut>(what: impl Into<String>, f: F) -> Self
    where
        F: FnOnce(Informers) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), kube::Error>> + Send + 'static,
    {
        Self { what: what.into(), run: Box::new(move |i| Box::pin(f(i))) }
    }
    /// Creates an object.
    pub fn create<K: Kind>(o: K) -> Self {
        Self::call(describe("create", &o), |i| async move { i.create(&o).await.map(drop) })
    }
    /// Replaces an object.
    pub fn update<K: Kind>(o: K) -> Self {
        Self::call(describe("update", &o), |i| async move { i.update(&o).await.map(drop) })
    }
    /// Replaces an object's status.
    pub fn update_status<K: Kind>(o: K) -> Self {
        Self::call(describe("update-status", &o), |i| async move {
            i.update_status(&o).await.map(drop)
        })
    }
    /// Merge-patches an object (`sub` a subresource or empty).
    pub fn merge<K: Kind>(o: &K, sub: &'static str, patch: serde_json::Value) -> Self {
        let m = o.meta();
        let (ns, name) = (crate::meta::ns(m).to_owned(), crate::meta::name(m).to_owned());
        Self::call(describe("patch", o), move |i| async move {
            i.merge::<K>(&ns, &name, sub, patch).await.map(drop)
        })
    }
    /// Deletes an object; one that is gone already counts as deleted.
    pub fn delete<K: Kind>(o: &K, propagation: Option<Propagation>, grace: Option<u32>) -> Self {
        let o = o.clone();
        Self::call(describe("delete", &o), move |i| async move {
            match i.delete(&o, propagation, grace).await {
                Err(e) if crate::is_not_found(&e) => Ok(()),
                other => other,
            }
        })
    }
    /// Records an event.
    pub fn event<K: Kind>(
        component: &'static str,
        about: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        let (about, reason, message) = (about.clone(), reason.to_owned(), message.into());
        Self::call(format!("event {reason}: {message}"), move |i| async move {
            i.recorder().event(component, &about, kind, &reason, message);
            Ok(())
        })
    }
    /// Does it.
    pub async fn run(self, i: Informers) -> Result<(), kube::Error> {
        (self.run)(i).await
    }
}

/// One step of a plan.
#[derive(Debug)]
pub enum Step {
    /// One action.
    One(Action),
    /// All at once.
    All(Vec<Action>),
    /// One, then two, then four, … at once, ending at the first group with a failure: a quota or
    /// an admission that refuses all costs one call, not thousands.
    SlowStart(Vec<Action>),
}

/// What became of the steps.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first error.
    pub error: Option<kube::Error>,
    /// How many actions succeeded.
    pub succeeded: usize,
}

type Finally = Box<dyn FnOnce(&Outcome) -> Vec<Action> + Send>;

/// What a controller wants done for a key.
#[derive(Default)]
pub struct Plan {
    /// In order; the first failure ends them.
    pub steps: Vec<Step>,
    /// Done after the steps also when they failed (status).
    pub finally: Option<Finally>,
    /// Plan again after this time.
    pub requeue_after: Option<Duration>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("steps", &self.steps)
            .field("requeue_after", &self.requeue_after)
            .finish_non_exhaustive()
    }
}

impl Plan {
    /// Nothing to do.
    pub fn none() -> Self {
        Self::default()
    }
    /// Adds an action.
    pub fn push(&mut self, a: Action) {
        self.steps.push(Step::One(a));
    }
    /// With one action.
    pub fn one(a: Action) -> Self {
        Self { steps: vec![Step::One(a)], ..Self::default() }
    }
    /// Asks to be planned again after `d` (the earliest asked for wins).
    pub fn after(&mut self, d: Duration) {
        self.requeue_after = Some(self.requeue_after.map_or(d, |x| x.min(d)));
    }

    /// Executes the plan; the first error is given.
    pub async fn execute(self, i: &Informers) -> Result<(), kube::Error> {
        let mut out = Outcome::default();
        'steps: for step in self.steps {
            let (mut actions, mut size) = match step {
                Step::One(a) => (vec![a], 1),
                Step::All(v) => {
                    let n = v.len().max(1);
                    (v, n)
                }
                Step::SlowStart(v) => (v, 1),
            };
            while !actions.is_empty() {
                let rest = actions.split_off(size.min(actions.len()));
                let group = std::mem::replace(&mut actions, rest);
                let results =
                    futures::future::join_all(group.into_iter().map(|a| a.run(i.clone()))).await;
                for r in results {
                    match r {
                        Ok(()) => out.succeeded += 1,
                        Err(e) => {
                            out.error.get_or_insert(e);
                        }
                    }
                }
                if out.error.is_some() {
                    break 'steps;
                }
                size *= 2;
            }
        }
        if let Some(f) = self.finally {
            for a in f(&out) {
                if let Err(e) = a.run(i.clone()).await {
                    out.error.get_or_insert(e);
                }
            }
        }
        out.error.map_or(Ok(()), Err)
    }
}
