//! The one way of every request: authenticate, impersonate, wait for a turn, authorize, serve.

use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use http::{HeaderValue, Request, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use knarr_registry::ApiError;
use serde_json::json;

use crate::{
    aggregator,
    audit::{self, Record},
    auth::{self, Authenticated, UserInfo, front_proxy::Presented},
    authz::{self, Attributes},
    core::{Core, Ctx},
    discovery,
    flowcontrol::{Marks, Pass},
    openapi,
    request::{Info, Query, duration},
    respond::{self, Body, Format, Reply},
    serve,
};

/// How a connection presents itself.
#[derive(Clone, Debug)]
pub enum Identity {
    /// In process: that user, without a question.
    Fixed(Arc<UserInfo>),
    /// Over the network, with what the client certificate proves if there was one.
    Network(Presented),
}

async fn authenticate(
    core: &Core,
    headers: &http::HeaderMap,
    path: &str,
    id: &Identity,
) -> Result<Arc<UserInfo>, ApiError> {
    let certified = match id {
        Identity::Fixed(u) => return Ok(Arc::clone(u)),
        Identity::Network(p) => p,
    };
    if certified.front
        && let Some(u) = core.settings.requestheader.user(headers)
    {
        return Ok(Arc::new(u));
    }
    if let Some(u) = &certified.user {
        return Ok(Arc::clone(u));
    }
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.split_once(' '))
        .filter(|(k, _)| k.eq_ignore_ascii_case("bearer"))
        .map(|(_, t)| t.trim());
    match bearer {
        Some(t) if !t.is_empty() => {
            token(core, t, &[])
                .await
                .map(|a| Arc::new(a.user))
                .map_err(|why| {
                    tracing::debug!(why, "token refused");
                    ApiError::unauthorized()
                })
        }
        _ if auth::oidc::anonymous(&core.authentication().anonymous, path) => {
            Ok(Arc::new(UserInfo::anonymous()))
        }
        _ => Err(ApiError::unauthorized()),
    }
}

/// Whose a token is, by this server or another issuer.
///
/// # Errors
/// Why it is not accepted.
pub async fn token(
    core: &Core,
    token: &str,
    audiences: &[String],
) -> Result<Authenticated, String> {
    let own = match core.tokens.authenticate(token, audiences) {
        Ok(a) => return Ok(a),
        Err(why) => why,
    };
    let Some(user) = core.authentication().issuers.authenticate(token).await? else {
        let Some(w) = &core.token_webhook else {
            return Err(own);
        };
        let mine = &core.tokens.audiences;
        let wanted = if audiences.is_empty() {
            mine
        } else {
            audiences
        };
        return w.authenticate(token, wanted, mine).await?.ok_or(own);
    };
    // Such tokens are for this server, whatever their own audience.
    let mine = &core.tokens.audiences;
    let audiences: Vec<String> = if audiences.is_empty() {
        mine.clone()
    } else {
        audiences
            .iter()
            .filter(|a| mine.contains(a))
            .cloned()
            .collect()
    };
    if audiences.is_empty() {
        Err("token audiences do not match".into())
    } else {
        Ok(Authenticated { user, audiences })
    }
}

impl Identity {
    fn peer(&self) -> Option<std::net::IpAddr> {
        match self {
            Self::Fixed(_) => None,
            Self::Network(p) => p.peer,
        }
    }
}

/// How long a request may take; `None` if it may take as long as it wants.
fn time_limit(core: &Core, info: &Info, query: &Query) -> Result<Option<Duration>, ApiError> {
    if info.long_running() {
        return Ok(None);
    }
    let most = core.settings.request_timeout;
    let asked = match query.get("timeout") {
        "" => Duration::ZERO,
        t => duration(t).map_err(|why| ApiError::bad_request(format!("invalid timeout specified in the request URL - {why}")))?,
    };
    Ok(Some(if asked.is_zero() { most } else { asked.min(most) }))
}

/// The user that a request is made as, and what allowed it.
fn impersonate(core: &Core, user: Arc<UserInfo>, info: &Info, headers: &http::HeaderMap) -> Result<(Arc<UserInfo>, Option<String>), ApiError> {
    let Some(wanted) = auth::wanted(headers)? else {
        return Ok((user, None));
    };
    let (other, constraint) = core.impersonation.act(&core.authorizer, &user, &Attributes::from(info), &wanted)?;
    Ok((Arc::new(other), Some(constraint)))
}

/// What becomes known of a request on its way, also where it goes no further.
#[derive(Default)]
struct Trail {
    /// The record that is kept of it.
    record: Option<Arc<Record>>,
    /// Its flow schema and priority level.
    marks: Option<Marks>,
}

