//! Jobs: pods that run to their end, so many times.

mod indexes;
mod policy;
mod ttl;

pub use ttl::TtlAfterFinished;

use crate::claim::claim;
use crate::pods;
use crate::workloads::replicas::{delete_pod, watch_pods};
use indexes::Indexes;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use knarr_runner::meta::{self, Key, Labels};
use knarr_runner::{
    Action, Cache, Controller, EventType, Informers, Plan, Queue, Step, message,
};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const COMPONENT: &str = "job-controller";
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// The Job controller.
pub struct Jobs {
    jobs: Arc<Cache<Job>>,
    pods: Arc<Cache<Pod>>,
}

fn matches(j: &Job, l: Option<&Labels>) -> bool {
    j.spec
        .as_ref()
        .and_then(|s| s.selector.as_ref())
        .is_some_and(|s| !meta::selector_is_empty(s) && meta::selects(s, l))
}

pub(crate) fn condition<'a>(j: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    j.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind && c.status == "True")
}

/// The condition that says a job has ended.
pub(crate) fn finished(j: &Job) -> Option<&JobCondition> {
    condition(j, "Complete").or_else(|| condition(j, "Failed"))
}

fn tracked(p: &Pod) -> bool {
    p.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

fn untrack(p: &Arc<Pod>) -> Action {
    let p = p.clone();
    Action::call(format!("untrack Pod {}", meta::name(&p.metadata)), move |i| async move {
        let left: Vec<&String> =
            p.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
        let patch = serde_json::json!({"metadata": {
            "uid": p.metadata.uid, "resourceVersion": p.metadata.resource_version,
            "finalizers": left}});
        match i.merge::<Pod>(meta::ns(&p.metadata), meta::name(&p.metadata), "", patch).await {
            Err(e) if knarr_runner::is_not_found(&e) => Ok(()),
            Err(e) => Err(e),
            Ok(o) => {
                // The last finalizer of a pod being deleted was its end.
                let gone = meta::deleting(&o.metadata)
                    && o.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)
                    && o.metadata.deletion_grace_period_seconds == Some(0);
                if gone {
                    i.get::<Pod>().observe_deleted(
                        meta::ns(&o.metadata),
                        meta::name(&o.metadata),
                        meta::uid(&o.metadata),
                    );
                }
                Ok(())
            }
        }
    })
}

fn index_of(p: &Pod) -> Option<i32> {
    meta::annotation(&p.metadata, INDEX).and_then(|i| i.parse().ok())
}

fn make_pod(j: &Job, index: Option<i32>, failures: Option<i32>) -> Option<Pod> {
    let spec = j.spec.as_ref()?;
    let name = match index {
        Some(i) => format!("{}-{i}", meta::name(&j.metadata)),
        None => meta::name(&j.metadata).to_owned(),
    };
    let mut p =
        pods::from_template(&spec.template, meta::ns(&j.metadata), &name, meta::owner_ref(j));
    p.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
    if let Some(i) = index {
        let a = p.metadata.annotations.get_or_insert_default();
        a.insert(INDEX.into(), i.to_string());
        if let Some(f) = failures {
            a.insert(FAILURES.into(), f.to_string());
        }
        p.metadata.labels.get_or_insert_default().insert(INDEX.into(), i.to_string());
        if let Some(s) = &mut p.spec {
            s.hostname = Some(name);
            let env = EnvVar {
                name: "JOB_COMPLETION_INDEX".into(),
                value_from: Some(EnvVarSource {
                    field_ref: Some(ObjectFieldSelector {
                        api_version: None,
                        field_path: format!("metadata.labels['{INDEX}']"),
                    }),
                    ..EnvVarSource::default()
                }),
                value: None,
            };
            for c in s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten()) {
                let e = c.env.get_or_insert_default();
                if !e.iter().any(|x| x.name == env.name) {
                    e.push(env.clone());
                }
            }
        }
    }
    Some(p)
}

