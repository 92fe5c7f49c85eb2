//! What every request can reach: the table of kinds, the registry, the authorizers.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64},
    },
};

use knarr_registry::{ApiError, Codec, Registry, rest::Kind, strategy};
use knarr_schema::{Catalog, Resource, features::Gates};
use tokio_util::sync::CancellationToken;

use crate::{
    aggregator::Aggregator,
    auth::{Tokens, UserInfo},
    authz::Authorizer,
    bridge,
    config::Settings,
    flowcontrol::Limiter,
    reload::Reloads,
    request::{Info, Query},
    respond::Format,
};

/// The rows that are served, with the stored kind behind each.
pub struct Table {
    /// The rows.
    pub catalog: Arc<Catalog>,
    /// Stored kinds by key prefix (`pods`, `apps…`), shared by all versions of a resource.
    pub kinds: HashMap<String, Kind>,
    /// Another one for every table.
    pub generation: u64,
}

impl Table {
    /// The stored kind of a row.
    #[must_use]
    pub fn kind(&self, r: &Resource) -> Option<&Kind> {
        if r.is_custom() {
            return self.kinds.get(&format!("{}@{}", r.key_prefix, r.version));
        }
        let stored = self.kinds.get(r.key_prefix.as_ref());
        match stored {
            Some(k) if k.group != *r.group => {
                self.kinds.get(&format!("{}@{}", r.key_prefix, r.group))
            }
            _ => stored,
        }
    }
}

/// The server's state.
pub struct Core {
    /// How it was started.
    pub settings: Settings,
    /// Objects.
    pub registry: Arc<Registry>,
    /// The built-in rows that are served.
    pub builtin: Arc<Catalog>,
    /// The gates of features.
    pub gates: Gates,
    /// Rows.
    pub table: RwLock<Arc<Table>>,
    /// Who may do what.
    pub authorizer: Authorizer,
    /// Who a token is of.
    pub tokens: Tokens,
    /// Held while addresses and ports are chosen and the service is stored.
    pub allocating: Arc<tokio::sync::Mutex<()>>,
    /// Whether bootstrap is done.
    pub ready: AtomicBool,
    /// Requests answered, for `/metrics`.
    pub requests: Mutex<HashMap<(String, String, u16), u64>>,
    /// How many requests run at a time, and whose.
    pub limiter: Limiter,
    /// Cancelled when the server ends.
    pub stop: CancellationToken,
    /// Numbers of the tables, as they come.
    pub table_changes: tokio::sync::watch::Sender<u64>,
    /// What other servers serve.
    pub aggregator: Aggregator,
    /// Other issuers of tokens, and who may be anonymous; another one when it is configured anew.
    pub authentication: RwLock<Arc<crate::auth::oidc::Authentication>>,
    /// Who reviews tokens that nobody here knows.
    pub token_webhook: Option<crate::auth::webhook::TokenWebhook>,
    /// What is recorded of requests.
    pub audit: Option<crate::audit::Audit>,
    /// How values are held in the store.
    pub encryption: Option<Arc<crate::encryption::Encryption>>,
    /// Who may act as whom.
    pub impersonation: crate::auth::Impersonation,
    /// How often configurations were read again.
    pub reloads: ConfigReloads,
    /// The kubelets' client.
    pub kubelets: crate::serve::connect::Kubelets,
}

/// How often configurations were read again.
#[derive(Default)]
pub struct ConfigReloads {
    /// Who is who.
    pub authentication: Arc<Reloads>,
    /// Who may do what.
    pub authorization: Arc<Reloads>,
}

impl Core {
    /// The rows as they are now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(
            &self
                .table
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
    /// Other issuers of tokens, and who may be anonymous.
    #[must_use]
    pub fn authentication(&self) -> Arc<crate::auth::oidc::Authentication> {
        Arc::clone(
            &self
                .authentication
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }
    /// The lock of [`crate::alloc`].
    #[must_use]
    pub fn allocating_lock(&self) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.allocating)
    }
    /// The stored kind of a resource that is built in.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn kind(&self, prefix: &str) -> Result<Kind, ApiError> {
        self.table()
            .kinds
            .get(prefix)
            .cloned()
            .ok_or_else(ApiError::no_resource)
    }
    /// One object from the cache, as it is kept there: its labels can be read without decoding it.
    #[must_use]
    pub fn entry(
        &self,
        prefix: &str,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<knarr_registry::Entry>> {
        let table = self.table();
        let k = table.kinds.get(prefix)?;
        k.cache.get(&k.key(namespace, name))
    }
    /// One object from the cache, by which a request is decided.
    #[must_use]
    pub fn peek(&self, prefix: &str, namespace: &str, name: &str) -> Option<Arc<serde_json::Value>> {
        let k = self.table().kinds.get(prefix).cloned()?;
        k.cache.get(&k.key(namespace, name)).map(|e| Arc::clone(e.shared()))
    }
}

