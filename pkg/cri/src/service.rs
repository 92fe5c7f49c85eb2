//! The two gRPC services: requests in, answers out; the work is elsewhere.

mod image;
mod runtime;

pub use image::Image;
pub use runtime::Runtime;

use std::collections::HashMap;
use std::pin::Pin;

use futures::Stream;
use tonic::Status;

/// What a streaming RPC answers with.
pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Objects in one message of a streamed list.
pub(crate) const CHUNK: usize = 500;

/// A list as a stream of messages.
pub(crate) fn chunks<T: Clone + Send + 'static, M: Send + 'static>(
    all: Vec<T>,
    message: impl Fn(Vec<T>) -> M,
) -> Answers<M> {
    let messages: Vec<_> = all.chunks(CHUNK).map(|c| Ok(message(c.to_vec()))).collect();
    Box::pin(futures::stream::iter(messages))
}

/// Whether all labels asked for are there.
pub(crate) fn labels_match(
    labels: &HashMap<String, String>,
    wanted: &HashMap<String, String>,
) -> bool {
    wanted.iter().all(|(k, v)| labels.get(k) == Some(v))
}

/// Whether an id is, or starts with, what is asked for.
pub(crate) fn id_matches(id: &str, wanted: &str) -> bool {
    wanted.is_empty() || id == wanted || (wanted.len() >= 4 && id.starts_with(wanted))
}
