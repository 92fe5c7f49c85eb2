//! Images: distribution protocol, content store, overlay snapshots, archives.
//!
//! # On disk, below `<data>/images`
//! - `images.json`: which images and layers there are; small, versioned, replaced as a whole.
//! - `blobs/sha256/<hex>`: manifests, configurations, and layers as they travel.
//! - `s/<n>`: unpacked layers; short names, so that many fit in one mount.
//! - `rw/<container>`: thin writable layers (`u`, `w`) and the chain they stand on.
//! - `ingest/`: what is on its way in; `*.part` downloads are resumed.
//! - `lock`, `work.lock`: file locks that all processes take.
//!
//! A layer or blob is moved into its place whole and synced before `images.json` names it, so a
//! process may be killed at any instant: what is not named is swept away later.

mod archive;
mod decode;
mod error;
#[cfg(test)]
mod fuzz;
mod index;
mod model;
mod pull;
mod reference;
mod registry;
mod rootfs;
mod snapshot;
mod store;
mod unpack;

pub use error::Error;
pub use index::Image;
pub use model::{Config, Descriptor, ImageConfig, Platform, architecture};
pub use reference::Reference;
pub use registry::Credentials;
pub use rootfs::RootFile;
pub use snapshot::{Remap, Usage, is_mounted, unmount};
pub use store::Images;