/// The codecs and strategies of rows: one for each key prefix.
pub fn codecs<'r>(rows: impl IntoIterator<Item = &'r Arc<Resource>>) -> Vec<(String, Arc<dyn Codec>, Arc<Resource>)> {
    let mut out: Vec<(String, Arc<dyn Codec>, Arc<Resource>)> = Vec::new();
    for r in rows {
        if r.key_prefix.is_empty() {
            continue;
        }
        let prefix = format!("{}{}/", knarr_registry::ROOT, r.key_prefix);
        if let Some(known) = out.iter_mut().find(|(p, ..)| *p == prefix) {
            // Of several served versions the stored one is the one in memory; legacy events win.
            let stored = |r: &Resource| {
                r.stored_as
                    .as_ref()
                    .is_some_and(|s| *s == r.group_version())
            };
            if stored(r) && !stored(&known.2) {
                known.1 = Arc::new(bridge::ObjectCodec::new(Arc::clone(r)));
                known.2 = Arc::clone(r);
            }
            continue;
        }
        out.push((
            prefix,
            Arc::new(bridge::ObjectCodec::new(Arc::clone(r))),
            Arc::clone(r),
        ));
    }
    out
}

/// Builds the table over a registry that holds the caches.
#[must_use]
pub fn table(catalog: Arc<Catalog>, registry: &Registry) -> Table {
    let mut kinds = HashMap::new();
    // What is stored is there also where it is not served.
    for (prefix, _, r) in codecs(Catalog::builtin().resources().iter().chain(catalog.resources().iter().filter(|r| r.is_custom()))) {
        let Some(cache) = registry.cache(&prefix) else {
            continue;
        };
        let strategy = if r.is_custom() {
            strategy::custom(r.subresource("status").is_some(), r.schema.clone())
        } else {
            strategy::of(&r.group, &r.plural)
        };
        kinds.insert(
            r.key_prefix.to_string(),
            Kind {
                group: r.group.to_string(),
                kind: r.kind.to_string(),
                resource: r.plural.to_string(),
                namespaced: r.namespaced,
                cache,
                strategy,
            },
        );
    }
    // Errors name the group that was asked, also where another one's objects are the same.
    for r in Catalog::builtin().resources() {
        if let Some(stored) = kinds.get(r.key_prefix.as_ref()).cloned()
            && stored.group != *r.group
        {
            kinds.insert(
                format!("{}@{}", r.key_prefix, r.group),
                Kind {
                    group: r.group.to_string(),
                    ..stored
                },
            );
        }
    }
    // Each version of a custom resource is checked by a schema of its own.
    for r in catalog.resources().iter().filter(|r| r.is_custom()) {
        if let Some(stored) = kinds.get(r.key_prefix.as_ref()).cloned() {
            // What a webhook has converted is checked as it is stored.
            let strategy = if r.conversion.is_some() {
                Arc::clone(&stored.strategy)
            } else {
                strategy::custom(r.subresource("status").is_some(), r.schema.clone())
            };
            kinds.insert(
                format!("{}@{}", r.key_prefix, r.version),
                Kind { strategy, ..stored },
            );
        }
    }
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Table {
        catalog,
        kinds,
        generation: NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
    }
}

/// One request inside the pipeline.
pub struct Ctx {
    /// The server.
    pub core: Arc<Core>,
    /// Rows at the time of the request.
    pub table: Arc<Table>,
    /// What is asked.
    pub info: Arc<Info>,
    /// Parameters.
    pub query: Query,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// Headers.
    pub headers: http::HeaderMap,
    /// The row asked for.
    pub resource: Arc<Resource>,
    /// The wanted form of the answer.
    pub format: Format,
    /// Warnings for the client.
    pub warnings: Mutex<Vec<String>>,
    /// The record that is kept of it.
    pub record: Option<Arc<crate::audit::Record>>,
}

impl Ctx {
    /// The stored kind.
    ///
    /// # Errors
    /// 405 if nothing is stored.
    pub fn kind(&self) -> Result<&Kind, ApiError> {
        self.table
            .kind(&self.resource)
            .ok_or_else(ApiError::method_not_allowed)
    }
    /// Adds a warning.
    pub fn warn(&self, text: impl Into<String>) {
        if let Ok(mut w) = self.warnings.lock() {
            w.push(text.into());
        }
    }
    /// Adds a note to the record.
    pub fn annotate(&self, key: &str, value: &str) {
        if let Some(r) = &self.record {
            r.annotate(key, value);
        }
    }
    /// Whether nothing may be stored.
    ///
    /// # Errors
    /// 422 (as 400) for an unknown value.
    pub fn dry_run(&self) -> Result<bool, ApiError> {
        match self.query.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::invalid(
                "meta.k8s.io",
                "CreateOptions",
                "",
                &[knarr_registry::FieldError::not_supported(
                    "dryRun",
                    serde_json::json!([other]),
                    &["All"],
                )],
            )),
        }
    }
    /// Who writes: `fieldManager` or the client's name.
    #[must_use]
    pub fn manager(&self) -> String {
        let m = self.query.get("fieldManager");
        if !m.is_empty() {
            return m.to_owned();
        }
        let agent = self
            .headers
            .get(http::header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("");
        let name = agent.split('/').next().unwrap_or("").trim();
        let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
        if name.is_empty() {
            "unknown".into()
        } else {
            name
        }
    }
}