fn create(j: &Arc<Job>, pod: Pod) -> Action {
    let j = j.clone();
    Action::call("create Pod", move |i| async move {
        let r = i.recorder().clone();
        match i.create(&pod).await {
            Ok(p) => {
                let text = format!("Created pod: {}", meta::name(&p.metadata));
                r.event(COMPONENT, j.as_ref(), EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(e) => {
                let text = format!("Error creating: {}", message(&e));
                r.event(COMPONENT, j.as_ref(), EventType::Warning, "FailedCreate", text);
                Err(e)
            }
        }
    })
}

fn new_condition(kind: &str, status: &str, reason: &str, text: &str, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(text.into()),
        last_probe_time: Some(meta::time(now)),
        last_transition_time: Some(meta::time(now)),
    }
}

fn size(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// When a pod's containers ended.
fn ended_at(p: &Pod) -> Option<Timestamp> {
    p.status
        .as_ref()
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref().map(|t| t.0))
        .max()
        .or_else(|| {
            pods::condition(p, "Ready")
                .and_then(|c| c.last_transition_time.as_ref())
                .map(|t| t.0)
        })
}

/// One look at a job.
struct Look<'a> {
    job: &'a Arc<Job>,
    now: Timestamp,
    st: JobStatus,
    active: Vec<Arc<Pod>>,
    terminating: usize,
    /// Pods whose end is to be counted and who are then let go.
    release: Vec<Arc<Pod>>,
    failed: i32,
    succeeded: i32,
    /// Indexes done and given up, for indexed jobs.
    done: Indexes,
    given_up: Indexes,
    fail_now: Option<(String, String)>,
}

impl<'a> Look<'a> {
    fn spec<T>(&self, f: impl FnOnce(&k8s_openapi::api::batch::v1::JobSpec) -> Option<T>) -> Option<T> {
        self.job.spec.as_ref().and_then(f)
    }
    fn indexed(&self) -> bool {
        self.spec(|s| s.completion_mode.clone()).as_deref() == Some("Indexed")
    }
    fn only_failed_replaced(&self) -> bool {
        let explicit = self.spec(|s| s.pod_replacement_policy.clone());
        explicit.as_deref() == Some("Failed") || self.spec(|s| s.pod_failure_policy.as_ref().map(|_| ())).is_some()
    }

    fn new(job: &'a Arc<Job>, owned: &[Arc<Pod>], now: Timestamp) -> Self {
        let st = job.status.clone().unwrap_or_default();
        let mut l = Look {
            job,
            now,
            active: Vec::new(),
            terminating: 0,
            release: Vec::new(),
            failed: st.failed.unwrap_or(0),
            succeeded: st.succeeded.unwrap_or(0),
            done: Indexes::parse(st.completed_indexes.as_deref().unwrap_or("")),
            given_up: Indexes::parse(st.failed_indexes.as_deref().unwrap_or("")),
            fail_now: None,
            st,
        };
        l.count(owned);
        l
    }

