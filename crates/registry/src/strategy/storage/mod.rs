//! PersistentVolume and PersistentVolumeClaim.

mod claim;
mod volume;

pub(super) use self::claim::PersistentVolumeClaim;
pub(super) use self::volume::PersistentVolume;
