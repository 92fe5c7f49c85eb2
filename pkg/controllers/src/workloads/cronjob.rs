//! CronJobs: jobs by the clock.

mod schedule;

use crate::workloads::job::finished;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use knarr_runner::meta::{self, Key};
use knarr_runner::{
    Action, Cache, Controller, EventType, Informers, Plan, Propagation, Queue, message,
};
use schedule::Schedule;
use std::sync::Arc;
use std::time::Duration;

const COMPONENT: &str = "cronjob-controller";

/// The CronJob controller.
pub struct CronJobs {
    crons: Arc<Cache<CronJob>>,
    jobs: Arc<Cache<Job>>,
}

impl CronJobs {
    /// A controller over these informers.
    pub fn new(i: &Informers) -> Self {
        Self { crons: i.get(), jobs: i.get() }
    }
}

fn reference(j: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        name: j.metadata.name.clone(),
        namespace: j.metadata.namespace.clone(),
        uid: j.metadata.uid.clone(),
        resource_version: j.metadata.resource_version.clone(),
        field_path: None,
    }
}

fn make_job(c: &CronJob, at: Timestamp) -> Job {
    let t = &c.spec.job_template;
    let tm = t.metadata.clone().unwrap_or_default();
    let mut annotations = tm.annotations.unwrap_or_default();
    let stamp = match c.spec.time_zone.as_deref().and_then(|z| TimeZone::get(z).ok()) {
        Some(z) => at.to_zoned(z).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        None => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    annotations.insert("batch.kubernetes.io/cronjob-scheduled-timestamp".into(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", meta::name(&c.metadata), at.as_second() / 60)),
            namespace: c.metadata.namespace.clone(),
            labels: tm.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![meta::owner_ref(c)]),
            ..ObjectMeta::default()
        },
        spec: t.spec.clone(),
        status: None,
    }
}

fn say(c: &Arc<CronJob>, kind: EventType, reason: &str, text: String) -> Action {
    Action::event(COMPONENT, c.as_ref(), kind, reason, text)
}

