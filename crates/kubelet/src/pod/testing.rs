//! Builders for the tests of this crate.

use std::collections::BTreeMap;

use kybern_api::Quantity;
use kybern_api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kybern_api::meta::v1::ObjectMeta;

pub fn container(name: &str) -> Container {
    Container { name: name.into(), image: Some("img".into()), ..Default::default() }
}

pub fn pod(name: &str, containers: Vec<Container>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("default".into()),
            uid: Some(format!("{name}-uid")),
            ..Default::default()
        },
        spec: Some(PodSpec { containers, node_name: Some("node".into()), ..Default::default() }),
        status: None,
    }
}

fn amounts(list: &[(&str, &str)]) -> Option<BTreeMap<String, Quantity>> {
    (!list.is_empty()).then(|| list.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect())
}

pub fn resources(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> ResourceRequirements {
    ResourceRequirements { requests: amounts(requests), limits: amounts(limits), claims: None }
}
