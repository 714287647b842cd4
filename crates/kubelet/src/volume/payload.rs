//! The files of ConfigMap, Secret, downward API and projected volumes, as a pure function of what they refer to.

use std::collections::BTreeMap;

use kybern_api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume};

use crate::pod::env::{self, Downward, References};
use crate::pod::{security, spec};

const DEFAULT_MODE: u32 = 0o644;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Whom it belongs to; root where nobody is named.
    pub owner: Option<u32>,
}

/// Files by their path within the volume.
pub type Payload = BTreeMap<String, File>;

/// Issued tokens, by what was asked for.
pub trait Tokens {
    fn token(&self, projection: &ServiceAccountTokenProjection) -> Option<String>;
}

/// Every token that a pod's volumes ask for.
pub fn token_projections(pod: &Pod) -> Vec<&ServiceAccountTokenProjection> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    let sources = volumes.filter_map(|v| v.projected.as_ref()).filter_map(|p| p.sources.as_ref()).flatten();
    sources.filter_map(|s| s.service_account_token.as_ref()).collect()
}

/// The content of a volume; `None` for a kind that has no files of its own.
pub fn payload(
    pod: &Pod,
    volume: &Volume,
    refs: &dyn References,
    tokens: &dyn Tokens,
    facts: &Downward,
) -> Result<Option<Payload>, String> {
    let build = Builder { pod, refs, tokens, facts };
    let mut files = Payload::new();
    if let Some(source) = &volume.config_map {
        let keys = Keys::new(&source.items, source.optional, mode(source.default_mode));
        build.config_map(&source.name, &keys, &mut files)?;
    } else if let Some(source) = &volume.secret {
        let keys = Keys::new(&source.items, source.optional, mode(source.default_mode));
        build.secret(source.secret_name.as_deref().unwrap_or(""), &keys, &mut files)?;
    } else if let Some(source) = &volume.downward_api {
        build.downward(source.items.as_deref().unwrap_or_default(), mode(source.default_mode), &mut files)?;
    } else if let Some(source) = &volume.projected {
        let mode = mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                build.config_map(&map.name, &Keys::new(&map.items, map.optional, mode), &mut files)?;
            }
            if let Some(secret) = &part.secret {
                build.secret(&secret.name, &Keys::new(&secret.items, secret.optional, mode), &mut files)?;
            }
            if let Some(downward) = &part.downward_api {
                build.downward(downward.items.as_deref().unwrap_or_default(), mode, &mut files)?;
            }
            if let Some(token) = &part.service_account_token {
                build.token(token, mode, &mut files)?;
            }
        }
    } else {
        return Ok(None);
    }
    for path in files.keys() {
        check_path(path)?;
    }
    Ok(Some(files))
}

fn mode(mode: Option<i32>) -> u32 {
    own_mode(mode, DEFAULT_MODE)
}

/// A path stays within the volume and does not touch the writer's own names.
fn check_path(path: &str) -> Result<(), String> {
    let bad =
        path.is_empty() || path.starts_with('/') || path.split('/').any(|part| part == "..") || path.starts_with("..");
    if bad {
        Err(format!("invalid path: must not be absolute or start with or contain '..': {path:?}"))
    } else {
        Ok(())
    }
}

struct Builder<'a> {
    pod: &'a Pod,
    refs: &'a dyn References,
    tokens: &'a dyn Tokens,
    facts: &'a Downward,
}

/// Which keys of a ConfigMap or Secret become files, and how.
struct Keys<'a> {
    /// None: all.
    items: &'a [KeyToPath],
    optional: bool,
    mode: u32,
}

impl<'a> Keys<'a> {
    fn new(items: &'a Option<Vec<KeyToPath>>, optional: Option<bool>, mode: u32) -> Self {
        Self { items: items.as_deref().unwrap_or_default(), optional: optional == Some(true), mode }
    }

    /// Adds the files; `data` is `None` where there is no such object.
    fn select(&self, kind: &str, name: &str, data: Option<Data<'_>>, files: &mut Payload) -> Result<(), String> {
        let Some(data) = data else {
            return if self.optional { Ok(()) } else { Err(format!("{kind} {name:?} not found")) };
        };
        let file = |data: &[u8], mode| File { data: data.to_vec(), mode, owner: None };
        if self.items.is_empty() {
            files.extend(data.into_iter().map(|(key, data)| (key.to_owned(), file(data, self.mode))));
            return Ok(());
        }
        for item in self.items {
            match data.get(item.key.as_str()) {
                Some(data) => drop(files.insert(item.path.clone(), file(data, own_mode(item.mode, self.mode)))),
                None if self.optional => {}
                None => {
                    let what = if kind == "secret" { "secret" } else { "config" };
                    return Err(format!("references non-existent {what} key: {}", item.key));
                }
            }
        }
        Ok(())
    }
}

/// A file's own mode, else its volume's.
fn own_mode(own: Option<i32>, of_volume: u32) -> u32 {
    own.and_then(|m| u32::try_from(m).ok()).unwrap_or(of_volume)
}

type Data<'a> = BTreeMap<&'a str, &'a [u8]>;

