//! The second attempt at an object that does not decode: most objects never get here, and cost one parse.

use kybern_apimachinery::{Gvk, Value};

use crate::DecodeError;

/// The object made to fit its kind's shape. `error` is what the first attempt failed with.
pub(crate) fn tree(
    group: &str,
    version: &str,
    kind: &'static str,
    json: &[u8],
    error: &serde_json::Error,
) -> Result<Value, DecodeError> {
    let failed = || DecodeError { kind, cause: error.to_string() };
    let mut object: Value = serde_json::from_slice(json).map_err(|_| failed())?;
    let shape = kybern_schema::builtin().kind(&Gvk::new(group, version, kind)).ok_or_else(failed)?;
    kybern_schema::lenient::make_fit(&shape, &mut object);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        apps, autoscaling, batch, certificates, coordination, core, discovery, events, networking, node, policy, rbac,
        resource, scheduling, storage,
    };
    use kybern_apimachinery::{Map, json};
    use kybern_schema::types::{KindType, Type};

    use super::*;
    use crate::Object;

    /// A value that has every field of the type, a few levels deep.
    fn full(kind: &KindType, ty: &Type, depth: u32) -> Value {
        match ty {
            Type::Bool => true.into(),
            Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => 1.into(),
            Type::String => "x".into(),
            Type::Bytes => "eA==".into(),
            Type::Quantity => "1".into(),
            Type::Time => "2026-01-01T00:00:00Z".into(),
            Type::MicroTime => "2026-01-01T00:00:00.000000Z".into(),
            Type::Duration => "1s".into(),
            Type::Struct(_) if depth == 0 => json!({}),
            Type::Struct(id) => {
                let fields = kind.schema.get(*id).fields.iter();
                fields.map(|f| (f.name.to_string(), full(kind, &f.ty, depth - 1))).collect::<Map<_, _>>().into()
            }
            Type::List(list) => json!([full(kind, &list.item, depth)]),
            Type::Map(map) => json!({"k": full(kind, &map.value, depth)}),
            _ => json!({"a": 1}),
        }
    }

    /// A tree for every place of the given one: the path to it, with something odd there and all else absent.
    fn each_mutant(value: &Value, check: &mut dyn FnMut(Value)) {
        for odd in [Value::Null, json!("Unknown"), json!(1.5), json!(2.0), json!([null]), json!({"a": null}), json!("")]
        {
            check(odd);
        }
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    each_mutant(inner, &mut |odd| check(json!({(name.as_str()): odd})));
                }
            }
            Value::Array(items) => each_mutant(&items[0], &mut |odd| check(json!([odd]))),
            _ => {}
        }
    }

    fn every_mutant_is_read<K: Object>() {
        let kind = kybern_schema::builtin().kind(&Gvk::new(K::GROUP, K::VERSION, K::KIND)).unwrap();
        let mut whole = full(&kind, &Type::Struct(kind.root), 4);
        whole["apiVersion"] = kind.gvk.api_version().into();
        whole["kind"] = K::KIND.into();
        K::from_json(whole.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}: {whole}"));
        for part in ["metadata", "spec", "status", "conditions", "endpoints", "series", "rules", "ports"] {
            let Some(value) = whole.get(part) else { continue };
            each_mutant(&value.clone(), &mut |odd| {
                let mut object = json!({"apiVersion": whole["apiVersion"], "kind": K::KIND});
                object[part] = odd;
                let text = object.to_string();
                K::from_json(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"));
            });
        }
    }

    macro_rules! kinds {
        ($($name:ident: $($group:ident::$version:ident::$kind:ident)*;)*) => {$(
            #[test]
            fn $name() {
                $(every_mutant_is_read::<$group::$version::$kind>();)*
            }
        )*};
    }

    kinds! {
        core_kinds: core::v1::Service core::v1::Endpoints core::v1::ConfigMap core::v1::Secret core::v1::Namespace
            core::v1::ServiceAccount core::v1::Event core::v1::ResourceQuota core::v1::LimitRange core::v1::Node;
        pods: core::v1::Pod;
        volumes: core::v1::PersistentVolume core::v1::PersistentVolumeClaim;
        workloads: apps::v1::Deployment apps::v1::ReplicaSet apps::v1::DaemonSet apps::v1::StatefulSet
            apps::v1::ControllerRevision core::v1::ReplicationController core::v1::PodTemplate batch::v1::Job
            batch::v1::CronJob;
        the_rest: coordination::v1::Lease discovery::v1::EndpointSlice events::v1::Event
            autoscaling::v2::HorizontalPodAutoscaler certificates::v1::CertificateSigningRequest
            networking::v1::Ingress networking::v1::IngressClass networking::v1::NetworkPolicy
            networking::v1::IPAddress networking::v1::ServiceCIDR node::v1::RuntimeClass
            policy::v1::PodDisruptionBudget rbac::v1::ClusterRole rbac::v1::ClusterRoleBinding rbac::v1::Role
            rbac::v1::RoleBinding resource::v1::ResourceClaim resource::v1::ResourceClaimTemplate
            resource::v1::DeviceClass resource::v1::ResourceSlice resource::v1alpha3::DeviceTaintRule
            scheduling::v1alpha1::Workload scheduling::v1::PriorityClass storage::v1::StorageClass
            storage::v1::VolumeAttachment storage::v1::CSINode storage::v1::CSIDriver storage::v1::CSIStorageCapacity
            storage::v1::VolumeAttributesClass;
    }

    #[test]
    fn what_upstream_serves_is_read() {
        let service = br#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},
            "status":{"conditions":[{"type":"Ready","status":"True","lastTransitionTime":null}]}}"#;
        let service = core::v1::Service::from_json(service).unwrap();
        let conditions = service.status.unwrap().conditions.unwrap();
        assert_eq!((conditions[0].type_.as_str(), conditions[0].status.as_str()), ("Ready", "True"));
        assert!(core::v1::Service::from_json(br#"{"kind":"Pod","apiVersion":"v1"}"#).is_err());
        assert!(core::v1::Service::from_json(b"[]").is_err());
    }
}
