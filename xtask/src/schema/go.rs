//! Reads the struct declarations of Go packages: field types and tags, nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// All types of the packages below a directory, by OpenAPI-style name: `io.k8s.api.core.v1.PodSpec`.
pub(super) struct Sources {
    types: BTreeMap<String, Declaration>,
}

pub(super) enum Declaration {
    Struct(Vec<Field>),
    Named(Expr),
    /// `type A = b.A`.
    Alias(String),
}

#[derive(Clone)]
pub(super) struct Field {
    /// Empty where the struct is inlined.
    pub(super) json: String,
    pub(super) inline: bool,
    pub(super) omitempty: bool,
    pub(super) omitzero: bool,
    pub(super) number: Option<u32>,
    pub(super) ty: Expr,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    Pointer(Box<Expr>),
    Slice(Box<Expr>),
    Map(Box<Expr>, Box<Expr>),
    Interface,
    /// A predeclared type: `string`, `int32`.
    Plain(String),
    /// A declared type by its OpenAPI-style name.
    Ref(String),
}

impl Sources {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut types = BTreeMap::new();
        read_directory(root, "", &mut types)?;
        Ok(Self { types })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.types.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Declaration> {
        self.types.get(self.resolve(name))
    }

    /// The declared name behind an alias.
    pub(super) fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        match self.types.get(name) {
            Some(Declaration::Alias(target)) => self.resolve(target),
            _ => name,
        }
    }
}

fn read_directory(directory: &Path, package: &str, types: &mut BTreeMap<String, Declaration>) -> Result<()> {
    let mut entries: Vec<_> = std::fs::read_dir(directory)
        .with_context(|| format!("cannot read {}", directory.display()))?
        .collect::<std::io::Result<_>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().into_string().unwrap_or_default();
        let path = entry.path();
        if path.is_dir() {
            let inner = if package.is_empty() { name } else { format!("{package}/{name}") };
            read_directory(&path, &inner, types)?;
        } else if name.ends_with(".go") && !name.contains("_test") && !name.contains("generated") {
            read_file(&std::fs::read_to_string(&path)?, package, types);
        }
    }
    Ok(())
}

/// `k8s.io/api/core/v1` as OpenAPI writes it: `io.k8s.api.core.v1`.
fn openapi_package(import: &str) -> String {
    import.replacen("k8s.io/", "io.k8s.", 1).replace('/', ".")
}

fn read_file(text: &str, package: &str, types: &mut BTreeMap<String, Declaration>) {
    let prefix = openapi_package(package);
    let mut imports = BTreeMap::new();
    let mut in_imports = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("import (") {
            in_imports = true;
        } else if in_imports || line.starts_with("import ") {
            if line == ")" {
                in_imports = false;
            }
            let mut quoted = line.split('"');
            let alias = quoted.next().unwrap_or_default().trim().trim_start_matches("import").trim();
            if let Some(path) = quoted.next() {
                let alias = if alias.is_empty() { path.rsplit('/').next().unwrap_or_default() } else { alias };
                imports.insert(alias.to_owned(), openapi_package(path));
            }
        } else if let Some(declared) = line.strip_prefix("type ") {
            let Some((name, rest)) = declared.split_once(' ') else { continue };
            let scope = Scope { prefix: &prefix, imports: &imports };
            let declaration = if rest == "struct {" {
                let fields = lines.by_ref().take_while(|l| *l != "}").filter_map(|l| scope.field(l)).collect();
                Declaration::Struct(fields)
            } else if rest == "struct{}" {
                Declaration::Struct(Vec::new())
            } else if let Some(target) = rest.strip_prefix("= ") {
                let Expr::Ref(target) = scope.expr(target) else { continue };
                Declaration::Alias(target)
            } else if rest.starts_with("interface")
                || rest.starts_with("func")
                || rest.starts_with('=')
                || name.contains('[')
            {
                continue;
            } else {
                Declaration::Named(scope.expr(rest.split_whitespace().next().unwrap_or_default()))
            };
            types.insert(format!("{prefix}.{name}"), declaration);
        }
    }
}

struct Scope<'a> {
    prefix: &'a str,
    imports: &'a BTreeMap<String, String>,
}

impl Scope<'_> {
    fn expr(&self, text: &str) -> Expr {
        if let Some(rest) = text.strip_prefix('*') {
            Expr::Pointer(Box::new(self.expr(rest)))
        } else if let Some(rest) = text.strip_prefix("[]") {
            Expr::Slice(Box::new(self.expr(rest)))
        } else if let Some((key, value)) = text.strip_prefix("map[").and_then(|r| r.split_once(']')) {
            Expr::Map(Box::new(self.expr(key)), Box::new(self.expr(value)))
        } else if text.starts_with("interface") || text == "any" {
            Expr::Interface
        } else if let Some((alias, name)) = text.split_once('.') {
            let package = self.imports.get(alias).cloned().unwrap_or_else(|| alias.to_owned());
            Expr::Ref(format!("{package}.{name}"))
        } else if matches!(
            text,
            "string"
                | "bool"
                | "int"
                | "int8"
                | "int16"
                | "int32"
                | "int64"
                | "uint"
                | "uint8"
                | "uint32"
                | "uint64"
                | "byte"
                | "float32"
                | "float64"
        ) {
            Expr::Plain(text.to_owned())
        } else {
            Expr::Ref(format!("{}.{text}", self.prefix))
        }
    }

    fn field(&self, line: &str) -> Option<Field> {
        let line = line.trim();
        if line.starts_with("//") {
            return None;
        }
        let (declaration, tags) = line.split_once('`')?;
        let tag = |key: &str| -> Option<&str> {
            let start = tags.find(&format!("{key}:\""))? + key.len() + 2;
            Some(&tags[start..start + tags[start..].find('"')?])
        };
        let mut json = tag("json")?.split(',');
        let name = json.next().unwrap_or_default();
        let flags: Vec<&str> = json.collect();
        let words: Vec<&str> = declaration.split_whitespace().collect();
        let ty = words.last()?;
        (name != "-").then(|| Field {
            json: name.to_owned(),
            inline: flags.contains(&"inline") || name.is_empty(),
            omitempty: flags.contains(&"omitempty"),
            omitzero: flags.contains(&"omitzero"),
            number: tag("protobuf").and_then(|p| p.split(',').nth(1)).and_then(|n| n.parse().ok()),
            ty: self.expr(ty),
        })
    }
}