/// An answer that is still to be sent holds its seats until then if it is large, or made on the
/// way; of a watch only the beginning does.
fn hold(pass: Pass<'_>, reply: Reply, watch: bool) -> Reply {
    const LARGE: u64 = 128 * 1024;
    let Pass::Seat(seat) = pass else { return reply };
    if watch || reply.body().size_hint().upper().is_some_and(|n| n <= LARGE) {
        return reply;
    }
    reply.map(|b| {
        b.map_frame(move |f| {
            let _held = &seat;
            f
        })
        .boxed_unsync()
    })
}

/// Answers a request; never fails.
pub async fn handle(core: Arc<Core>, request: Request<Body>, id: Identity) -> Reply {
    let query = Query::parse(request.uri().query());
    let path = request.uri().path().to_owned();
    let info = Info::parse(request.method(), &path, &query);
    let is_resource = info.resource_request;
    let format = respond::negotiate(request.headers(), query.get("pretty"), true);
    let fallback = format.as_ref().ok().copied().unwrap_or_default();
    let (verb, resource) = (info.verb.clone(), info.resource.clone());
    let info = Arc::new(info);
    let named = request
        .headers()
        .get("audit-id")
        .and_then(|v| v.to_str().ok())
        .filter(|v| !v.is_empty() && v.len() <= 64);
    let audit_id = named.map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
    let long = info.long_running();
    let mut trail = Trail::default();
    let mut reply = match answer(
        &core, request, &id, info, query, format, &audit_id, &mut trail,
    )
    .await
    {
        Ok(r) => r,
        Err(e) => respond::error(&e, fallback),
    };
    if let Some(r) = trail.record {
        reply = r.answered(reply, long).await;
    }
    if let Some(m) = trail.marks {
        reply
            .headers_mut()
            .insert("x-kubernetes-pf-flowschema-uid", m.schema);
        reply
            .headers_mut()
            .insert("x-kubernetes-pf-prioritylevel-uid", m.level);
    }
    let code = reply.status().as_u16();
    if let Ok(mut m) = core.requests.lock() {
        *m.entry((
            if is_resource { verb } else { "GET".into() },
            resource,
            code,
        ))
        .or_default() += 1;
    }
    if let Ok(v) = HeaderValue::from_str(&audit_id) {
        reply.headers_mut().insert("audit-id", v);
    }
    reply
}

fn uri(request: &Request<Body>) -> String {
    request
        .uri()
        .path_and_query()
        .map_or_else(String::new, ToString::to_string)
}

#[allow(clippy::too_many_arguments)]
async fn answer(
    core: &Arc<Core>,
    request: Request<Body>,
    id: &Identity,
    info: Arc<Info>,
    query: Query,
    format: Result<Format, ApiError>,
    audit_id: &str,
    trail: &mut Trail,
) -> Result<Reply, ApiError> {
    let begin = std::time::Instant::now();
    let user = match authenticate(core, request.headers(), &info.path, id).await {
        Ok(u) => u,
        Err(e) => {
            audit::unauthenticated(
                core,
                audit_id,
                &info,
                request.headers(),
                &uri(&request),
                id.peer(),
            )
            .await;
            return Err(e);
        }
    };
    if let Some(a) = &core.audit {
        let uri = uri(&request);
        match a.begin(audit_id, &info, &user, request.headers(), &uri, id.peer()).await {
            Ok(record) => trail.record = record,
            Err(audit::Unrecorded) => return Ok(respond::text(500, format!("Internal Server Error: {uri:?}: failed to store audit event\n"))),
        }
    }
    let limit = time_limit(core, &info, &query)?;
    let (user, constraint) = impersonate(core, user, &info, request.headers())?;
    if let (Some(r), Some(constraint)) = (&trail.record, constraint) {
        r.impersonated(&user, &constraint);
    }
    let pass = match core
        .limiter
        .enter(core, &user, &info, &query, limit, &mut trail.marks)
        .await
    {
        Ok(p) => p,
        Err(refused) => return Ok(respond::too_many(refused.after)),
    };
    let watch = info.verb == "watch";
    let served = admitted(core, request, info, query, format, user, trail.record.as_ref());
    let reply = match limit {
        None => served.await?,
        Some(limit) => match tokio::time::timeout(limit.saturating_sub(begin.elapsed()), served).await {
            Ok(reply) => reply?,
            Err(_) => return Err(ApiError::new(504, "Timeout", "Timeout: request did not complete within the allotted timeout")),
        },
    };
    Ok(hold(pass, reply, watch))
}