    fn count(&mut self, owned: &[Arc<Pod>]) {
        let held: HashSet<&str> =
            owned.iter().filter(|p| tracked(p)).map(|p| meta::uid(&p.metadata)).collect();
        let un = self.st.uncounted_terminated_pods.get_or_insert_default();
        let settle = |v: &mut Option<Vec<String>>| {
            let all = v.take().unwrap_or_default();
            let (keep, gone): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|u| held.contains(u.as_str()));
            *v = Some(keep).filter(|k| !k.is_empty());
            size(gone.len())
        };
        let (s, f) = (settle(&mut un.succeeded), settle(&mut un.failed));
        self.failed += f;
        let indexed = self.indexed();
        if !indexed {
            self.succeeded += s;
        }
        let only_failed = self.only_failed_replaced();
        let deleted_is_failed = !only_failed;
        for p in owned {
            let uid = meta::uid(&p.metadata).to_owned();
            let ok = pods::phase(p) == "Succeeded";
            let bad = pods::phase(p) == "Failed"
                || (!ok && meta::deleting(&p.metadata) && deleted_is_failed);
            if !ok && meta::deleting(&p.metadata) && pods::phase(p) != "Failed" {
                self.terminating += 1;
            }
            if !ok && !bad {
                if !meta::deleting(&p.metadata) {
                    self.active.push(p.clone());
                }
                continue;
            }
            if !tracked(p) {
                continue;
            }
            self.release.push(p.clone());
            if ok && indexed {
                if let Some(i) = index_of(p) {
                    self.done.insert(i);
                }
                continue;
            }
            if bad {
                match policy::verdict(self.job, p) {
                    Some(policy::Verdict::Ignore) => continue,
                    Some(policy::Verdict::FailIndex) => {
                        if let Some(i) = index_of(p) {
                            self.given_up.insert(i);
                        }
                    }
                    Some(policy::Verdict::FailJob(text)) => {
                        self.fail_now.get_or_insert(("PodFailurePolicy".into(), text));
                    }
                    _ => {}
                }
            }
            let un = self.st.uncounted_terminated_pods.get_or_insert_default();
            let list = if ok { &mut un.succeeded } else { &mut un.failed };
            let list = list.get_or_insert_default();
            if !list.contains(&uid) {
                list.push(uid);
            }
        }
        if indexed {
            self.succeeded = self.done.len();
            if let Some(limit) = self.spec(|s| s.backoff_limit_per_index) {
                let mut fails: BTreeMap<i32, i32> = BTreeMap::new();
                for p in owned.iter().filter(|p| pods::phase(p) == "Failed") {
                    if let Some(i) = index_of(p) {
                        let ignored =
                            matches!(policy::verdict(self.job, p), Some(policy::Verdict::Ignore));
                        *fails.entry(i).or_default() += i32::from(!ignored);
                    }
                }
                for (i, n) in fails {
                    if n > limit && !self.done.contains(i) {
                        self.given_up.insert(i);
                    }
                }
            }
        }
    }

    fn pending(&self) -> (i32, i32) {
        let un = self.st.uncounted_terminated_pods.as_ref();
        let n = |v: Option<&Vec<String>>| size(v.map_or(0, Vec::len));
        (
            n(un.and_then(|u| u.succeeded.as_ref())),
            n(un.and_then(|u| u.failed.as_ref())),
        )
    }

    /// Why the job is to end, if it is: (condition, reason, message).
    fn verdict(&self) -> Option<(&'static str, String, String)> {
        let (ps, pf) = self.pending();
        let failed = self.failed + pf;
        let fail = |r: &str, t: &str| Some(("FailureTarget", r.to_owned(), t.to_owned()));
        if let Some(c) = condition(self.job, "FailureTarget") {
            let (r, m) = (c.reason.clone(), c.message.clone());
            return Some(("FailureTarget", r.unwrap_or_default(), m.unwrap_or_default()));
        }
        if let Some(c) = condition(self.job, "SuccessCriteriaMet") {
            let (r, m) = (c.reason.clone(), c.message.clone());
            return Some(("SuccessCriteriaMet", r.unwrap_or_default(), m.unwrap_or_default()));
        }
        if let Some((r, t)) = &self.fail_now {
            return fail(r, t);
        }
        let limit = self.spec(|s| s.backoff_limit).unwrap_or(6);
        let restarts: i32 = self
            .active
            .iter()
            .filter_map(|p| p.status.as_ref())
            .flat_map(|s| {
                s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
            })
            .map(|c| c.restart_count)
            .sum();
        let on_failure = self
            .spec(|s| s.template.spec.as_ref().and_then(|p| p.restart_policy.clone()))
            .as_deref()
            == Some("OnFailure");
        let too_often = on_failure && if limit == 0 { restarts > 0 } else { restarts >= limit };
        if failed > limit || too_often {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let deadline = self.spec(|s| s.active_deadline_seconds);
        if let (Some(d), Some(t)) = (deadline, &self.st.start_time) {
            if !self.suspended() && meta::seconds_between(t.0, self.now) >= d as f64 {
                return fail("DeadlineExceeded", "Job was active longer than specified deadline");
            }
        }
        let completions = self.spec(|s| s.completions);
        if self.indexed() {
            let max = self.spec(|s| s.max_failed_indexes);
            if max.is_some_and(|m| self.given_up.len() > m) {
                let t = "Job has exceeded the specified maximal number of failed indexes";
                return fail("MaxFailedIndexesExceeded", t);
            }
            let all = completions.unwrap_or(0);
            if self.given_up.len() > 0 && self.given_up.len() + self.done.len() >= all {
                return fail("FailedIndexes", "Job has failed indexes");
            }
            if let Some(t) = policy::success(self.job, &self.done) {
                return Some(("SuccessCriteriaMet", "SuccessPolicy".into(), t));
            }
        }
        let succeeded = self.succeeded + if self.indexed() { 0 } else { ps };
        let complete = match completions {
            Some(c) => succeeded >= c,
            None => succeeded > 0 && self.active.is_empty() && self.terminating == 0,
        };
        complete.then(|| {
            (
                "SuccessCriteriaMet",
                "CompletionsReached".to_owned(),
                "Reached expected number of succeeded pods".to_owned(),
            )
        })
    }

    fn suspended(&self) -> bool {
        self.spec(|s| s.suspend).unwrap_or(false)
    }

    /// Seconds to wait before a failed pod is replaced.
    fn backoff(&self, owned: &[Arc<Pod>]) -> f64 {
        let last_ok = owned
            .iter()
            .filter(|p| pods::phase(p) == "Succeeded")
            .filter_map(|p| ended_at(p))
            .max();
        let fails: Vec<Timestamp> = owned
            .iter()
            .filter(|p| pods::phase(p) == "Failed")
            .filter_map(|p| ended_at(p))
            .filter(|t| last_ok.is_none_or(|ok| *t > ok))
            .collect();
        let Some(last) = fails.iter().max() else { return 0.0 };
        let n = i32::try_from(fails.len() - 1).unwrap_or(10).min(10);
        let delay = (10.0 * 2f64.powi(n)).min(600.0);
        delay - meta::seconds_between(*last, self.now)
    }

    /// The pods to make now.
    fn missing(&self, owned: &[Arc<Pod>]) -> Vec<Pod> {
        let parallelism = self.spec(|s| s.parallelism).unwrap_or(1);
        let (ps, _) = self.pending();
        let succeeded = self.succeeded + if self.indexed() { 0 } else { ps };
        let mut busy = size(self.active.len());
        if self.only_failed_replaced() {
            busy += size(self.terminating);
        }
        let want = match self.spec(|s| s.completions) {
            Some(c) => parallelism.min((c - succeeded - self.given_up.len()).max(0)),
            None if succeeded > 0 => busy,
            None => parallelism,
        };
        let n = (want - busy).max(0);
        if !self.indexed() {
            return (0..n.min(500)).filter_map(|_| make_pod(self.job, None, None)).collect();
        }
        let taken: HashSet<i32> = self
            .active
            .iter()
            .chain(owned.iter().filter(|p| {
                self.only_failed_replaced() && meta::deleting(&p.metadata) && !pods::finished(p)
            }))
            .filter_map(|p| index_of(p))
            .collect();
        let per_index = self.spec(|s| s.backoff_limit_per_index).is_some();
        (0..self.spec(|s| s.completions).unwrap_or(0))
            .filter(|i| !taken.contains(i) && !self.done.contains(*i) && !self.given_up.contains(*i))
            .take(usize::try_from(n).unwrap_or(0))
            .filter_map(|i| {
                let fails = owned
                    .iter()
                    .filter(|p| pods::phase(p) == "Failed" && index_of(p) == Some(i))
                    .count();
                make_pod(self.job, Some(i), per_index.then_some(size(fails)))
            })
            .collect()
    }
}

