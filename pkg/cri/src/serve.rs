//! Where the services are reached: a unix socket, or in the same process.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{Cri, Error};

/// Bytes in flight in each direction of an in-process connection.
const PIPE: usize = 64 << 10;

impl Cri {
    /// Serves over a unix socket until `shutdown` resolves. Containers go on.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub async fn serve(
        self: &Arc<Self>,
        socket: &Path,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), Error> {
        match std::fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", socket)(e));
            }
            _ => {}
        }
        if let Some(parent) = socket.parent() {
            std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        }
        let listener = UnixListener::bind(socket).map_err(Error::io("listen on", socket))?;
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
            .map_err(Error::io("protect", socket))?;
        tonic::transport::Server::builder()
            .add_service(self.runtime_service())
            .add_service(self.image_service())
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown)
            .await
            .map_err(|e| Error::io("serve on", socket)(io::Error::other(e)))
    }

    /// A channel to the services without a socket. Serves as long as the channel lives.
    ///
    /// # Errors
    /// None in practice; the type is the transport's.
    pub async fn connect_in_process(self: &Arc<Self>) -> Result<Channel, tonic::transport::Error> {
        let (sender, receiver) = mpsc::channel::<io::Result<DuplexStream>>(4);
        let (runtime, image) = (self.runtime_service(), self.image_service());
        tokio::spawn(async move {
            let served = tonic::transport::Server::builder()
                .add_service(runtime)
                .add_service(image)
                .serve_with_incoming(ReceiverStream::new(receiver))
                .await;
            if let Err(e) = served {
                tracing::error!(error = %e, "serving in process ended");
            }
        });
        // The address is only a name; nothing is resolved.
        Endpoint::from_static("http://cri.in.process")
            .connect_with_connector(Connector(sender))
            .await
    }

    /// Where the socket of a run folder is.
    pub fn socket(run_dir: &Path) -> PathBuf {
        run_dir.join("cri.sock")
    }
}

#[derive(Clone)]
struct Connector(mpsc::Sender<io::Result<DuplexStream>>);

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let sender = self.0.clone();
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            sender
                .send(Ok(theirs))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
            Ok(TokioIo::new(ours))
        })
    }
}