/// What a request asks for is done, if its user may.
async fn admitted(
    core: &Arc<Core>,
    request: Request<Body>,
    info: Arc<Info>,
    query: Query,
    format: Result<Format, ApiError>,
    user: Arc<UserInfo>,
    record: Option<&Arc<Record>>,
) -> Result<Reply, ApiError> {
    let attributes = Attributes::from(&*info);
    let (allowed, reason) = core.authorizer.allows(&user, &attributes);
    if let Some(r) = record {
        r.annotate(
            "authorization.k8s.io/decision",
            if allowed { "allow" } else { "forbid" },
        );
        r.annotate("authorization.k8s.io/reason", &reason);
    }
    if !allowed {
        return Err(authz::denial(&user, &attributes, &reason));
    }
    if let Some(remote) = core.aggregator.find(&info.path) {
        return Ok(aggregator::serve(core, &remote, request, &user).await);
    }
    let request = match record {
        Some(r) if !info.long_running() => r.sent(request).await?,
        _ => request,
    };
    let table = core.table();
    if !info.resource_request {
        // The document of a group version that another server serves is that server's.
        if let Some(remote) = info
            .path
            .strip_prefix("/openapi/v3")
            .and_then(|p| core.aggregator.find(p))
        {
            return Ok(aggregator::serve(core, &remote, request, &user).await);
        }
        return special(core, request.headers(), &info, &query, &table, format).await;
    }
    let Some(resource) = table
        .catalog
        .lookup(&info.group, &info.version, &info.resource)
        .cloned()
    else {
        return Err(ApiError::no_resource());
    };
    if resource.namespaced
        && info.namespace.is_empty()
        && !matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
        && !(info.verb == "create" && resource.key_prefix.is_empty())
    {
        return Err(if info.verb == "create" {
            ApiError::method_not_allowed()
        } else {
            ApiError::no_resource()
        });
    }
    let format = match format {
        Ok(f) => f,
        Err(_) if info.long_running() => Format::default(),
        Err(e) => return Err(e),
    };
    let ctx = Arc::new(Ctx {
        core: Arc::clone(core),
        table,
        headers: request.headers().clone(),
        info,
        query,
        user,
        resource,
        format,
        warnings: Mutex::new(Vec::new()),
        record: record.cloned(),
    });
    let out = serve::resource(Arc::clone(&ctx), request).await;
    out.or_else(|mut e| {
        if e.code == 410 && e.details.is_none() {
            e.reason = "Expired";
        }
        let mut reply = respond::error(&e, ctx.format);
        if let Ok(w) = ctx.warnings.lock() {
            respond::warn(&mut reply, &w);
        }
        Ok(reply)
    })
}

async fn special(
    core: &Core,
    headers: &http::HeaderMap,
    info: &Info,
    query: &Query,
    table: &crate::core::Table,
    format: Result<Format, ApiError>,
) -> Result<Reply, ApiError> {
    let path = info.path.as_str();
    let f = format.unwrap_or_default();
    let host = core.settings.advertise.to_string();
    if let Some(r) = discovery::serve(
        &table.catalog,
        &core.aggregator.remotes(),
        path,
        headers,
        f,
        &host,
    ) {
        return r;
    }
    if let Some(r) = openapi::serve(table, &core.aggregator, path, query, headers, f) {
        return r;
    }
    let (root, check) = path
        .trim_matches('/')
        .split_once('/')
        .unwrap_or((path.trim_matches('/'), ""));
    match root {
        "healthz" | "livez" | "readyz" => return health(core, root, check, query).await,
        _ => {}
    }
    match path.trim_end_matches('/') {
        "" => Ok(respond::object(
            200,
            &json!({"paths": ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]}),
            f,
        )),
        "/version" => Ok(respond::object(200, &version(), f)),
        p if p.starts_with("/debug/api_priority_and_fairness/") => {
            let page = p
                .rsplit('/')
                .next()
                .and_then(|page| core.limiter.fair()?.dump(page, query));
            Ok(page.map_or_else(no_page, |text| respond::text(200, text)))
        }
        "/metrics" => Ok(respond::bytes(
            200,
            "text/plain; version=0.0.4; charset=utf-8",
            metrics(core).into_bytes(),
            f.gzip,
        )),
        "/openid/v1/jwks" => {
            let b = core.tokens.signer.jwks().to_string();
            Ok(respond::bytes(
                200,
                "application/jwk-set+json",
                b.into_bytes(),
                false,
            ))
        }
        "/.well-known/openid-configuration" => {
            let v = json!({"issuer": core.settings.issuer, "jwks_uri": core.settings.jwks_uri.clone().unwrap_or_else(|| format!("https://{}/openid/v1/jwks", core.settings.advertise)),
                "response_types_supported": ["id_token"], "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": core.tokens.signer.algorithms()});
            Ok(respond::object(200, &v, Format::default()))
        }
        _ => Ok(no_page()),
    }
}

/// The answer for a path that nobody knows.
fn no_page() -> Reply {
    let mut r = respond::text(404, "404 page not found\n");
    r.headers_mut().insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    r
}

