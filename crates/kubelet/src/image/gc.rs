//! Removes unused images when the disk runs full: above 85 % the least recently used go, until 80 %
//! (`pkg/kubelet/images/image_gc_manager.go`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kybern_cri::{Container, CriError, Image, ImageSpec};

use crate::shared::Shared;

const HIGH_PERCENT: u64 = 85;
const LOW_PERCENT: u64 = 80;
/// An image that came just now is about to be used.
const MIN_AGE: SignedDuration = SignedDuration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// When an image was first seen and last used by a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Use {
    first: Timestamp,
    last: Timestamp,
}

/// The uses of images by id, kept from look to look.
#[derive(Debug, Default)]
struct Uses(BTreeMap<String, Use>);

fn is_used(image: &Image, containers: &[Container]) -> bool {
    let names: BTreeSet<&str> =
        image.repo_tags.iter().chain(&image.repo_digests).chain([&image.id]).map(String::as_str).collect();
    containers.iter().any(|c| names.contains(c.image_ref.as_str()) || names.contains(c.image.as_str()))
}

impl Uses {
    /// Notes what is there and what is used now.
    fn note(&mut self, images: &[Image], containers: &[Container], now: Timestamp) {
        self.0.retain(|id, _| images.iter().any(|image| image.id == *id));
        for image in images {
            let seen = self.0.entry(image.id.clone()).or_insert(Use { first: now, last: now });
            if is_used(image, containers) {
                seen.last = now;
            }
        }
    }

    /// The images to remove, the longest unused first, until `excess` bytes are free.
    fn victims<'a>(
        &self,
        images: &'a [Image],
        containers: &[Container],
        excess: u64,
        now: Timestamp,
    ) -> Vec<&'a Image> {
        let mut unused: Vec<(&Use, &Image)> = images
            .iter()
            .filter(|image| !image.pinned && !is_used(image, containers))
            .filter_map(|image| Some((self.0.get(&image.id)?, image)))
            .filter(|(seen, _)| now.duration_since(seen.first) >= MIN_AGE)
            .collect();
        unused.sort_by_key(|(seen, _)| (seen.last, seen.first));
        let mut freed = 0;
        let enough = |(_, image): &(&Use, &Image)| {
            let go_on = freed < excess;
            freed += image.size_bytes;
            go_on
        };
        unused.into_iter().take_while(enough).map(|(_, image)| image).collect()
    }
}

/// How many bytes are too many, given a disk's size and use.
fn excess_bytes(capacity: u64, used: u64) -> u64 {
    if used * 100 < capacity * HIGH_PERCENT { 0 } else { used.saturating_sub(capacity / 100 * LOW_PERCENT) }
}

/// Looks and removes, until dropped.
pub async fn run(shared: Arc<Shared>) {
    let mut uses = Uses::default();
    loop {
        if let Err(error) = collect(&shared, &mut uses).await {
            tracing::warn!(%error, "cannot look for unused images");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn collect(shared: &Shared, uses: &mut Uses) -> Result<(), CriError> {
    let now = Timestamp::now();
    let images = shared.images.list_images().await?;
    let containers = shared.runtime.list_containers().await?;
    shared.pulled.forget_absent(&images, now);
    uses.note(&images, &containers, now);
    let mountpoint = shared.images.image_fs_info().await?.mountpoint;
    let disk =
        rustix::fs::statvfs(mountpoint.as_str()).map_err(|e| CriError::Internal(format!("{mountpoint}: {e}")))?;
    let capacity = disk.f_blocks * disk.f_frsize;
    let excess = excess_bytes(capacity, capacity.saturating_sub(disk.f_bavail * disk.f_frsize));
    for image in uses.victims(&images, &containers, excess, now) {
        tracing::info!(image = image.id, bytes = image.size_bytes, "removing an unused image to free disk space");
        shared.images.remove_image(&ImageSpec { image: image.id.clone(), ..Default::default() }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, size_bytes: u64) -> Image {
        Image { id: id.into(), repo_tags: vec![format!("{id}:tag")], size_bytes, ..Default::default() }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minute * 60).unwrap()
    }

    #[test]
    fn the_longest_unused_go_first() {
        let images = [
            image("a", 10),
            image("b", 10),
            image("c", 10),
            Image { pinned: true, ..image("d", 10) },
            image("new", 10),
        ];
        let using = |id: &str| vec![Container { image_ref: id.into(), ..Default::default() }];
        let mut uses = Uses::default();
        uses.note(&images[..4], &[], at(0));
        uses.note(&images[..4], &using("a"), at(5));
        uses.note(&images, &using("c:tag"), at(10));
        let check = |excess, expect: &[&str]| {
            let victims = uses.victims(&images, &using("c:tag"), excess, at(11));
            assert_eq!(victims.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), expect, "{excess}");
        };
        check(0, &[]);
        check(1, &["b"]);
        check(11, &["b", "a"]);
        check(1000, &["b", "a"]);
    }

    #[test]
    fn thresholds() {
        assert_eq!(excess_bytes(1000, 849), 0);
        assert_eq!(excess_bytes(1000, 900), 100);
    }
}
