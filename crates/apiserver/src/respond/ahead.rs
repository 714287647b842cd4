//! After a start: finds how long the protobuf messages of large kinds' objects are, before somebody asks for a list of them and
//! has to wait for that. One thread does it, in small steps, so that requests are served meanwhile.

use std::sync::Arc;

use super::messages::Messages;
use crate::cache::{KindCache, Selection};
use crate::negotiate::{Encoding, Format};
use crate::resource::Resource;

/// Lists of fewer objects are measured in a few milliseconds when they are asked for.
const MANY: usize = 1000;
/// Objects that are measured at once.
const STEP: usize = 250;

/// Looks through kinds, each with the row of its stored version.
pub(crate) async fn measure(kinds: Vec<(Arc<Resource>, Arc<KindCache>)>) {
    for (row, kind) in kinds.into_iter().filter(|(_, kind)| kind.len() >= MANY) {
        let mut after: Option<Arc<str>> = None;
        loop {
            let (row, kind) = (row.clone(), kind.clone());
            match tokio::task::spawn_blocking(move || step(&row, &kind, after.as_deref())).await {
                Ok(Some(last)) => after = Some(last),
                _ => break,
            }
        }
    }
}

/// Measures what comes next, and answers the last key if there is more.
fn step(row: &Resource, kind: &KindCache, after: Option<&str>) -> Option<Arc<str>> {
    let page = kind.list(&Selection::default(), after, STEP, None, || 0).ok()?;
    let format = Format { encoding: Encoding::Protobuf, ..Format::JSON };
    // What cannot be written is refused to whoever asks for it.
    Messages::new(row, format, page.items, None)?.find_lengths(1).ok()?;
    page.next
}
