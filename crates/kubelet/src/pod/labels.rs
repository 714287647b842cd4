//! The labels and annotations by which a restarted kubelet recognizes what it once started. Upstream's
//! (`pkg/kubelet/types`, `pkg/kubelet/kuberuntime/labels.go`), so that any CRI tool understands them.

use kybern_api::core::v1::{Container, Pod};
use kybern_cri::Labels;

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
pub const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// The labels of a pod's sandbox: the pod's own and the three that identify it.
pub fn sandbox_labels(pod: &Pod) -> Labels {
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity(pod));
    labels
}

/// The labels of a container.
pub fn container_labels(pod: &Pod, container: &str) -> Labels {
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME.to_owned(), container.to_owned());
    labels
}

fn identity(pod: &Pod) -> Labels {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Labels::from([
        (POD_NAME.to_owned(), text(&meta.name)),
        (POD_NAMESPACE.to_owned(), text(&meta.namespace)),
        (POD_UID.to_owned(), text(&meta.uid)),
    ])
}

/// The annotations of one start of a container.
pub fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> Labels {
    let mut annotations = Labels::from([
        (CONTAINER_HASH.to_owned(), format!("{:x}", container_hash(container))),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (
            TERMINATION_MESSAGE_PATH.to_owned(),
            container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned()),
        ),
        (
            TERMINATION_MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    if let Some(grace) = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds) {
        annotations.insert(POD_TERMINATION_GRACE.to_owned(), grace.to_string());
    }
    annotations
}

/// What of a container's spec a change of makes it start anew: its name and image, by FNV-1a as upstream does.
pub fn container_hash(container: &Container) -> u32 {
    let picked = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or(""));
    picked.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_and_image_decide_the_hash() {
        let container = |image: &str, command: &str| Container {
            name: "c".into(),
            image: Some(image.into()),
            command: Some(vec![command.into()]),
            ..Default::default()
        };
        assert_eq!(container_hash(&container("a", "x")), container_hash(&container("a", "y")));
        assert_ne!(container_hash(&container("a", "x")), container_hash(&container("b", "x")));
    }
}
