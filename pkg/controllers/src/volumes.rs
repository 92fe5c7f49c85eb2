//! Volumes and claims: binding, protection, claims of pods' own.

mod binder;
mod ephemeral;
mod protection;

pub use binder::{Claims, Volumes};
pub use ephemeral::Ephemeral;
pub use protection::{ClaimProtection, ClassProtection, VolumeProtection};
