//! Jobs and CronJobs.

use super::*;

pub const CHECKS: &[(&str, Check)] = &[
    ("cronjob", cronjob),
    ("job-suspend", job_suspend),
    ("job-failure-policy", job_failure_policy),
    ("job-success-policy", job_success_policy),
    ("job-indexed", job_indexed),
    ("job-backoff", job_backoff),
    ("job-deadline", job_deadline),
    ("job-ttl", job_ttl),
];

fn job(name: &str, more: &str, shell: &str) -> String {
    format!(
        "{{apiVersion: batch/v1, kind: Job, metadata: {{name: {name}}}, spec: {{{more} \
         template: {{spec: {}}}}}}}",
        spec(shell, ", restartPolicy: Never")
    )
}

fn cronjob(s: &Space<'_>) -> Result<()> {
    s.apply(&format!(
        "{{apiVersion: batch/v1, kind: CronJob, metadata: {{name: tick}}, spec: {{\
         schedule: '* * * * *', jobTemplate: {{spec: {{template: {{spec: {}}}}}}}}}}}",
        spec("true", ", restartPolicy: Never")
    ))?;
    s.kubectl(&["create", "job", "now", "--from=cronjob/tick"])?;
    s.wait(&["job", "now"], |j| condition(j, "Complete").0 == "True")?;
    s.wait_list(&["jobs"], |l| {
        l.iter().any(|j| {
            j["metadata"]["ownerReferences"][0]["kind"] == "CronJob" && name(j).starts_with("tick-")
        })
    })?;
    let c = s.wait(&["cronjob", "tick"], |c| !c["status"]["lastScheduleTime"].is_null())?;
    ensure!(text(&c["status"]["lastScheduleTime"]).ends_with(":00Z"), "{c:#}");
    s.wait(&["cronjob", "tick"], |c| !c["status"]["lastSuccessfulTime"].is_null())?;
    s.event("tick", "SawCompletedJob")?;
    Ok(())
}

fn job_suspend(s: &Space<'_>) -> Result<()> {
    s.apply(&job("j", "suspend: true,", SLEEP))?;
    let j = s.wait(&["job", "j"], |j| condition(j, "Suspended") == ("True", "JobSuspended"))?;
    ensure!(j["status"]["startTime"].is_null(), "{j:#}");
    ensure!(s.list(&["pods"])?.is_empty());
    let set = |v: &str| {
        s.kubectl(&["patch", "job", "j", "--type=merge", "-p", &format!("{{\"spec\":{{\"suspend\":{v}}}}}")])
    };
    set("false")?;
    s.wait(&["job", "j"], |j| {
        condition(j, "Suspended") == ("False", "JobResumed") && j["status"]["active"] == 1
            && !j["status"]["startTime"].is_null()
    })?;
    s.wait_list(&["pods"], |l| l.len() == 1)?;
    set("true")?;
    s.wait_list(&["pods"], <[Value]>::is_empty)?;
    s.wait(&["job", "j"], |j| {
        condition(j, "Suspended").0 == "True" && j["status"]["active"].as_i64().unwrap_or(0) == 0
    })?;
    Ok(())
}

fn job_failure_policy(s: &Space<'_>) -> Result<()> {
    let policy = "backoffLimit: 6, podFailurePolicy: {rules: [\
        {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [42]}}]},";
    s.apply(&job("j", policy, "exit 42"))?;
    let j = s.wait(&["job", "j"], |j| condition(j, "Failed") == ("True", "PodFailurePolicy"))?;
    ensure!(condition(&j, "FailureTarget").0 == "True", "{j:#}");
    let message = j["status"]["conditions"]
        .as_array()
        .and_then(|c| c.iter().find(|c| c["type"] == "Failed"))
        .map(|c| text(&c["message"]).to_owned())
        .unwrap_or_default();
    ensure!(
        message.contains("failed with exit code 42 matching FailJob rule at index 0"),
        "{message}"
    );
    ensure!(j["status"]["failed"] == 1, "{j:#}");
    Ok(())
}

fn job_success_policy(s: &Space<'_>) -> Result<()> {
    let policy = "completionMode: Indexed, completions: 3, parallelism: 3, \
        successPolicy: {rules: [{succeededIndexes: '0'}]},";
    s.apply(&job("j", policy, "test $JOB_COMPLETION_INDEX = 0 || sleep 100000"))?;
    let j = s.wait(&["job", "j"], |j| condition(j, "Complete") == ("True", "SuccessPolicy"))?;
    ensure!(condition(&j, "SuccessCriteriaMet") == ("True", "SuccessPolicy"), "{j:#}");
    ensure!(j["status"]["completedIndexes"] == "0", "{j:#}");
    s.wait_list(&["pods"], |l| l.len() == 1)?;
    Ok(())
}

fn job_indexed(s: &Space<'_>) -> Result<()> {
    let more = "completionMode: Indexed, completions: 3, parallelism: 2, backoffLimitPerIndex: 0,";
    s.apply(&job("j", more, "test $JOB_COMPLETION_INDEX != 1"))?;
    let j = s.wait(&["job", "j"], |j| condition(j, "Failed").0 == "True")?;
    ensure!(condition(&j, "Failed").1 == "FailedIndexes", "{j:#}");
    ensure!(j["status"]["completedIndexes"] == "0,2", "{j:#}");
    ensure!(j["status"]["failedIndexes"] == "1", "{j:#}");
    ensure!(j["status"]["succeeded"] == 2 && j["status"]["failed"] == 1, "{j:#}");
    for p in s.list(&["pods"])? {
        ensure!(p["metadata"]["finalizers"].is_null(), "{p:#}");
        ensure!(text(&p["spec"]["hostname"]).starts_with("j-"), "{p:#}");
    }
    Ok(())
}

fn job_backoff(s: &Space<'_>) -> Result<()> {
    s.apply(&job("j", "backoffLimit: 1,", "exit 1"))?;
    let j = s.wait(&["job", "j"], |j| condition(j, "Failed") == ("True", "BackoffLimitExceeded"))?;
    ensure!(j["status"]["failed"] == 2, "{j:#}");
    s.event("j", "BackoffLimitExceeded")?;
    Ok(())
}

fn job_deadline(s: &Space<'_>) -> Result<()> {
    s.apply(&job("j", "activeDeadlineSeconds: 1,", SLEEP))?;
    s.wait(&["job", "j"], |j| condition(j, "Failed") == ("True", "DeadlineExceeded"))?;
    s.wait_list(&["pods"], <[Value]>::is_empty)?;
    Ok(())
}

fn job_ttl(s: &Space<'_>) -> Result<()> {
    s.apply(&job("j", "ttlSecondsAfterFinished: 1,", "true"))?;
    s.wait_gone(&["job", "j"])?;
    s.wait_list(&["pods"], <[Value]>::is_empty)?;
    Ok(())
}
