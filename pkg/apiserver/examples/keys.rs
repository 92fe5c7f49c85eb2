//! A key management service that keeps nothing secret: `keys SOCKET KEY`. For `hack/swap`.

#[path = "../tests/common/keys.rs"]
mod keys;

use std::sync::Arc;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(key)) = (arguments.next(), arguments.next()) else {
        panic!("usage: keys SOCKET KEY");
    };
    let known = Arc::new(keys::Keys::default());
    if let Ok(mut k) = known.key.lock() {
        *k = key;
    }
    let _ = keys::serve(std::path::Path::new(&socket), known).await;
}
