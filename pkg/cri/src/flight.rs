//! Work that goes on when its caller leaves, and that a retry joins.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::{BoxFuture, FutureExt, Shared};
use tonic::Status;

use crate::Error;

type Flight = Shared<BoxFuture<'static, Result<String, Status>>>;

/// Work in flight, by name.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flights(Arc<Mutex<HashMap<String, Flight>>>);

impl Flights {
    /// Joins the work of that name, or starts it.
    pub(crate) async fn join(
        &self,
        key: String,
        work: impl Future<Output = Result<String, Error>> + Send + 'static,
    ) -> Result<String, Error> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match flights.get(&key) {
                Some(flight) => flight.clone(),
                None => {
                    let (all, name) = (self.0.clone(), key.clone());
                    let task = tokio::spawn(async move {
                        let out = work.await.map_err(Status::from);
                        all.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                        out
                    });
                    let flight: Flight = async move {
                        task.await.unwrap_or_else(|e| Err(Status::internal(e.to_string())))
                    }
                    .boxed()
                    .shared();
                    flights.insert(key, flight.clone());
                    flight
                }
            }
        };
        flight.await.map_err(|status| Error::Status(Box::new(status)))
    }
}

/// Runs work to its end whether or not the caller stays.
pub(crate) async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Error> {
    tokio::spawn(work)
        .await
        .unwrap_or_else(|e| Err(Error::Status(Box::new(Status::internal(e.to_string())))))
}

/// Runs blocking work aside.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Error::Status(Box::new(Status::internal(e.to_string())))))
}
