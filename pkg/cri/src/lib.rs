//! The CRI runtime and image services.
