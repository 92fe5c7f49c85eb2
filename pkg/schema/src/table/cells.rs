//! The cells of each built-in kind.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{selector::LabelSelector, time};

pub(super) struct View<'v> {
    pub object: &'v Value,
    pub now: time::Instant,
}

pub(super) fn text<'v>(value: &'v Value, path: &str) -> &'v str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn int(value: &Value, path: &str) -> i64 {
    value.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

pub(super) fn items<'v>(value: &'v Value, path: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

impl View<'_> {
    pub fn name(&self) -> Value {
        self.text("/metadata/name").into()
    }

    pub fn deleted(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some_and(|t| !t.is_null())
    }

    pub fn age(&self) -> Value {
        self.since("/metadata/creationTimestamp").into()
    }

    fn since(&self, path: &str) -> String {
        match time::parse(self.text(path)) {
            Some(at) => time::human(self.now.seconds - at.seconds),
            None => "<unknown>".into(),
        }
    }

    fn text(&self, path: &str) -> &str {
        text(self.object, path)
    }

    fn cell(&self, path: &str) -> Value {
        self.text(path).into()
    }

    fn or(&self, path: &str, other: &str) -> Value {
        match self.text(path) {
            "" => other.into(),
            found => found.into(),
        }
    }

    /// The text, or `other` when the member is absent (not when it is empty).
    fn absent(&self, path: &str, other: &str) -> Value {
        self.object.pointer(path).and_then(Value::as_str).unwrap_or(other).into()
    }

    fn int(&self, path: &str) -> Value {
        int(self.object, path).into()
    }

    fn flag(&self, path: &str, other: bool) -> Value {
        self.object.pointer(path).and_then(Value::as_bool).unwrap_or(other).into()
    }

    fn count(&self, path: &str) -> Value {
        let count = match self.object.pointer(path) {
            Some(Value::Array(items)) => items.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        };
        (count as i64).into()
    }

    /// Names and images of a pod template's containers.
    fn containers(&self, path: &str) -> [Value; 2] {
        let join = |key: &str| items(self.object, path).map(|c| text(c, key)).collect::<Vec<_>>().join(",");
        [join("/name").into(), join("/image").into()]
    }

    fn labels(&self, path: &str) -> Value {
        labels(self.object.pointer(path)).into()
    }

    fn selector(&self, path: &str) -> Value {
        let given = self.object.pointer(path).unwrap_or(&Value::Null);
        match LabelSelector::from_value(given) {
            Err(_) => "<error>".into(),
            Ok(_) if given.is_null() => "<none>".into(),
            Ok(selector) if selector.is_empty() => "<none>".into(),
            Ok(selector) => selector.text().into(),
        }
    }

    fn condition(&self, kind: &str) -> bool {
        items(self.object, "/status/conditions").find(|c| text(c, "/type") == kind).is_some_and(|c| text(c, "/status") == "True")
    }
}

fn labels(map: Option<&Value>) -> String {
    match map.and_then(Value::as_object) {
        Some(map) if !map.is_empty() => map.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect::<Vec<_>>().join(","),
        _ => "<none>".into(),
    }
}

fn shown(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "<nil>".into(),
        Some(other) => other.to_string(),
    }
}

/// The first `max` of a list and how many more there are.
fn some(all: &[String], max: usize) -> String {
    let head = all[..all.len().min(max)].join(",");
    if all.len() > max { format!("{head} + {} more...", all.len() - max) } else { head }
}

fn modes(object: &Value, path: &str) -> String {
    let given: BTreeSet<&str> = items(object, path).filter_map(Value::as_str).collect();
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")].into_iter().filter(|(mode, _)| given.contains(mode)).map(|(_, short)| short).collect::<Vec<_>>().join(",")
}

fn storage_class(object: &Value) -> &str {
    match object.pointer("/metadata/annotations/volume.beta.kubernetes.io~1storage-class").and_then(Value::as_str) {
        Some(class) => class,
        None => text(object, "/spec/storageClassName"),
    }
}

/// The class that claims without one get: the newest of those that are marked.
pub(super) fn default_storage_class<'v>(objects: &[&'v Value]) -> Option<&'v str> {
    let marked = |o: &&&Value| ["storageclass.kubernetes.io~1is-default-class", "storageclass.beta.kubernetes.io~1is-default-class"].iter().any(|a| text(o, &format!("/metadata/annotations/{a}")) == "true");
    let newest = objects.iter().filter(marked).max_by(|a, b| {
        let key = |o: &Value| time::parse(text(o, "/metadata/creationTimestamp"));
        key(a).cmp(&key(b)).then_with(|| text(b, "/metadata/name").cmp(text(a, "/metadata/name")))
    })?;
    Some(text(newest, "/metadata/name"))
}

