//! PersistentVolume and PersistentVolumeClaim.

mod claim;
mod volume;

pub(super) use self::claim::{PersistentVolumeClaim, validate_status as validate_claim_status};
pub(super) use self::volume::{PersistentVolume, VolumeStatus};