fn version() -> serde_json::Value {
    json!({"major": "1", "minor": "37", "emulationMajor": "1", "emulationMinor": "37", "minCompatibilityMajor": "1", "minCompatibilityMinor": "36",
        "gitVersion": "v1.37.2+knarr", "gitCommit": "", "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "rust", "compiler": "rustc", "platform": "linux/amd64"})
}

async fn health(core: &Core, root: &str, check: &str, query: &Query) -> Result<Reply, ApiError> {
    let ready = core.ready.load(Ordering::Acquire);
    let stopping = core.stop.is_cancelled();
    let mut checks = vec![
        ("ping", true),
        ("log", true),
        ("etcd", true),
        ("poststarthook/start-apiextensions-controllers", true),
        ("poststarthook/rbac/bootstrap-roles", ready),
        (
            "poststarthook/scheduling/bootstrap-system-priority-classes",
            ready,
        ),
        ("poststarthook/priority-and-fairness-config-producer", ready),
    ];
    let mut why = "not finished".to_owned();
    if let Some(e) = &core.encryption
        && let Some(keys) = e.health().await
    {
        checks.push(("kms-providers", keys.is_ok()));
        if let Err(e) = keys
            && check == "kms-providers"
        {
            why = e;
        }
    }
    if root == "readyz" {
        checks.push(("informer-sync", ready));
        checks.push(("shutdown", !stopping));
    }
    if !check.is_empty() {
        return match checks.iter().find(|(n, _)| *n == check) {
            Some((_, true)) => Ok(respond::text(200, "ok")),
            Some(_) => Ok(respond::text(
                500,
                format!("internal server error: {check}: {why}\n"),
            )),
            None => Ok(no_page()),
        };
    }
    let excluded = query.all("exclude");
    checks.retain(|(n, _)| !excluded.iter().any(|e| e == n));
    let ok = checks.iter().all(|(_, ok)| *ok);
    if ok && !query.has("verbose") {
        return Ok(respond::text(200, "ok"));
    }
    let mut s = String::new();
    for (n, ok) in checks {
        s.push_str(&if ok {
            format!("[+]{n} ok\n")
        } else {
            format!("[-]{n} failed: reason withheld\n")
        });
    }
    s.push_str(&format!(
        "{root} check {}\n",
        if ok { "passed" } else { "failed" }
    ));
    Ok(respond::text(if ok { 200 } else { 500 }, s))
}

fn metrics(core: &Core) -> String {
    let mut s = String::from(
        "# HELP apiserver_request_total Counter of apiserver requests broken out for each verb, resource and HTTP response code.\n# TYPE apiserver_request_total counter\n",
    );
    if let Ok(m) = core.requests.lock() {
        let mut all: Vec<_> = m.iter().collect();
        all.sort();
        for ((verb, resource, code), n) in all {
            s.push_str(&format!("apiserver_request_total{{code=\"{code}\",resource=\"{resource}\",verb=\"{}\"}} {n}\n", verb.to_uppercase()));
        }
    }
    s.push_str("# HELP apiserver_current_inflight_requests Requests in flight.\n# TYPE apiserver_current_inflight_requests gauge\n");
    for (n, kind) in core.limiter.running().iter().zip(["readOnly", "mutating"]) {
        s.push_str(&format!(
            "apiserver_current_inflight_requests{{request_kind=\"{kind}\"}} {n}\n"
        ));
    }
    s.push_str("# HELP apiserver_storage_objects Number of stored objects.\n# TYPE apiserver_storage_objects gauge\n");
    let mut kinds: Vec<_> = core
        .table()
        .kinds
        .iter()
        .filter(|(k, _)| !k.contains('@'))
        .map(|(_, k)| (k.resource.clone(), k.group.clone(), k.cache.len()))
        .collect();
    kinds.sort();
    for (resource, group, n) in kinds {
        s.push_str(&format!(
            "apiserver_storage_objects{{group=\"{group}\",resource=\"{resource}\"}} {n}\n"
        ));
    }
    s.push_str("# HELP kubernetes_feature_enabled The stage of a feature, and whether it is on.\n# TYPE kubernetes_feature_enabled gauge\n");
    for f in knarr_schema::features::all() {
        let stage = if f.stage == "GA" { "" } else { f.stage };
        let on = u8::from(core.gates.enabled(f.name));
        s.push_str(&format!("kubernetes_feature_enabled{{name=\"{}\",stage=\"{stage}\"}} {on}\n", f.name));
    }
    if let Some(f) = core.limiter.fair() {
        s.push_str(&f.metrics());
    }
    if let Some(e) = &core.encryption {
        s.push_str(&e.reloads().metrics("encryption_config"));
    }
    s.push_str(&core.reloads.authentication.metrics("authentication_config"));
    s.push_str(&core.reloads.authorization.metrics("authorization_config"));
    s
}
