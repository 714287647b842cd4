//! A few kinds, as far as tests need them, with the facts that the published schema states of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kybern_apimachinery::{Gvk, json};

use crate::types::{Field, KindType, ListKind, ListType, MapType, Presence, Schema, StructId, StructType, Type};

/// `Pod`, `Service`, `Deployment`, `ConfigMap` or `Widget` (a custom resource with every kind of list and map).
pub(crate) fn kind(name: &str) -> KindType {
    let mut build = Build::default();
    let (group, root) = match name {
        "Pod" => ("", build.pod()),
        "Service" => ("", build.service()),
        "Deployment" => ("apps", build.deployment()),
        "ConfigMap" => ("", build.config_map()),
        "Widget" => ("example.com", build.widget()),
        other => panic!("no fixture of kind {other}"),
    };
    KindType { schema: Arc::new(Schema { structs: build.structs }), root, gvk: Gvk::new(group, "v1", name) }
}

#[derive(Default)]
struct Build {
    structs: Vec<StructType>,
    known: BTreeMap<&'static str, StructId>,
}

fn field(name: &str, ty: Type) -> Field {
    Field::new(name, ty)
}

fn string(name: &str) -> Field {
    field(name, Type::String)
}

fn list(item: Type, kind: ListKind) -> Type {
    Type::List(Box::new(ListType { item, kind }))
}

fn keyed(item: StructId, keys: &[&str]) -> Type {
    list(Type::Struct(item), ListKind::Map(keys.iter().map(|k| Arc::from(*k)).collect()))
}

fn map(value: Type, atomic: bool) -> Type {
    Type::Map(Box::new(MapType { value, atomic }))
}

/// Marks a field as merged by strategic merge patches; by no key when it is a list of scalars.
fn merged(mut field: Field, key: &str) -> Field {
    field.patch.merge = true;
    field.patch.merge_key = (!key.is_empty()).then(|| Arc::from(key));
    field
}

/// Marks a field as one that Go's encoders cannot leave out.
fn always(mut field: Field) -> Field {
    field.presence = Presence::Always;
    field
}

impl Build {
    fn add(&mut self, name: &'static str, atomic: bool, fields: Vec<Field>) -> StructId {
        if let Some(id) = self.known.get(name) {
            return *id;
        }
        let id = StructId(u32::try_from(self.structs.len()).unwrap());
        self.structs.push(StructType::new(Arc::from(name), fields, atomic, false));
        self.known.insert(name, id);
        id
    }

    fn object(&mut self, name: &'static str, mut fields: Vec<Field>) -> StructId {
        let owner = self.add("OwnerReference", true, ["uid", "name", "kind", "apiVersion"].map(string).into());
        let mut meta: Vec<Field> =
            ["name", "namespace", "uid", "resourceVersion", "generateName", "selfLink"].map(string).into();
        meta.push(field("creationTimestamp", Type::Time));
        meta.push(field("generation", Type::Int64));
        meta.push(field("labels", map(Type::String, false)));
        meta.push(field("annotations", map(Type::String, false)));
        meta.push(field("managedFields", list(Type::Any, ListKind::Atomic)));
        meta.push(merged(field("ownerReferences", keyed(owner, &["uid"])), "uid"));
        meta.push(merged(field("finalizers", list(Type::String, ListKind::Set)), ""));
        let meta = self.add("ObjectMeta", false, meta);
        fields.extend(["apiVersion", "kind"].map(string));
        fields.push(always(field("metadata", Type::Struct(meta))));
        self.add(name, false, fields)
    }

    fn config_map(&mut self) -> StructId {
        self.object("ConfigMap", vec![field("data", map(Type::String, false))])
    }

    fn pod_spec(&mut self) -> StructId {
        let mut protocol = string("protocol");
        protocol.default = Some(json!("TCP"));
        let port = vec![string("name"), field("containerPort", Type::Int32), protocol, field("hostPort", Type::Int32)];
        let port = self.add("ContainerPort", false, port);
        let env = self.add("EnvVar", false, ["name", "value"].map(string).into());
        let resources =
            vec![field("limits", map(Type::Quantity, false)), field("requests", map(Type::Quantity, false))];
        let resources = self.add("ResourceRequirements", false, resources);
        let container = vec![
            string("name"),
            string("image"),
            string("imagePullPolicy"),
            field("args", list(Type::String, ListKind::Atomic)),
            merged(field("ports", keyed(port, &["containerPort", "protocol"])), "containerPort"),
            merged(field("env", keyed(env, &["name"])), "name"),
            always(field("resources", Type::Struct(resources))),
        ];
        let container = self.add("Container", false, container);
        let empty_dir = self.add("EmptyDirVolumeSource", false, vec![string("medium")]);
        let config_map = self.add("ConfigMapVolumeSource", false, vec![string("name")]);
        let volume = vec![
            string("name"),
            field("emptyDir", Type::Struct(empty_dir)),
            field("configMap", Type::Struct(config_map)),
        ];
        let volume = self.add("Volume", false, volume);
        let toleration = self.add("Toleration", false, ["key", "operator", "value", "effect"].map(string).into());
        let mut volumes = merged(field("volumes", keyed(volume, &["name"])), "name");
        volumes.patch.retain_keys = true;
        let spec = vec![
            always(merged(field("containers", keyed(container, &["name"])), "name")),
            volumes,
            field("nodeSelector", map(Type::String, true)),
            field("tolerations", list(Type::Struct(toleration), ListKind::Atomic)),
            string("nodeName"),
            string("restartPolicy"),
        ];
        self.add("PodSpec", false, spec)
    }

