//! Pod failure policies and success policies.

use super::indexes::Indexes;
use crate::pods;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use knarr_runner::meta;

/// What a failed pod means.
pub enum Verdict {
    /// The job fails; the message.
    FailJob(String),
    /// The index fails.
    FailIndex,
    /// It does not count.
    Ignore,
    /// It counts.
    Count,
}

/// The first rule that matches a failed pod.
pub fn verdict(j: &Job, p: &Pod) -> Option<Verdict> {
    let policy = j.spec.as_ref()?.pod_failure_policy.as_ref()?;
    let who = format!("{}/{}", meta::ns(&p.metadata), meta::name(&p.metadata));
    for (n, rule) in policy.rules.iter().enumerate() {
        let mut text = None;
        if let Some(x) = &rule.on_exit_codes {
            let st = p.status.as_ref();
            text = st
                .into_iter()
                .flat_map(|s| {
                    s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten())
                })
                .filter(|c| x.container_name.as_ref().is_none_or(|w| *w == c.name))
                .filter_map(|c| Some((c, c.state.as_ref()?.terminated.as_ref()?.exit_code)))
                .find(|(_, code)| {
                    *code != 0 && x.values.contains(code) == (x.operator == "In")
                })
                .map(|(c, code)| {
                    format!(
                        "Container {} for pod {who} failed with exit code {code} matching {} rule at index {n}",
                        c.name, rule.action
                    )
                });
        }
        for want in rule.on_pod_conditions.iter().flatten() {
            let status = want.status.as_deref().unwrap_or("True");
            if pods::condition(p, &want.type_).is_some_and(|c| c.status == status) {
                text.get_or_insert_with(|| {
                    format!(
                        "Pod {who} has condition {} matching {} rule at index {n}",
                        want.type_, rule.action
                    )
                });
            }
        }
        if let Some(t) = text {
            return Some(match rule.action.as_str() {
                "FailJob" => Verdict::FailJob(t),
                "FailIndex" => Verdict::FailIndex,
                "Ignore" => Verdict::Ignore,
                _ => Verdict::Count,
            });
        }
    }
    None
}

/// The message of the first success rule that is met.
pub fn success(j: &Job, done: &Indexes) -> Option<String> {
    let policy = j.spec.as_ref()?.success_policy.as_ref()?;
    for (n, rule) in policy.rules.iter().enumerate() {
        let met = match (&rule.succeeded_indexes, rule.succeeded_count) {
            (Some(list), count) => {
                let want = Indexes::parse(list);
                done.common(&want) >= count.unwrap_or(want.len())
            }
            (None, Some(count)) => done.len() >= count,
            (None, None) => false,
        };
        if met {
            return Some(format!("Matched rules at index {n}"));
        }
    }
    None
}
