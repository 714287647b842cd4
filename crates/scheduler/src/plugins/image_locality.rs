//! A node that already has a pod's images is better, the more so the larger they are.

use crate::cache::Cluster;
use crate::framework::{MAX_NODE_SCORE, Plugin, PreScore, Score};
use crate::node::NodeInfo;
use crate::pod::PodInfo;

/// Below this, in bytes, an image is pulled in no time.
const MIN: i64 = 23 * 1024 * 1024;
/// Above this, in bytes per container, more makes no difference.
const MAX_PER_CONTAINER: i64 = 1000 * 1024 * 1024;

pub struct ImageLocality;

impl Plugin for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }
}

impl Score for ImageLocality {
    fn pre_score<'a>(&'a self, pod: &'a PodInfo, cluster: &'a Cluster, _: &[&'a NodeInfo]) -> PreScore<'a> {
        let images = &pod.wants().images;
        // An image that few nodes have counts less, so that pods do not all run to one node.
        let spread: Vec<(&str, i64)> = images
            .iter()
            .map(|image| (image.as_str(), cluster.nodes_with_image(image)))
            .filter(|(_, n)| *n > 0)
            .collect();
        if spread.is_empty() {
            return PreScore::Skip;
        }
        let total = (cluster.len() as i64).max(1);
        let max = MAX_PER_CONTAINER * images.len() as i64;
        PreScore::Score(Box::new(move |node| {
            let here = &node.node.images;
            let size =
                |image: &str| here.binary_search_by(|(name, _)| name.as_ref().cmp(image)).map_or(0, |at| here[at].1);
            let sum: i64 = spread.iter().map(|(image, nodes)| size(image) * nodes / total).sum();
            MAX_NODE_SCORE * (sum.clamp(MIN, max) - MIN) / (max - MIN)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::plugins::check;
    use kybern_apimachinery::json;

    #[test]
    fn scores() {
        let with = |name: &str, mib: i64| {
            let images = json!([{"names": ["app:1", "app@sha256:0"], "sizeBytes": mib << 20}]);
            check::occupied(fixture::node(json!({"metadata": {"name": name}, "status": {"images": images}})), &[])
        };
        let without = check::occupied(fixture::sized("none", "1", "1"), &[]);
        let pod = fixture::pod(json!({"containers": [{"name": "c", "image": "app:1"}]}));
        assert_eq!(check::score(&ImageLocality, &pod, &[with("a", 1000), without.clone()]), [48, 0]);
        assert_eq!(check::score(&ImageLocality, &pod, &[with("a", 4000), with("b", 10)]), [100, 0]);
        assert!(check::score(&ImageLocality, &pod, &[without]).is_empty());
    }
}