fn remove(c: &Arc<CronJob>, j: &Arc<Job>) -> Action {
    let (c, j) = (c.clone(), j.clone());
    Action::call(format!("delete Job {}", meta::name(&j.metadata)), move |i| async move {
        match i.delete(j.as_ref(), Some(Propagation::Background), None).await {
            Err(e) if knarr_runner::is_not_found(&e) => return Ok(()),
            other => other?,
        }
        let text = format!("Deleted job {}", meta::name(&j.metadata));
        i.recorder().event(COMPONENT, c.as_ref(), EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    })
}

/// Finished jobs beyond the limits, oldest first.
fn surplus(c: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let mut out = Vec::new();
    for (kind, limit) in [
        ("Complete", c.spec.successful_jobs_history_limit),
        ("Failed", c.spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit else { continue };
        let mut v: Vec<_> =
            jobs.iter().filter(|j| finished(j).is_some_and(|c| c.type_ == kind)).collect();
        v.sort_by_key(|j| {
            (
                j.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
                j.metadata.name.clone(),
            )
        });
        let n = v.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        out.extend(v.into_iter().take(n).cloned());
    }
    out
}

impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        COMPONENT
    }
    fn watch(&self, _: &Informers, queue: &Queue<Key>) {
        let q = queue.clone();
        self.crons.on_event(move |e| q.add(Key::of(&e.object().metadata)));
        let q = queue.clone();
        self.jobs.on_event(move |e| {
            let m = &e.object().metadata;
            if let Some(o) = meta::controller_of(m).filter(|o| o.kind == "CronJob") {
                q.add(Key::new(meta::ns(m), &o.name));
            }
        });
    }
    fn synced(&self) -> bool {
        self.crons.has_synced() && self.jobs.has_synced()
    }
    fn plan(&self, key: &Key, now: Timestamp) -> Plan {
        let Some(c) = self.crons.by_key(key) else { return Plan::none() };
        let jobs = self.jobs.owned_by(meta::uid(&c.metadata));
        let mut plan = Plan::none();
        for j in surplus(&c, &jobs) {
            plan.push(remove(&c, &j));
        }
        let mut st = c.status.clone().unwrap_or_default();
        let was = st.active.clone().unwrap_or_default();
        for j in &jobs {
            let listed = was.iter().any(|r| r.uid == j.metadata.uid);
            if let (true, Some(end)) = (listed, finished(j)) {
                let text = format!(
                    "Saw completed job: {}, condition: {}",
                    meta::name(&j.metadata),
                    end.type_
                );
                plan.push(say(&c, EventType::Normal, "SawCompletedJob", text));
                let at = j.status.as_ref().and_then(|s| s.completion_time.clone());
                if end.type_ == "Complete" && at > st.last_successful_time {
                    st.last_successful_time = at;
                }
            }
        }
        let running: Vec<&Arc<Job>> = jobs.iter().filter(|j| finished(j).is_none()).collect();
        let active: Vec<ObjectReference> = running
            .iter()
            .map(|j| {
                was.iter().find(|r| r.uid == j.metadata.uid).cloned().unwrap_or_else(|| reference(j))
            })
            .collect();
        st.active = Some(active).filter(|a| !a.is_empty());
        let suspended = c.spec.suspend.unwrap_or(false) || meta::deleting(&c.metadata);
        let mut launch = None;
        if !suspended {
            let zone = match c.spec.time_zone.as_deref() {
                None => TimeZone::system(),
                Some(z) => match TimeZone::get(z) {
                    Ok(z) => z,
                    Err(e) => {
                        let text = format!("invalid timeZone: {z:?}: {e}");
                        plan.push(say(&c, EventType::Warning, "UnknownTimeZone", text));
                        return plan;
                    }
                },
            };
            let Some(s) = Schedule::parse(&c.spec.schedule) else {
                let text = format!("unparseable schedule: {:?}", c.spec.schedule);
                plan.push(say(&c, EventType::Warning, "UnparseableSchedule", text));
                return plan;
            };
            let mut earliest = st
                .last_schedule_time
                .as_ref()
                .or(c.metadata.creation_timestamp.as_ref())
                .map_or(now, |t| t.0);
            if let Some(d) = c.spec.starting_deadline_seconds {
                let floor = Timestamp::from_second(now.as_second() - d).unwrap_or(now);
                earliest = earliest.max(floor);
            }
            let (due, missed) = s.last_due(earliest, now, &zone);
            if missed > 100 {
                let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
                plan.push(say(&c, EventType::Warning, "TooManyMissedTimes", text.into()));
            }
            if let Some(next) = s.next(now, &zone) {
                let wait = meta::seconds_between(now, next).max(0.0);
                plan.after(Duration::from_secs_f64(wait + 0.1));
            }
            if let Some(at) = due {
                let already = jobs.iter().any(|j| j.metadata.name == make_job(&c, at).metadata.name);
                match c.spec.concurrency_policy.as_deref() {
                    _ if already => {}
                    Some("Forbid") if !running.is_empty() => {
                        let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
                        plan.push(say(&c, EventType::Normal, "JobAlreadyActive", text.into()));
                    }
                    policy => {
                        if policy == Some("Replace") {
                            for j in &running {
                                plan.push(remove(&c, j));
                            }
                        }
                        launch = Some(at);
                    }
                }
            }
        }
        let Some(at) = launch else {
            if c.status.as_ref() != Some(&st) && (c.status.is_some() || st != Default::default()) {
                let mut next = c.as_ref().clone();
                next.status = Some(st);
                plan.push(Action::update_status(next));
            }
            return plan;
        };
        let job = make_job(&c, at);
        let what = format!("create Job {}", meta::name(&job.metadata));
        plan.push(Action::call(what, move |i| async move {
            let r = i.recorder().clone();
            match i.create(&job).await {
                Ok(j) => {
                    let text = format!("Created job {}", meta::name(&j.metadata));
                    r.event(COMPONENT, c.as_ref(), EventType::Normal, "SuccessfulCreate", text);
                    st.active.get_or_insert_default().push(reference(&j));
                }
                Err(e) if knarr_runner::is_already_exists(&e) => {}
                Err(e) => {
                    let text = format!("Error creating job: {}", message(&e));
                    r.event(COMPONENT, c.as_ref(), EventType::Warning, "FailedCreate", text);
                    return Err(e);
                }
            }
            st.last_schedule_time = Some(meta::time(at));
            let mut next = c.as_ref().clone();
            next.status = Some(st);
            i.update_status(&next).await.map(drop)
        }));
        plan
    }
}