fn subjects(object: &Value) -> [Value; 3] {
    let of = |kind: &str| items(object, "/subjects").filter(|s| text(s, "/kind") == kind).collect::<Vec<_>>();
    let names = |kind: &str| of(kind).iter().map(|s| text(s, "/name")).collect::<Vec<_>>().join(", ");
    let accounts = of("ServiceAccount").into_iter().map(|s| match text(s, "/namespace") {
        "" => text(s, "/name").to_owned(),
        namespace => format!("{namespace}/{}", text(s, "/name")),
    });
    [names("User").into(), names("Group").into(), accounts.collect::<Vec<_>>().join(", ").into()]
}

fn endpoints(view: &View<'_>) -> String {
    if items(view.object, "/subsets").next().is_none() {
        return "<none>".into();
    }
    let mut all = Vec::new();
    for subset in items(view.object, "/subsets") {
        let ips = || items(subset, "/addresses").map(|a| text(a, "/ip"));
        if items(subset, "/ports").next().is_none() {
            all.extend(ips().map(str::to_owned));
        }
        for port in items(subset, "/ports") {
            all.extend(ips().map(|ip| if ip.contains(':') { format!("[{ip}]:{}", int(port, "/port")) } else { format!("{ip}:{}", int(port, "/port")) }));
        }
    }
    some(&all, 3)
}

