//! Images: distribution protocol, content store, overlay snapshots, archives.