impl Builder<'_> {
    fn config_map(&self, name: &str, keys: &Keys<'_>, files: &mut Payload) -> Result<(), String> {
        let map = self.refs.config_map(name);
        let data = map.as_deref().map(|map| {
            let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
            text.chain(binary).collect()
        });
        keys.select("configmap", name, data, files)
    }

    fn secret(&self, name: &str, keys: &Keys<'_>, files: &mut Payload) -> Result<(), String> {
        let secret = self.refs.secret(name);
        let data = secret.as_deref().map(|secret| {
            secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect()
        });
        keys.select("secret", name, data, files)
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: u32, files: &mut Payload) -> Result<(), String> {
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => env::field(self.pod, field, self.facts)?,
                (None, Some(resource)) => {
                    let name = resource.container_name.as_deref().unwrap_or("");
                    let (_, container) =
                        spec::container(self.pod, name).ok_or_else(|| format!("container {name} not found"))?;
                    env::resource_field(self.pod, &container, resource, self.facts)?
                }
                (None, None) => continue,
            };
            files.insert(
                item.path.clone(),
                File { data: text.into_bytes(), mode: own_mode(item.mode, mode), owner: None },
            );
        }
        Ok(())
    }

    fn token(&self, projection: &ServiceAccountTokenProjection, mode: u32, files: &mut Payload) -> Result<(), String> {
        let token = self.tokens.token(projection).ok_or("failed to fetch token: none was issued yet")?;
        let owner = security::sole_user(self.pod).and_then(|user| u32::try_from(user).ok());
        let grouped = spec::spec(self.pod).security_context.as_ref().is_some_and(|s| s.fs_group.is_some());
        let mode = if grouped || owner.is_some() { 0o600 } else { mode };
        files.insert(projection.path.clone(), File { data: token.into_bytes(), mode, owner });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kybern_api::ByteString;
    use kybern_api::core::v1::*;

    use super::*;
    use crate::pod::testing::pod;

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
    impl Tokens for Fake {
        fn token(&self, projection: &ServiceAccountTokenProjection) -> Option<String> {
            Some(format!("token for {}", projection.audience.as_deref().unwrap_or("api")))
        }
    }

    fn check(volume: Volume, expect: Result<&[(&str, &str, u32)], &str>) {
        let got = payload(&pod("p", vec![]), &volume, &Fake, &Fake, &Downward::default());
        let got = got.map(|files| {
            let files = files.unwrap().into_iter();
            files.map(|(path, f)| (path, String::from_utf8(f.data).unwrap(), f.mode)).collect::<Vec<_>>()
        });
        let expect = expect.map(|files| files.iter().map(|(p, d, m)| ((*p).to_owned(), (*d).to_owned(), *m)).collect());
        assert_eq!(got, expect.map_err(str::to_owned));
    }

    fn map(name: &str, items: Option<Vec<KeyToPath>>, optional: bool) -> Volume {
        let source =
            ConfigMapVolumeSource { name: name.into(), items, optional: Some(optional), default_mode: Some(0o640) };
        Volume { name: "v".into(), config_map: Some(source), ..Default::default() }
    }

    #[test]
    fn config_maps() {
        let item = |key: &str, path: &str| KeyToPath { key: key.into(), path: path.into(), mode: Some(0o400) };
        check(map("cm", None, false), Ok(&[("a", "1", 0o640), ("b", "2", 0o640)]));
        check(map("cm", Some(vec![item("a", "x/y")]), false), Ok(&[("x/y", "1", 0o400)]));
        check(map("cm", Some(vec![item("z", "x")]), false), Err("references non-existent config key: z"));
        check(map("cm", Some(vec![item("z", "x")]), true), Ok(&[]));
        check(map("no", None, false), Err("configmap \"no\" not found"));
        check(map("no", None, true), Ok(&[]));
        let escape = "invalid path: must not be absolute or start with or contain '..': \"a/../../x\"";
        check(map("cm", Some(vec![item("a", "a/../../x")]), false), Err(escape));
    }

    #[test]
    fn projections_are_put_together() {
        let part = |f: fn(&mut VolumeProjection)| {
            let mut part = VolumeProjection::default();
            f(&mut part);
            part
        };
        let sources = vec![
            part(|p| {
                p.service_account_token = Some(ServiceAccountTokenProjection {
                    path: "token".into(),
                    audience: Some("x".into()),
                    expiration_seconds: None,
                })
            }),
            part(|p| p.config_map = Some(ConfigMapProjection { name: "cm".into(), ..Default::default() })),
            part(|p| {
                let field_ref =
                    Some(ObjectFieldSelector { field_path: "metadata.namespace".into(), api_version: None });
                let item = DownwardAPIVolumeFile { path: "namespace".into(), field_ref, ..Default::default() };
                p.downward_api = Some(DownwardAPIProjection { items: Some(vec![item]) });
            }),
        ];
        let source = ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o444) };
        let volume = Volume { name: "v".into(), projected: Some(source), ..Default::default() };
        let expect: &[(&str, &str, u32)] =
            &[("a", "1", 0o444), ("b", "2", 0o444), ("namespace", "default", 0o444), ("token", "token for x", 0o444)];
        check(volume, Ok(expect));
    }
}