impl Jobs {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { jobs: i.get(), pods: i.get() }
    }
}

fn set(st: &mut JobStatus, c: JobCondition) -> bool {
    let list = st.conditions.get_or_insert_default();
    match list.iter_mut().find(|x| x.type_ == c.type_) {
        Some(x) if x.status == c.status => false,
        Some(x) => {
            *x = c;
            true
        }
        None if c.status == "False" => false,
        None => {
            list.push(c);
            true
        }
    }
}

impl Controller for Jobs {
    fn name(&self) -> &'static str {
        COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        watch_pods(&self.jobs, &self.pods, queue, matches);
    }
    fn synced(&self) -> bool {
        self.jobs.has_synced() && self.pods.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let mut plan = Plan::none();
        let Some(job) = self.jobs.by_key(key) else {
            // Pods that outlive their job are held by nobody.
            for p in self.pods.in_namespace(&key.namespace) {
                let o = meta::controller_of(&p.metadata);
                if tracked(&p) && o.is_some_and(|o| o.kind == "Job" && o.name == key.name) {
                    plan.push(untrack(&p));
                }
            }
            return plan;
        };
        if job.spec.as_ref().and_then(|s| s.managed_by.as_deref()).is_some_and(|m| m != "kubernetes.io/job-controller") {
            return plan;
        }
        let gone = meta::deleting(&job.metadata);
        let c = claim(
            &self.pods,
            &key.namespace,
            &meta::owner_ref(job.as_ref()),
            gone,
            |l| matches(&job, l),
            |_| true,
        );
        if !c.actions.is_empty() {
            plan.steps.push(Step::All(c.actions));
            plan.after(Duration::from_millis(1));
            return plan;
        }
        if gone || finished(&job).is_some() {
            let held = c.owned.iter().filter(|p| tracked(p)).map(untrack).collect();
            plan.steps.push(Step::All(held));
            return plan;
        }
        let mut l = Look::new(&job, &c.owned, now);
        let mut st = l.st.clone();
        let suspended = l.suspended();
        if st.start_time.is_none() && !suspended {
            st.start_time = Some(meta::time(now));
            l.st.start_time = st.start_time.clone();
        }
        let verdict = l.verdict();
        let mut make = Vec::new();
        let mut doomed: Vec<Arc<Pod>> = Vec::new();
        let mut said: Vec<(EventType, String, String)> = Vec::new();
        if let Some((kind, reason, text)) = &verdict {
            doomed.clone_from(&l.active);
            set(&mut st, new_condition(kind, "True", reason, text, now));
        } else if suspended {
            doomed.clone_from(&l.active);
            if set(&mut st, new_condition("Suspended", "True", "JobSuspended", "Job suspended", now)) {
                said.push((EventType::Normal, "Suspended".into(), "Job suspended".into()));
            }
            st.start_time = None;
        } else {
            let resumed = new_condition("Suspended", "False", "JobResumed", "Job resumed", now);
            if set(&mut st, resumed) {
                said.push((EventType::Normal, "Resumed".into(), "Job resumed".into()));
                st.start_time = Some(meta::time(now));
            }
            let parallelism = usize::try_from(l.spec(|s| s.parallelism).unwrap_or(1)).unwrap_or(0);
            if l.active.len() > parallelism {
                let mut v = l.active.clone();
                pods::rank_for_deletion(&mut v, &l.active, now);
                doomed.extend(v.into_iter().take(l.active.len() - parallelism));
            } else if !gone {
                make = l.missing(&c.owned);
                let wait = l.backoff(&c.owned);
                if !make.is_empty() && wait > 0.0 {
                    make.clear();
                    plan.after(Duration::from_secs_f64(wait + 0.01));
                }
            }
            if let (Some(d), Some(t)) = (l.spec(|s| s.active_deadline_seconds), &st.start_time) {
                let left = d as f64 - meta::seconds_between(t.0, now);
                plan.after(Duration::from_secs_f64(left.max(0.0) + 0.01));
            }
        }
        let some = |n: i32| Some(n).filter(|n| *n != 0);
        let active = size(l.active.len()) - size(doomed.len());
        st.active = some(active.max(0));
        st.failed = some(l.failed);
        st.succeeded = some(l.succeeded);
        st.ready = Some(size(l.active.iter().filter(|p| pods::ready(p)).count()));
        st.terminating = Some(size(l.terminating));
        if l.indexed() {
            st.completed_indexes = Some(l.done.text()).filter(|t| !t.is_empty());
            if l.spec(|s| s.backoff_limit_per_index).is_some() {
                st.failed_indexes = Some(l.given_up.text());
            }
        }
        st.uncounted_terminated_pods = Some(
            l.st.uncounted_terminated_pods.clone().unwrap_or_else(UncountedTerminatedPods::default),
        );
        let (ps, pf) = l.pending();
        let settled = l.active.is_empty() && l.terminating == 0 && ps + pf == 0 && l.release.is_empty();
        if let (Some((kind, reason, text)), true) = (&verdict, settled) {
            let done = if *kind == "FailureTarget" { "Failed" } else { "Complete" };
            set(&mut st, new_condition(done, "True", reason, text, now));
            if done == "Complete" {
                st.completion_time = Some(meta::time(now));
                said.push((EventType::Normal, "Completed".into(), "Job completed".into()));
            } else {
                said.push((EventType::Warning, reason.clone(), text.clone()));
            }
        }
        if job.status.as_ref() != Some(&st) {
            let mut next = job.as_ref().clone();
            next.status = Some(st);
            plan.push(Action::update_status(next));
        }
        for (k, r, t) in said {
            plan.push(Action::event(COMPONENT, job.as_ref(), k, &r, t));
        }
        plan.steps.push(Step::All(l.release.iter().map(untrack).collect()));
        plan.steps.push(Step::All(doomed.iter().map(|p| delete_pod(COMPONENT, &job, p)).collect()));
        plan.steps.push(Step::SlowStart(make.into_iter().map(|p| create(&job, p)).collect()));
        plan
    }
}