    fn pod(&mut self) -> StructId {
        let spec = self.pod_spec();
        let condition = self.add("PodCondition", false, ["type", "status", "lastProbeTime"].map(string).into());
        let status = vec![string("phase"), merged(field("conditions", keyed(condition, &["type"])), "type")];
        let status = self.add("PodStatus", false, status);
        self.object(
            "Pod",
            vec![always(field("spec", Type::Struct(spec))), always(field("status", Type::Struct(status)))],
        )
    }

    fn deployment(&mut self) -> StructId {
        let pod_spec = self.pod_spec();
        let pod = self.pod();
        let meta = self.structs[pod.0 as usize].field("metadata").unwrap().ty.clone();
        let template = self.add(
            "PodTemplateSpec",
            false,
            vec![always(field("metadata", meta)), always(field("spec", Type::Struct(pod_spec)))],
        );
        let selector = self.add("LabelSelector", true, vec![field("matchLabels", map(Type::String, false))]);
        let rolling = vec![field("maxSurge", Type::IntOrString), field("maxUnavailable", Type::IntOrString)];
        let rolling = self.add("RollingUpdateDeployment", false, rolling);
        let strategy = vec![string("type"), field("rollingUpdate", Type::Struct(rolling))];
        let strategy = self.add("DeploymentStrategy", false, strategy);
        let mut strategy = always(field("strategy", Type::Struct(strategy)));
        strategy.patch.retain_keys = true;
        let spec = vec![
            field("replicas", Type::Int32),
            field("selector", Type::Struct(selector)),
            always(field("template", Type::Struct(template))),
            field("paused", Type::Bool),
            strategy,
        ];
        let spec = self.add("DeploymentSpec", false, spec);
        let status = self.add("DeploymentStatus", false, vec![field("replicas", Type::Int32), string("phase")]);
        self.object(
            "Deployment",
            vec![always(field("spec", Type::Struct(spec))), always(field("status", Type::Struct(status)))],
        )
    }

    fn service(&mut self) -> StructId {
        let mut protocol = string("protocol");
        protocol.default = Some(json!("TCP"));
        let port = vec![
            string("name"),
            field("port", Type::Int32),
            protocol,
            field("targetPort", Type::IntOrString),
            field("nodePort", Type::Int32),
        ];
        let port = self.add("ServicePort", false, port);
        let spec = vec![
            string("type"),
            field("selector", map(Type::String, true)),
            merged(field("ports", keyed(port, &["port", "protocol"])), "port"),
            field("externalIPs", list(Type::String, ListKind::Atomic)),
        ];
        let spec = self.add("ServiceSpec", false, spec);
        self.object("Service", vec![always(field("spec", Type::Struct(spec)))])
    }

    fn widget(&mut self) -> StructId {
        let part = vec![string("name"), field("size", Type::Int64), field("tags", list(Type::String, ListKind::Set))];
        let part = self.add("Part", false, part);
        let sealed = self.add("Sealed", true, vec![string("a"), string("b")]);
        let free = StructType::new(Arc::from("Free"), vec![string("known")], false, true);
        let free_id = StructId(u32::try_from(self.structs.len()).unwrap());
        self.structs.push(free);
        let spec = vec![
            field("parts", keyed(part, &["name"])),
            field("tags", list(Type::String, ListKind::Set)),
            field("steps", list(Type::String, ListKind::Atomic)),
            field("sealed", Type::Struct(sealed)),
            field("free", Type::Struct(free_id)),
            field("raw", Type::Any),
            field("byName", map(Type::Struct(part), false)),
            field("size", Type::Int64),
        ];
        let spec = self.add("WidgetSpec", false, spec);
        let status = self.add("WidgetStatus", false, vec![string("phase")]);
        self.object("Widget", vec![field("spec", Type::Struct(spec)), field("status", Type::Struct(status))])
    }
}
