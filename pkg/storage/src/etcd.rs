//! etcd v3 behind the store's trait.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use self::pb::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    RequestOp, ResponseHeader, TxnRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    compare::{CompareResult, CompareTarget, TargetUnion},
    kv_client::KvClient,
    lease_client::LeaseClient,
    request_op::Request as Op,
    response_op::Response as OpResponse,
    watch_client::WatchClient,
    watch_request::RequestUnion,
};
use crate::{
    Error, EtcdConfig, Event, KeyValue, Range, Revision, Store, Swap, Watch, WatchItem, prefix_end,
};

/// etcd's messages, generated from `api/etcd`.
#[allow(missing_docs, clippy::all)]
mod pb {
    pub(super) mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    pub(super) mod mvccpb {
        tonic::include_proto!("mvccpb");
    }
}

/// The largest message taken from etcd, in bytes.
const MESSAGE_LIMIT: usize = 512 << 20;

/// A store in etcd; several servers may share it.
pub(crate) struct Etcd {
    channel: Channel,
    /// Rings the running watches for a progress request.
    progress: watch::Sender<u64>,
    names: Names,
}

/// What keys begin with for callers, whatever it is in etcd.
const ROOT: &str = "/registry";

/// Between callers' keys and etcd's.
#[derive(Clone)]
struct Names(Option<std::sync::Arc<str>>);

impl Names {
    fn new(prefix: &str) -> Self {
        Self(Some(prefix).filter(|p| !p.is_empty() && *p != ROOT).map(Into::into))
    }

    fn there(&self, key: &str) -> Vec<u8> {
        match (&self.0, key.strip_prefix(ROOT)) {
            (Some(prefix), Some(rest)) => [prefix.as_bytes(), rest.as_bytes()].concat(),
            _ => key.into(),
        }
    }

    fn here(&self, key: Vec<u8>) -> String {
        let key = String::from_utf8(key).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
        match self.0.as_ref().and_then(|p| key.strip_prefix(p.as_ref())) {
            Some(rest) => format!("{ROOT}{rest}"),
            None => key,
        }
    }

    fn pair(&self, kv: pb::mvccpb::KeyValue) -> KeyValue {
        KeyValue {
            key: self.here(kv.key),
            value: kv.value,
            create_revision: unsigned(kv.create_revision),
            mod_revision: unsigned(kv.mod_revision),
            lease: kv.lease,
        }
    }

    fn event(&self, event: pb::mvccpb::Event) -> Option<Event> {
        let put = event.r#type() == pb::mvccpb::event::EventType::Put;
        let current = self.pair(event.kv?);
        Some(Event {
            key: current.key.clone(),
            revision: current.mod_revision,
            previous: event.prev_kv.map(|kv| self.pair(kv)),
            current: put.then_some(current),
        })
    }
}

impl Etcd {
    pub(crate) async fn connect(config: &EtcdConfig) -> Result<Self, Error> {
        let bad = |e: &dyn std::error::Error| Error::Unavailable(format!("etcd: {e}"));
        let mut endpoints = Vec::new();
        for url in &config.endpoints {
            let mut endpoint = Endpoint::from_shared(url.clone())
                .map_err(|e| bad(&e))?
                .connect_timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(30))
                .keep_alive_timeout(Duration::from_secs(10))
                .keep_alive_while_idle(true);
            if url.starts_with("https://") {
                let mut tls = ClientTlsConfig::new();
                if let Some(ca) = &config.ca {
                    tls = tls.ca_certificate(Certificate::from_pem(ca));
                }
                if let Some((certificate, key)) = &config.identity {
                    tls = tls.identity(Identity::from_pem(certificate, key));
                }
                endpoint = endpoint.tls_config(tls).map_err(|e| bad(&e))?;
            }
            endpoints.push(endpoint);
        }
        let channel = match endpoints.as_slice() {
            [] => return Err(Error::Unavailable("etcd: no endpoint given".into())),
            [one] => one.connect_lazy(),
            _ => Channel::balance_list(endpoints.into_iter()),
        };
        let store = Etcd { channel, progress: watch::Sender::new(0), names: Names::new(&config.prefix) };
        // The connection is lazy: an answer proves it.
        tokio::time::timeout(Duration::from_secs(10), store.revision())
            .await
            .map_err(|_| Error::Unavailable(format!("etcd {:?}: no answer", config.endpoints)))??;
        Ok(store)
    }

    fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    async fn swap(&self, key: &str, expected: Revision, write: Op) -> Result<Swap, Error> {
        let expected = signed(expected);
        let get = RangeRequest { key: self.names.there(key), ..RangeRequest::default() };
        let txn = TxnRequest {
            compare: vec![Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: self.names.there(key),
                range_end: Vec::new(),
                target_union: Some(TargetUnion::ModRevision(expected)),
            }],
            success: vec![RequestOp { request: Some(write) }],
            failure: vec![RequestOp { request: Some(Op::RequestRange(get)) }],
        };
        let response = self.kv().txn(txn).await.map_err(|e| convert(&e))?.into_inner();
        if response.succeeded {
            return Ok(Swap::Done(revision(response.header.as_ref())));
        }
        let current = response.responses.into_iter().find_map(|r| match r.response {
            Some(OpResponse::ResponseRange(get)) => get.kvs.into_iter().next().map(|kv| self.names.pair(kv)),
            _ => None,
        });
        Ok(Swap::Conflict(current))
    }
}

fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |h| unsigned(h.revision))
}

