//! Finalizers that keep what is in use (`pkg/controller/volume/protectionutil`).

use kybern_api::meta::v1::ObjectMeta;

/// What an object's protection needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// It is not being deleted and lacks its finalizer: it was made before admission added it.
    Protect,
    /// It is being deleted, and goes with its finalizer unless it is in use.
    ReleaseIfUnused,
}

pub(crate) fn step(metadata: &ObjectMeta, finalizer: &str) -> Step {
    let protected = metadata.finalizers.iter().flatten().any(|f| f == finalizer);
    match (metadata.deletion_timestamp.is_some(), protected) {
        (false, false) => Step::Protect,
        (true, true) => Step::ReleaseIfUnused,
        _ => Step::Nothing,
    }
}

pub(crate) fn protect(metadata: &mut ObjectMeta, finalizer: &str) {
    metadata.finalizers.get_or_insert_default().push(finalizer.to_owned());
}

pub(crate) fn release(metadata: &mut ObjectMeta, finalizer: &str) {
    metadata.finalizers.get_or_insert_default().retain(|f| f != finalizer);
}