fn balancer(view: &View<'_>) -> String {
    let all: BTreeSet<&str> = items(view.object, "/status/loadBalancer/ingress")
        .map(|i| match text(i, "/ip") {
            "" => text(i, "/hostname"),
            ip => ip,
        })
        .filter(|t| !t.is_empty())
        .collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

fn external_ip(view: &View<'_>) -> String {
    let external: Vec<&str> = items(view.object, "/spec/externalIPs").filter_map(Value::as_str).collect();
    match view.text("/spec/type") {
        "ClusterIP" | "NodePort" => {
            if external.is_empty() { "<none>".into() } else { external.join(",") }
        }
        "LoadBalancer" => {
            let mut all: Vec<String> = Some(balancer(view)).filter(|b| !b.is_empty()).into_iter().collect();
            all.extend(external.iter().map(|e| (*e).to_owned()));
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => view.text("/spec/externalName").into(),
        _ => "<unknown>".into(),
    }
}

fn ports(view: &View<'_>) -> String {
    let all: Vec<String> = items(view.object, "/spec/ports")
        .map(|p| match int(p, "/nodePort") {
            node if node > 0 => format!("{}:{node}/{}", int(p, "/port"), text(p, "/protocol")),
            _ => format!("{}/{}", int(p, "/port"), text(p, "/protocol")),
        })
        .collect();
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

fn hosts(view: &View<'_>) -> String {
    let rules = items(view.object, "/spec/rules").count();
    let (mut list, mut more) = (Vec::new(), false);
    for rule in items(view.object, "/spec/rules") {
        more |= list.len() == 3;
        let host = text(rule, "/host");
        if !more && !host.is_empty() {
            list.push(host);
        }
    }
    match (list.is_empty(), more) {
        (true, _) => "*".into(),
        (_, true) => format!("{} + {} more...", list.join(","), rules - 3),
        _ => list.join(","),
    }
}

fn param_ref(view: &View<'_>) -> Value {
    let Some(reference) = view.object.pointer("/spec/paramRef").filter(|r| !r.is_null()) else { return "<unset>".into() };
    let name = text(reference, "/name");
    if !name.is_empty() {
        let namespace = text(reference, "/namespace");
        return format!("{}/{name}", if namespace.is_empty() { "*" } else { namespace }).into();
    }
    let Some(selector) = reference.get("selector").filter(|s| !s.is_null()) else { return "<unset>".into() };
    let mut out = String::from("&LabelSelector{MatchLabels:map[string]string{");
    for (key, value) in selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
        out += &format!("{key}: {},", value.as_str().unwrap_or_default());
    }
    out += "},MatchExpressions:[]LabelSelectorRequirement{";
    for e in items(selector, "/matchExpressions") {
        let values: Vec<&str> = items(e, "/values").filter_map(Value::as_str).collect();
        out += &format!("LabelSelectorRequirement{{Key:{},Operator:{},Values:[{}],}},", text(e, "/key"), text(e, "/operator"), values.join(" "));
    }
    (out + "},}").into()
}

fn param_kind(view: &View<'_>) -> Value {
    match view.object.pointer("/spec/paramKind").filter(|k| !k.is_null()) {
        Some(kind) => format!("{}/{}", text(kind, "/apiVersion"), text(kind, "/kind")).into(),
        None => "<unset>".into(),
    }
}

fn quota(view: &View<'_>) -> [Value; 2] {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in view.object.pointer("/status/hard").and_then(Value::as_object).into_iter().flatten() {
        let used = view.object.pointer("/status/used").and_then(|u| u.get(name)).and_then(Value::as_str).unwrap_or("0");
        let list = if name.starts_with("limits.") { &mut limits } else { &mut requests };
        list.push(format!("{name}: {used}/{}", hard.as_str().unwrap_or("0")));
    }
    [requests.join(", ").into(), limits.join(", ").into()]
}

fn metrics(view: &View<'_>) -> String {
    let specs: Vec<&Value> = items(view.object, "/spec/metrics").collect();
    if specs.is_empty() {
        return "<none>".into();
    }
    let statuses: Vec<&Value> = items(view.object, "/status/currentMetrics").collect();
    let mut list = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let (member, kind) = match text(spec, "/type") {
            "External" => ("external", 0),
            "Pods" => ("pods", 1),
            "Object" => ("object", 0),
            "Resource" => ("resource", 2),
            "ContainerResource" => ("containerResource", 2),
            _ => {
                list.push("<unknown type>".to_owned());
                continue;
            }
        };
        let target = |key: &str| spec.pointer(&format!("/{member}/target/{key}"));
        let status = statuses.get(i).and_then(|s| s.get(member)).filter(|s| !s.is_null());
        let current = |key: &str| status.and_then(|s| s.pointer(&format!("/current/{key}")));
        let or_unknown = |v: Option<&Value>| v.map_or_else(|| "<unknown>".to_owned(), |v| shown(Some(v)));
        // A status without the value prints Go's nil quantity.
        let of_status = |key: &str| if status.is_some() { shown(current(key)) } else { "<unknown>".into() };
        list.push(match (kind, target("averageValue")) {
            (0, Some(average)) => format!("{}/{} (avg)", or_unknown(current("averageValue")), shown(Some(average))),
            (0, None) => format!("{}/{}", of_status("value"), shown(target("value"))),
            (1, average) => format!("{}/{}", of_status("averageValue"), shown(average)),
            (_, Some(average)) => format!("{}: {}/{}", text(spec, &format!("/{member}/name")), of_status("averageValue"), shown(Some(average))),
            (_, None) => {
                let percent = |v: Option<&Value>, other: &str| v.and_then(Value::as_i64).map_or_else(|| other.to_owned(), |p| format!("{p}%"));
                format!("{}: {}/{}", text(spec, &format!("/{member}/name")), percent(current("averageUtilization"), "<unknown>"), percent(target("averageUtilization"), "<auto>"))
            }
        });
    }
    let head = list[..list.len().min(2)].join(", ");
    if list.len() > 2 { format!("{head} + {} more...", list.len() - 2) } else { head }
}

