use std::sync::Arc;

use kybern_api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, EnvVarSource, SecretKeySelector, ServicePort,
    ServiceSpec,
};
use kybern_api::{ByteString, Quantity as ApiQuantity};

use super::*;
use crate::pod::testing::{container, pod, resources};

struct Fake;

impl References for Fake {
    fn config_map(&self, name: &str) -> Option<Arc<ConfigMap>> {
        let data = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        (name == "cm").then(|| Arc::new(ConfigMap { data: Some(data), ..Default::default() }))
    }
    fn secret(&self, name: &str) -> Option<Arc<Secret>> {
        let data = BTreeMap::from([("pw".to_owned(), ByteString(b"x".to_vec()))]);
        (name == "s").then(|| Arc::new(Secret { data: Some(data), ..Default::default() }))
    }
}

#[test]
fn expansion() {
    let get = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, expect) in [
        ("$(A)", "1"),
        ("x$(A)y", "x1y"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$", "$"),
        ("$(A", "$(A"),
        ("$A", "$A"),
        ("", ""),
    ] {
        assert_eq!(expand(text, &get), expect, "{text}");
    }
}

fn var(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..Default::default() }
}

fn from(name: &str, source: EnvVarSource) -> EnvVar {
    EnvVar { name: name.into(), value_from: Some(source), ..Default::default() }
}

fn key(map: &str, key: &str, optional: bool) -> EnvVarSource {
    let selector = ConfigMapKeySelector { name: map.into(), key: key.into(), optional: Some(optional) };
    EnvVarSource { config_map_key_ref: Some(selector), ..Default::default() }
}

fn run(env: Vec<EnvVar>, env_from: Vec<EnvFromSource>) -> Result<Vec<(String, String)>, String> {
    let mut c = container("c");
    (c.env, c.env_from) = (Some(env), Some(env_from));
    environment(&pod("p", vec![c.clone()]), &c, &Fake, &[], &Downward::default())
}

#[test]
fn sources_in_order() {
    let secret = SecretKeySelector { name: "s".into(), key: "pw".into(), optional: None };
    let field = ObjectFieldSelector { field_path: "metadata.name".into(), api_version: None };
    let all = EnvFromSource {
        prefix: Some("P_".into()),
        config_map_ref: Some(ConfigMapEnvSource { name: "cm".into(), optional: None }),
        ..Default::default()
    };
    let got = run(
        vec![
            var("X", "$(P_a)-$(LATER)"),
            from("PW", EnvVarSource { secret_key_ref: Some(secret), ..Default::default() }),
            from("ME", EnvVarSource { field_ref: Some(field), ..Default::default() }),
            from("NO", key("cm", "zz", true)),
            var("P_b", "mine"),
            var("LATER", "1"),
        ],
        vec![all],
    );
    let expect = [("P_a", "1"), ("P_b", "mine"), ("X", "1-$(LATER)"), ("PW", "x"), ("ME", "p"), ("LATER", "1")];
    assert_eq!(got.unwrap(), expect.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn missing_references() {
    assert_eq!(run(vec![from("A", key("none", "a", false))], vec![]).unwrap_err(), "configmap \"none\" not found");
    assert_eq!(
        run(vec![from("A", key("cm", "zz", false))], vec![]).unwrap_err(),
        "couldn't find key zz in ConfigMap default/cm"
    );
    assert_eq!(run(vec![from("A", key("none", "a", true))], vec![]).unwrap(), []);
}

#[test]
fn resource_references() {
    let mut c = container("c");
    c.resources = Some(resources(&[("cpu", "250m")], &[("memory", "64Mi")]));
    let pod = pod("p", vec![c.clone()]);
    let facts = Downward { allocatable_milli_cpu: 2000, ..Default::default() };
    for (resource, divisor, expect) in [
        ("requests.cpu", "", "1"),
        ("requests.cpu", "1m", "250"),
        ("limits.cpu", "", "2"),
        ("limits.memory", "1Mi", "64"),
        ("limits.memory", "", "67108864"),
        ("requests.memory", "", "0"),
    ] {
        let selector = ResourceFieldSelector {
            resource: resource.into(),
            divisor: (!divisor.is_empty()).then(|| ApiQuantity(divisor.into())),
            container_name: None,
        };
        assert_eq!(resource_field(&pod, &c, &selector, &facts).unwrap(), expect, "{resource} {divisor}");
    }
}

#[test]
fn service_links() {
    let service = |namespace: &str, name: &str| {
        let port = ServicePort { name: Some("web-ui".into()), port: 80, ..Default::default() };
        let spec = ServiceSpec { cluster_ip: Some("10.0.0.1".into()), ports: Some(vec![port]), ..Default::default() };
        let mut service = Service { spec: Some(spec), ..Default::default() };
        service.metadata.name = Some(name.into());
        service.metadata.namespace = Some(namespace.into());
        Arc::new(service)
    };
    let services = [service("default", "kubernetes"), service("n", "my-app"), service("other", "x")];
    let vars: BTreeMap<_, _> = service_variables(&services, "n", true).into_iter().collect();
    for (name, expect) in [
        ("MY_APP_SERVICE_HOST", "10.0.0.1"),
        ("MY_APP_SERVICE_PORT", "80"),
        ("MY_APP_SERVICE_PORT_WEB_UI", "80"),
        ("MY_APP_PORT", "tcp://10.0.0.1:80"),
        ("MY_APP_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("MY_APP_PORT_80_TCP_PROTO", "tcp"),
        ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
    ] {
        assert_eq!(vars.get(name).map(String::as_str), Some(expect), "{name}");
    }
    assert!(!vars.contains_key("X_SERVICE_HOST"));
    let without = service_variables(&services, "n", false);
    assert!(without.iter().all(|(name, _)| name.starts_with("KUBERNETES_")));
}