fn convert(status: &tonic::Status) -> Error {
    if status.code() == tonic::Code::OutOfRange {
        if status.message().contains("compacted") {
            return Error::Compacted { requested: 0, compacted: 0 };
        }
        if status.message().contains("future revision") {
            return Error::Future { requested: 0, current: 0 };
        }
    }
    Error::Unavailable(format!("etcd: {}", status.message()))
}

#[async_trait::async_trait]
impl Store for Etcd {
    async fn range(
        &self,
        start: &str,
        end: Option<&str>,
        limit: u64,
        revision: Revision,
    ) -> Result<Range, Error> {
        let request = RangeRequest {
            key: self.names.there(start),
            range_end: end.map(|e| self.names.there(e)).unwrap_or_default(),
            limit: signed(limit),
            revision: signed(revision),
            ..RangeRequest::default()
        };
        let response = self.kv().range(request).await.map_err(|e| match convert(&e) {
            Error::Compacted { .. } => Error::Compacted { requested: revision, compacted: 0 },
            Error::Future { .. } => Error::Future { requested: revision, current: 0 },
            other => other,
        })?;
        let response = response.into_inner();
        Ok(Range {
            revision: self::revision(response.header.as_ref()),
            items: response.kvs.into_iter().map(|kv| self.names.pair(kv)).collect(),
            more: response.more,
            count: unsigned(response.count),
        })
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: Revision,
        lease: i64,
    ) -> Result<Swap, Error> {
        let put = PutRequest { key: self.names.there(key), value, lease, ..PutRequest::default() };
        self.swap(key, expected, Op::RequestPut(put)).await
    }

    async fn delete(&self, key: &str, expected: Revision) -> Result<Swap, Error> {
        if expected == 0 {
            // "Absent" would compare equal and delete nothing.
            let now = self.range(key, None, 1, 0).await?;
            return Ok(Swap::Conflict(now.items.into_iter().next()));
        }
        let delete = DeleteRangeRequest { key: self.names.there(key), ..DeleteRangeRequest::default() };
        self.swap(key, expected, Op::RequestDeleteRange(delete)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let from = if from == 0 { self.revision().await? + 1 } else { from };
        let create = WatchCreateRequest {
            key: self.names.there(prefix),
            range_end: self.names.there(&prefix_end(prefix)),
            start_revision: signed(from),
            prev_kv: true,
            progress_notify: true,
            ..WatchCreateRequest::default()
        };
        let (requests, queue) = tokio::sync::mpsc::channel(4);
        let send = |union| WatchRequest { request_union: Some(union) };
        let _ = requests.try_send(send(RequestUnion::CreateRequest(create)));
        let mut stream = WatchClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .watch(tokio_stream::wrappers::ReceiverStream::new(queue))
            .await
            .map_err(|e| convert(&e))?
            .into_inner();
        let mut progress = self.progress.subscribe();
        let names = self.names.clone();
        let watch = feed(move |out| async move {
            loop {
                let response = tokio::select! {
                    changed = progress.changed() => {
                        if changed.is_err() {
                            return; // the store is gone
                        }
                        let ask = RequestUnion::ProgressRequest(WatchProgressRequest {});
                        // A full queue has a request under way already.
                        let _ = requests.try_send(send(ask));
                        continue;
                    }
                    response = stream.message() => response,
                };
                let item = match response {
                    Ok(Some(r)) if r.compact_revision > 0 => Err(Error::Compacted {
                        requested: from,
                        compacted: unsigned(r.compact_revision),
                    }),
                    Ok(Some(r)) if r.canceled => {
                        Err(Error::Unavailable(format!("etcd ended a watch: {}", r.cancel_reason)))
                    }
                    Ok(Some(r)) if r.created => continue,
                    Ok(Some(r)) if r.events.is_empty() => {
                        Ok(WatchItem::Progress(revision(r.header.as_ref())))
                    }
                    Ok(Some(r)) => {
                        Ok(WatchItem::Events(r.events.into_iter().filter_map(|e| names.event(e)).collect()))
                    }
                    Ok(None) => Err(Error::Unavailable("etcd closed a watch".into())),
                    Err(e) => Err(convert(&e)),
                };
                let end = item.is_err();
                if out.send(item).await.is_err() || end {
                    return;
                }
            }
        });
        Ok(watch)
    }

    async fn lease(&self, ttl: i64) -> Result<i64, Error> {
        let request = LeaseGrantRequest { ttl, id: 0 };
        let mut client = LeaseClient::new(self.channel.clone());
        let lease = client.lease_grant(request).await.map_err(|e| convert(&e))?;
        Ok(lease.into_inner().id)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let request = CompactionRequest { revision: signed(revision), physical: false };
        self.kv().compact(request).await.map_err(|e| convert(&e))?;
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, Error> {
        // A linearizable read of a key that never is.
        let request =
            RangeRequest { key: vec![0], count_only: true, ..RangeRequest::default() };
        let response = self.kv().range(request).await.map_err(|e| convert(&e))?;
        Ok(revision(response.into_inner().header.as_ref()))
    }

    async fn request_progress(&self) -> Result<(), Error> {
        self.progress.send_modify(|n| *n = n.wrapping_add(1));
        Ok(())
    }
}

/// Runs `body` as a task that feeds a stream; dropping the stream ends the task.
fn feed<F, Fut>(body: F) -> Watch
where
    F: FnOnce(tokio::sync::mpsc::Sender<Result<WatchItem, Error>>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let task = AbortOnDrop(tokio::spawn(body(sender)));
    Box::pin(futures::stream::unfold((receiver, task), |(mut receiver, task)| async move {
        receiver.recv().await.map(|item| (item, (receiver, task)))
    }))
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
