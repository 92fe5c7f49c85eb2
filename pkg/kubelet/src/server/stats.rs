//! `/stats/summary`: what pods use.
use std::collections::BTreeMap;

use knarr_cri_api::v1;
use serde_json::{Value, json};

use super::Refusal;
use crate::{model::label, model::timestamp, worker::Shared};

fn when(nanos: i64) -> Option<String> {
    timestamp(nanos).map(|t| t.to_string())
}

fn num(v: &Option<v1::UInt64Value>) -> Option<u64> {
    v.as_ref().map(|v| v.value)
}

fn cpu(c: &v1::CpuUsage) -> Value {
    json!({"time": when(c.timestamp), "usageCoreNanoSeconds": num(&c.usage_core_nano_seconds),
        "usageNanoCores": num(&c.usage_nano_cores)})
}

fn memory(m: &v1::MemoryUsage) -> Value {
    json!({"time": when(m.timestamp), "workingSetBytes": num(&m.working_set_bytes),
        "usageBytes": num(&m.usage_bytes), "rssBytes": num(&m.rss_bytes),
        "availableBytes": num(&m.available_bytes)})
}

/// The summary, from the runtime's container statistics.
pub(super) async fn summary(sh: &Shared) -> Result<Value, Refusal> {
    let list = sh
        .cri
        .list_container_stats(v1::ListContainerStatsRequest { filter: None })
        .await
        .map_err(|e| Refusal::internal(e.message()))?;
    let mut pods: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for s in list.stats {
        let labels = s.attributes.map(|a| a.labels).unwrap_or_default();
        let get = |k: &str| labels.get(k).cloned().unwrap_or_default();
        let entry = pods.entry(get(label::POD_UID)).or_insert_with(|| {
            (
                json!({"name": get(label::POD_NAME), "namespace": get(label::POD_NAMESPACE),
                    "uid": get(label::POD_UID)}),
                Vec::new(),
            )
        });
        entry.1.push(json!({
            "name": get(label::CONTAINER),
            "cpu": s.cpu.as_ref().map(cpu),
            "memory": s.memory.as_ref().map(memory),
        }));
    }
    let pods: Vec<Value> = pods
        .into_values()
        .map(|(r, containers)| json!({"podRef": r, "containers": containers}))
        .collect();
    Ok(json!({"node": {"nodeName": sh.cfg.node_name}, "pods": pods}))
}