fn job(view: &View<'_>) -> Vec<Value> {
    let succeeded = int(view.object, "/status/succeeded");
    let completions = match view.object.pointer("/spec/completions").and_then(Value::as_i64) {
        Some(wanted) => format!("{succeeded}/{wanted}"),
        None => match int(view.object, "/spec/parallelism") {
            parallel if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            _ => format!("{succeeded}/1"),
        },
    };
    let at = |path: &str| time::parse(view.text(path)).map(|t| t.seconds);
    let duration = match (at("/status/startTime"), at("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => time::human(end.unwrap_or(view.now.seconds) - start),
    };
    let status = match () {
        () if view.condition("Complete") => "Complete",
        () if view.condition("Failed") => "Failed",
        () if view.deleted() => "Terminating",
        () if view.condition("Suspended") => "Suspended",
        () if view.condition("FailureTarget") => "FailureTarget",
        () if view.condition("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    let [names, images] = view.containers("/spec/template/spec/containers");
    vec![view.name(), status.into(), completions.into(), duration.into(), view.age(), names, images, view.selector("/spec/selector")]
}

fn node(view: &View<'_>) -> Vec<Value> {
    let mut status = match items(view.object, "/status/conditions").filter(|c| text(c, "/type") == "Ready").last() {
        Some(ready) if text(ready, "/status") == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if view.flag("/spec/unschedulable", false) == json!(true) {
        status += ",SchedulingDisabled";
    }
    let mut roles = BTreeSet::new();
    for (key, value) in view.object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => {
                roles.insert(role);
            }
            _ if key == "kubernetes.io/role" => {
                roles.extend(value.as_str().filter(|v| !v.is_empty()));
            }
            _ => {}
        }
    }
    let roles = if roles.is_empty() { "<none>".to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") };
    let address = |kind: &str| items(view.object, "/status/addresses").find(|a| text(a, "/type") == kind).map_or("<none>", |a| text(a, "/address"));
    let or_unknown = |path: &str| match view.text(path) {
        "" => "<unknown>".to_owned(),
        found => found.to_owned(),
    };
    let mut kernel = or_unknown("/status/nodeInfo/kernelVersion");
    match view.text("/status/nodeInfo/architecture") {
        "" => {}
        architecture => kernel += &format!(" ({architecture})"),
    }
    vec![
        view.name(),
        status.into(),
        roles.into(),
        view.age(),
        view.cell("/status/nodeInfo/kubeletVersion"),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        or_unknown("/status/nodeInfo/osImage").into(),
        kernel.into(),
        or_unknown("/status/nodeInfo/containerRuntimeVersion").into(),
    ]
}

fn event(view: &View<'_>, core: bool) -> Vec<Value> {
    let pick = |a: &'static str, b: &'static str| if core { a } else { b };
    let set = |path: &str| time::parse(view.text(path)).is_some();
    let first_path = pick("/firstTimestamp", "/deprecatedFirstTimestamp");
    let last_path = pick("/lastTimestamp", "/deprecatedLastTimestamp");
    let first = if set(first_path) { view.since(first_path) } else { view.since("/eventTime") };
    let mut last = if set(last_path) { view.since(last_path) } else { first.clone() };
    let mut count = int(view.object, pick("/count", "/deprecatedCount"));
    if view.object.get("series").is_some_and(|s| !s.is_null()) {
        last = view.since("/series/lastObservedTime");
        count = int(view.object, "/series/count");
    } else if count == 0 {
        count = 1;
    }
    let object = pick("/involvedObject", "/regarding");
    let kind = view.text(&format!("{object}/kind")).to_lowercase();
    let target = match view.text(&format!("{object}/name")) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let source = pick("/source", "/deprecatedSource");
    let or = |a: String, b: &str| match view.text(&a) {
        "" => view.text(b).to_owned(),
        found => found.to_owned(),
    };
    let component = or(format!("{source}/component"), pick("/reportingComponent", "/reportingController"));
    let instance = or(format!("{source}/host"), "/reportingInstance");
    let source = if instance.is_empty() { component } else { format!("{component}, {instance}") };
    vec![
        last.into(),
        view.cell("/type"),
        view.cell("/reason"),
        target.into(),
        view.cell(&format!("{object}/fieldPath")),
        source.into(),
        view.text(pick("/message", "/note")).trim().into(),
        first.into(),
        count.into(),
        view.name(),
    ]
}

fn certificate_request(view: &View<'_>) -> String {
    let has = |kind: &str| items(view.object, "/status/conditions").any(|c| text(c, "/type") == kind);
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status += ",Failed";
    }
    if !view.text("/status/certificate").is_empty() {
        status += ",Issued";
    }
    status
}

/// The row of a built-in kind; `None` where upstream has no columns of its own.
pub(super) fn of(group: &str, kind: &str, v: &View<'_>) -> Option<Vec<Value>> {
    let with = |mut cells: Vec<Value>, more: &[Value]| {
        cells.extend_from_slice(more);
        cells
    };
    Some(match (group, kind) {
        ("", "Pod") => super::pod::row(v),
        ("", "Node") => node(v),
        ("", "Event") => event(v, true),
        ("events.k8s.io", "Event") => event(v, false),
        ("batch", "Job") => job(v),
        ("", "PodTemplate") => {
            let [names, images] = v.containers("/template/spec/containers");
            vec![v.name(), names, images, v.labels("/template/metadata/labels")]
        }
        ("policy", "PodDisruptionBudget") => {
            let or = |path: &str| v.object.pointer(path).filter(|b| !b.is_null()).map_or_else(|| "N/A".to_owned(), |b| shown(Some(b)));
            vec![v.name(), or("/spec/minAvailable").into(), or("/spec/maxUnavailable").into(), v.int("/status/disruptionsAllowed"), v.age()]
        }
        ("", "ReplicationController") | ("apps", "ReplicaSet") => {
            let [names, images] = v.containers("/spec/template/spec/containers");
            let selector = if group.is_empty() { v.labels("/spec/selector") } else { v.selector("/spec/selector") };
            vec![v.name(), v.int("/spec/replicas"), v.int("/status/replicas"), v.int("/status/readyReplicas"), v.age(), names, images, selector]
        }
        ("batch", "CronJob") => {
            let [names, images] = v.containers("/spec/jobTemplate/spec/template/spec/containers");
            let suspend = match v.object.pointer("/spec/suspend").and_then(Value::as_bool) {
                Some(true) => "True",
                Some(false) => "False",
                None => "<unset>",
            };
            let last = if v.object.pointer("/status/lastScheduleTime").is_some_and(|t| !t.is_null()) { v.since("/status/lastScheduleTime") } else { "<none>".into() };
            with(
                vec![v.name(), v.cell("/spec/schedule"), v.absent("/spec/timeZone", "<none>"), suspend.into(), v.count("/status/active"), last.into(), v.age(), names, images],
                &[v.selector("/spec/jobTemplate/spec/selector")],
            )
        }
        ("", "Service") => {
            let ip = v.object.pointer("/spec/clusterIPs/0").and_then(Value::as_str).unwrap_or("<none>");
            vec![v.name(), v.cell("/spec/type"), ip.into(), external_ip(v).into(), ports(v).into(), v.age(), v.labels("/spec/selector")]
        }
        ("networking.k8s.io", "Ingress") => {
            let tls = items(v.object, "/spec/tls").next().is_some();
            vec![v.name(), v.absent("/spec/ingressClassName", "<none>"), hosts(v).into(), balancer(v).into(), if tls { "80, 443".into() } else { "80".into() }, v.age()]
        }
        ("networking.k8s.io", "IngressClass") => {
            let marked = v.text("/metadata/annotations/ingressclass.kubernetes.io~1is-default-class") == "true";
            let name = if marked { format!("{} (default)", v.text("/metadata/name")).into() } else { v.name() };
            let parameters = match v.object.pointer("/spec/parameters").filter(|p| !p.is_null()) {
                None => "<none>".to_owned(),
                Some(p) => {
                    let group = p.get("apiGroup").and_then(Value::as_str).map(|g| format!(".{g}")).unwrap_or_default();
                    format!("{}{group}/{}", text(p, "/kind"), text(p, "/name"))
                }
            };
            vec![name, v.cell("/spec/controller"), parameters.into(), v.age()]
        }
        ("apps", "StatefulSet") => {
            let [names, images] = v.containers("/spec/template/spec/containers");
            vec![v.name(), format!("{}/{}", int(v.object, "/status/readyReplicas"), int(v.object, "/spec/replicas")).into(), v.age(), names, images]
        }
        ("apps", "Deployment") => {
            let [names, images] = v.containers("/spec/template/spec/containers");
            let selector = match LabelSelector::from_value(v.object.pointer("/spec/selector").unwrap_or(&Value::Null)) {
                Ok(selector) => selector.text(),
                Err(_) => "<invalid>".into(),
            };
            let ready = format!("{}/{}", int(v.object, "/status/readyReplicas"), int(v.object, "/spec/replicas"));
            vec![v.name(), ready.into(), v.int("/status/updatedReplicas"), v.int("/status/availableReplicas"), v.age(), names, images, selector.into()]
        }
        ("apps", "DaemonSet") => {
            let [names, images] = v.containers("/spec/template/spec/containers");
            let counts = ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "updatedNumberScheduled", "numberAvailable"].map(|c| v.int(&format!("/status/{c}")));
            let cells = with(vec![v.name()], &counts);
            with(cells, &[v.labels("/spec/template/spec/nodeSelector"), v.age(), names, images, v.selector("/spec/selector")])
        }
        ("", "Endpoints") => vec![v.name(), endpoints(v).into(), v.age()],
        ("discovery.k8s.io", "EndpointSlice") => {
            let or_unset = |all: Vec<String>| if all.is_empty() { "<unset>".to_owned() } else { some(&all, 3) };
            let ports = items(v.object, "/ports").map(|p| p.get("port").and_then(Value::as_i64).map_or_else(|| p.get("name").and_then(Value::as_str).unwrap_or("*").to_owned(), |n| n.to_string())).collect();
            let addresses = items(v.object, "/endpoints").flat_map(|e| items(e, "/addresses")).filter_map(Value::as_str).map(str::to_owned).collect();
            vec![v.name(), v.cell("/addressType"), or_unset(ports).into(), or_unset(addresses).into(), v.age()]
        }
        ("storage.k8s.io", "CSINode") => vec![v.name(), v.count("/spec/drivers"), v.age()],
        ("storage.k8s.io", "CSIDriver") => {
            let join = |path: &str, key: &str| items(v.object, path).map(|m| if key.is_empty() { m.as_str().unwrap_or_default() } else { text(m, key) }).collect::<Vec<_>>().join(",");
            let modes = match join("/spec/volumeLifecycleModes", "") {
                none if none.is_empty() => "<none>".to_owned(),
                modes => modes,
            };
            let tokens = if v.object.pointer("/spec/tokenRequests").is_some_and(|t| !t.is_null()) { join("/spec/tokenRequests", "/audience") } else { "<unset>".into() };
            vec![
                v.name(),
                v.flag("/spec/attachRequired", true),
                v.flag("/spec/podInfoOnMount", false),
                v.flag("/spec/storageCapacity", false),
                tokens.into(),
                v.flag("/spec/requiresRepublish", false),
                modes.into(),
                v.age(),
            ]
        }
        ("storage.k8s.io", "CSIStorageCapacity") => vec![v.name(), v.cell("/storageClassName"), v.absent("/capacity", "<unset>")],
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => vec![v.name(), v.count("/webhooks"), v.age()],
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => vec![v.name(), v.count("/spec/validations"), param_kind(v), v.age()],
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => vec![v.name(), v.count("/spec/mutations"), param_kind(v), v.age()],
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding" | "MutatingAdmissionPolicyBinding") => vec![v.name(), v.cell("/spec/policyName"), param_ref(v), v.age()],
        ("", "Namespace") => vec![v.name(), v.cell("/status/phase"), v.age()],
        ("", "Secret") => vec![v.name(), v.cell("/type"), v.count("/data"), v.age()],
        ("", "ConfigMap") => {
            let count = |path: &str| v.count(path).as_i64().unwrap_or(0);
            vec![v.name(), (count("/data") + count("/binaryData")).into(), v.age()]
        }
        ("", "ServiceAccount") => vec![v.name(), v.age()],
        ("", "PersistentVolume") => {
            let claim = v.object.pointer("/spec/claimRef").filter(|c| !c.is_null()).map(|c| format!("{}/{}", text(c, "/namespace"), text(c, "/name"))).unwrap_or_default();
            vec![
                v.name(),
                v.or("/spec/capacity/storage", "0"),
                modes(v.object, "/spec/accessModes").into(),
                v.cell("/spec/persistentVolumeReclaimPolicy"),
                if v.deleted() { "Terminating".into() } else { v.cell("/status/phase") },
                claim.into(),
                storage_class(v.object).into(),
                v.absent("/spec/volumeAttributesClassName", "<unset>"),
                v.cell("/status/reason"),
                v.age(),
                v.absent("/spec/volumeMode", "<unset>"),
            ]
        }
        ("", "PersistentVolumeClaim") => {
            let bound = !v.text("/spec/volumeName").is_empty();
            vec![
                v.name(),
                if v.deleted() { "Terminating".into() } else { v.cell("/status/phase") },
                v.cell("/spec/volumeName"),
                if bound { v.or("/status/capacity/storage", "0") } else { "".into() },
                if bound { modes(v.object, "/status/accessModes").into() } else { "".into() },
                storage_class(v.object).into(),
                v.absent("/spec/volumeAttributesClassName", "<unset>"),
                v.age(),
                v.absent("/spec/volumeMode", "<unset>"),
            ]
        }
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            with(vec![v.name(), format!("{}/{}", v.text("/roleRef/kind"), v.text("/roleRef/name")).into(), v.age()], &subjects(v.object))
        }
        ("certificates.k8s.io", "CertificateSigningRequest") => {
            let duration = v.object.pointer("/spec/expirationSeconds").and_then(Value::as_i64).map_or_else(|| "<none>".to_owned(), time::human);
            vec![v.name(), v.age(), v.or("/spec/signerName", "<none>"), v.cell("/spec/username"), duration.into(), certificate_request(v).into()]
        }
        ("certificates.k8s.io", "ClusterTrustBundle") => vec![v.name(), v.or("/spec/signerName", "<none>")],
        ("certificates.k8s.io", "PodCertificateRequest") => {
            let state = items(v.object, "/status/conditions").map(|c| text(c, "/type")).filter(|t| matches!(*t, "Issued" | "Denied" | "Failed")).last().unwrap_or("Pending");
            vec![v.name(), v.cell("/spec/podName"), v.cell("/spec/serviceAccountName"), v.cell("/spec/nodeName"), v.cell("/spec/signerName"), state.into(), v.labels("/spec/unverifiedUserAnnotations")]
        }
        ("", "ComponentStatus") => match items(v.object, "/conditions").find(|c| text(c, "/type") == "Healthy") {
            Some(c) => vec![v.name(), if text(c, "/status") == "True" { "Healthy".into() } else { "Unhealthy".into() }, text(c, "/message").into(), text(c, "/error").into()],
            None => vec![v.name(), "Unknown".into(), "".into(), "".into()],
        },
        ("autoscaling", "HorizontalPodAutoscaler") => {
            let min = v.object.pointer("/spec/minReplicas").and_then(Value::as_i64).map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
            let reference = format!("{}/{}", v.text("/spec/scaleTargetRef/kind"), v.text("/spec/scaleTargetRef/name"));
            vec![v.name(), reference.into(), metrics(v).into(), min.into(), v.int("/spec/maxReplicas"), v.int("/status/currentReplicas"), v.age()]
        }
        ("networking.k8s.io", "NetworkPolicy") => vec![v.name(), v.selector("/spec/podSelector"), v.age()],
        ("storage.k8s.io", "StorageClass") => {
            vec![v.name(), v.cell("/provisioner"), v.absent("/reclaimPolicy", "Delete"), v.absent("/volumeBindingMode", "Immediate"), v.flag("/allowVolumeExpansion", false), v.age()]
        }
        ("storage.k8s.io", "VolumeAttributesClass") => vec![v.name(), v.cell("/driverName"), v.age()],
        ("coordination.k8s.io", "Lease") => vec![v.name(), v.cell("/spec/holderIdentity"), v.age()],
        ("", "Status") => vec![v.cell("/status"), v.cell("/reason"), v.cell("/message")],
        ("apps", "ControllerRevision") => {
            let owner = items(v.object, "/metadata/ownerReferences").find(|o| o.get("controller") == Some(&Value::Bool(true))).map_or_else(
                || "<none>".to_owned(),
                |o| {
                    let kind = match text(o, "/apiVersion").split_once('/') {
                        Some((group, _)) => format!("{}.{group}", text(o, "/kind")),
                        None => text(o, "/kind").to_owned(),
                    };
                    if kind.is_empty() { text(o, "/name").to_owned() } else { format!("{}/{}", kind.to_lowercase(), text(o, "/name")) }
                },
            );
            vec![v.name(), owner.into(), v.int("/revision"), v.age()]
        }
        ("", "ResourceQuota") => {
            let [requests, limits] = quota(v);
            vec![v.name(), requests, limits, v.age()]
        }
        ("scheduling.k8s.io", "PriorityClass") => vec![v.name(), v.int("/value"), v.flag("/globalDefault", false), v.age(), v.cell("/preemptionPolicy")],
        ("node.k8s.io", "RuntimeClass") => vec![v.name(), v.cell("/handler"), v.age()],
        ("storage.k8s.io", "VolumeAttachment") => {
            vec![v.name(), v.cell("/spec/attacher"), v.cell("/spec/source/persistentVolumeName"), v.cell("/spec/nodeName"), v.flag("/status/attached", false), v.age()]
        }
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => {
            let dangling = items(v.object, "/status/conditions").find(|c| text(c, "/type") == "Dangling").map_or("?", |c| text(c, "/status"));
            vec![v.name(), v.cell("/spec/priorityLevelConfiguration/name"), v.int("/spec/matchingPrecedence"), v.absent("/spec/distinguisherMethod/type", "<none>"), v.age(), dangling.into()]
        }
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => {
            let limited = v.object.pointer("/spec/limited").filter(|l| !l.is_null());
            let queuing = limited.and_then(|l| l.pointer("/limitResponse/queuing")).filter(|q| !q.is_null());
            let of = |from: Option<&Value>, key: &str| from.map_or_else(|| json!("<none>"), |f| f.get(key).cloned().unwrap_or_else(|| 0.into()));
            vec![v.name(), v.cell("/spec/type"), of(limited, "nominalConcurrencyShares"), of(queuing, "queues"), of(queuing, "handSize"), of(queuing, "queueLengthLimit"), v.age()]
        }
        ("networking.k8s.io", "ServiceCIDR") => {
            let all: Vec<&str> = items(v.object, "/spec/cidrs").filter_map(Value::as_str).collect();
            vec![v.name(), all.join(",").into(), v.age()]
        }
        ("networking.k8s.io", "IPAddress") => {
            let parent = v.object.pointer("/spec/parentRef").filter(|p| !p.is_null()).map_or_else(
                || "<none>".to_owned(),
                |p| {
                    let mut out = match text(p, "/group") {
                        "" => text(p, "/resource").to_lowercase(),
                        group => format!("{}.{group}", text(p, "/resource")).to_lowercase(),
                    };
                    if !text(p, "/namespace").is_empty() {
                        out += &format!("/{}", text(p, "/namespace"));
                    }
                    format!("{out}/{}", text(p, "/name"))
                },
            );
            vec![v.name(), parent.into(), v.age()]
        }
        ("autoscaling", "Scale") => vec![v.name(), v.int("/spec/replicas"), v.int("/status/replicas"), v.age()],
        ("resource.k8s.io", "DeviceClass" | "ResourceClaimTemplate") => vec![v.name(), v.age()],
        ("resource.k8s.io", "ResourceClaim") => {
            let mut states = Vec::new();
            if v.deleted() {
                states.push("deleted");
            }
            if v.object.pointer("/status/allocation").is_none_or(Value::is_null) {
                if !v.deleted() {
                    states.push("pending");
                }
            } else {
                states.push("allocated");
                if items(v.object, "/status/reservedFor").next().is_some() {
                    states.push("reserved");
                }
            }
            vec![v.name(), states.join(",").into(), v.age()]
        }
        ("resource.k8s.io", "ResourceSlice") => vec![v.name(), v.cell("/spec/nodeName"), v.cell("/spec/driver"), v.cell("/spec/pool/name"), v.age()],
        ("resource.k8s.io", "DeviceTaintRule") => {
            let added = if v.text("/spec/taint/timeAdded").is_empty() { String::new() } else { v.since("/spec/taint/timeAdded") };
            vec![v.name(), v.cell("/spec/taint/key"), v.cell("/spec/taint/value"), v.cell("/spec/taint/effect"), added.into(), v.age()]
        }
        ("storagemigration.k8s.io", "StorageVersionMigration") => {
            let resource = match v.text("/spec/resource/group") {
                "" => v.text("/spec/resource/resource").to_owned(),
                group => format!("{}.{group}", v.text("/spec/resource/resource")),
            };
            let status = items(v.object, "/status/conditions").filter(|c| text(c, "/status") == "True").map(|c| text(c, "/type")).filter(|t| matches!(*t, "Running" | "Failed" | "Succeeded")).last().unwrap_or("Unknown");
            vec![v.name(), resource.into(), status.into()]
        }
        ("apiregistration.k8s.io", "APIService") => {
            let service = v.object.pointer("/spec/service").filter(|s| !s.is_null()).map_or_else(|| "Local".to_owned(), |s| format!("{}/{}", text(s, "/namespace"), text(s, "/name")));
            let available = match items(v.object, "/status/conditions").find(|c| text(c, "/type") == "Available") {
                Some(c) if text(c, "/status") == "True" => "True".to_owned(),
                Some(c) => format!("{} ({})", text(c, "/status"), text(c, "/reason")),
                None => "Unknown".to_owned(),
            };
            vec![v.name(), service.into(), available.into(), v.age()]
        }
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            let versions = items(v.object, "/spec/versions").filter(|x| x["served"] == true);
            let stored = |x: &Value| if x["storage"] == true { "(storage)" } else { "" };
            let versions: Vec<String> = versions.map(|x| format!("{}{}", text(x, "/name"), stored(x))).collect();
            let short: Vec<&str> = items(v.object, "/spec/names/shortNames").filter_map(Value::as_str).collect();
            let established = items(v.object, "/status/conditions").any(|c| text(c, "/type") == "Established" && text(c, "/status") == "True");
            let made = v.cell("/metadata/creationTimestamp");
            vec![v.name(), v.cell("/spec/scope"), versions.join(",").into(), made, v.cell("/spec/group"), v.cell("/spec/names/kind"), short.join(",").into(), established.into()]
        }
        _ => return None,
    })
}
