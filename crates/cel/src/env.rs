//! Environments: which variables, types and functions an expression may use, and compiling it in one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::checker::check;
use crate::cost;
use crate::decl::{Function, Functions};
use crate::functions;
use crate::issues::Issues;
use crate::parser::parse;
use crate::plan;
use crate::program::Program;
use crate::schema::{DeclKind, DeclType};
use crate::types::Type;
use crate::validate;

/// What expressions are compiled in. Cheap to clone and to extend.
#[derive(Clone, Debug)]
pub struct Env {
    functions: Arc<Functions>,
    variables: BTreeMap<Arc<str>, Variable>,
    /// Object types by their names.
    objects: BTreeMap<Arc<str>, Arc<DeclType>>,
    /// Whether `Object{}` and `JSONPatch{}` are there.
    mutation: bool,
    /// Whether there is `cel.bind`.
    bindings: bool,
    /// What the sizes of all variables are estimated from, instead of what each is declared as.
    sizes: Option<Arc<DeclType>>,
}

#[derive(Clone, Debug)]
struct Variable {
    of: Type,
    /// What its sizes are estimated from.
    decl: Option<Arc<DeclType>>,
    /// Its fields are asked for one by one.
    lazy: bool,
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// It does not parse or check.
    Issues(Issues),
    /// A part of it that does not depend on variables fails, such as `int('a')`.
    Instantiation(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issues(issues) => issues.fmt(f),
            Self::Instantiation(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for CompileError {}

impl From<Issues> for CompileError {
    fn from(issues: Issues) -> Self {
        Self::Issues(issues)
    }
}

impl Env {
    /// The libraries of Kubernetes 1.35, and no variables.
    pub fn kubernetes() -> Self {
        Self {
            functions: functions::base(),
            variables: BTreeMap::new(),
            objects: BTreeMap::new(),
            mutation: false,
            bindings: false,
            sizes: None,
        }
    }

    /// With what expressions of mutating policies have beside: `Object{}`, `JSONPatch{}`, `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_mutation(mut self) -> Self {
        self.functions = functions::mutation();
        self.mutation = true;
        self
    }

    /// With `cel.bind(name, value, result)`, which selectors of devices have.
    #[must_use]
    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    /// With a variable of a simple type.
    #[must_use]
    pub fn with_variable(mut self, name: &str, of: Type) -> Self {
        self.variables.insert(name.into(), Variable { of, decl: None, lazy: false });
        self
    }

    /// With a variable of a declared type, whose values have that form.
    #[must_use]
    pub fn with_declared(mut self, name: &str, decl: Arc<DeclType>) -> Self {
        self.add_types(&decl);
        self.variables.insert(name.into(), Variable { of: decl.cel_type(), decl: Some(decl), lazy: false });
        self
    }

    /// With all sizes estimated as if every variable were of this type: as upstream does for rules of schemas, where there is
    /// nothing but `self`, and `self` as it was.
    #[must_use]
    pub fn with_sizes_of(mut self, decl: Arc<DeclType>) -> Self {
        self.sizes = Some(decl);
        self
    }

    /// With an object type, for the fields of variables that are declared by its name.
    #[must_use]
    pub fn with_type(mut self, decl: &Arc<DeclType>) -> Self {
        self.add_types(decl);
        self
    }

    /// With a variable whose fields are asked for one by one, as `variables` of a policy.
    #[must_use]
    pub fn with_lazy(mut self, name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Self {
        let type_name = format!("kubernetes.{name}");
        let fields: Vec<(String, Type)> = fields.into_iter().collect();
        self.variables.insert(name.into(), Variable { of: Type::object(&type_name), decl: None, lazy: true });
        let empty = DeclType::object(&type_name, []);
        self.objects.insert(type_name.as_str().into(), Arc::new(empty));
        for (field, of) in fields {
            self = self.with_lazy_field(name, &field, of);
        }
        self
    }

    /// With one more field of such a variable.
    #[must_use]
    pub fn with_lazy_field(mut self, name: &str, field: &str, of: Type) -> Self {
        self.variables.insert(format!("{name}.{field}\0").into(), Variable { of, decl: None, lazy: false });
        self
    }

    fn add_types(&mut self, decl: &Arc<DeclType>) {
        match &decl.kind {
            DeclKind::Object { name, fields } => {
                self.objects.insert(name.clone(), decl.clone());
                fields.values().for_each(|field| self.add_types(&field.of));
            }
            DeclKind::List { element, .. } => self.add_types(element),
            DeclKind::Map { value } => self.add_types(value),
            _ => {}
        }
    }

    /// Compiles an expression to what can be evaluated, any number of times and at once.
    pub fn compile(&self, text: &str) -> Result<Program, CompileError> {
        let parsed = parse(text, self.bindings)?;
        let (checked, places) = check(self, text, parsed)?;
        validate::validate(text, &checked, &places)?;
        let estimate = cost::estimate(self, &checked);
        plan::plan(self, &checked, estimate).map_err(|e| CompileError::Instantiation(e.to_string()))
    }

    pub(crate) fn variable_type(&self, name: &str) -> Option<(&Arc<str>, &Type)> {
        self.variables.get_key_value(name).map(|(name, variable)| (name, &variable.of))
    }

    /// What the sizes of a variable are estimated from.
    pub(crate) fn variable_decl(&self, name: &str) -> Option<&Arc<DeclType>> {
        self.sizes.as_ref().or_else(|| self.variables.get(name)?.decl.as_ref())
    }

    pub(crate) fn is_lazy(&self, name: &str) -> bool {
        self.variables.get(name).is_some_and(|v| v.lazy)
    }

    pub(crate) fn function(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// The type that a name stands for as a value.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        Some(match name {
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "double" => Type::Double,
            "google.protobuf.Duration" => Type::Duration,
            "google.protobuf.Timestamp" => Type::Timestamp,
            "int" => Type::Int,
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "null_type" => Type::Null,
            "string" => Type::String,
            "type" => Type::Type(None),
            "uint" => Type::Uint,
            "optional_type" => Type::optional(Type::Dyn),
            "net.IP" | "net.CIDR" => Type::opaque(name),
            name if self.objects.contains_key(name) => Type::object(name),
            "JSONPatch" if self.mutation => Type::object(name),
            name if self.mutation && is_object_type(name) => Type::object(name),
            _ => return None,
        })
    }

    /// The type of a field of an object type; else whether the object type is known.
    pub(crate) fn field_type(&self, object: &str, field: &str) -> Result<Type, bool> {
        if self.mutation && is_object_type(object) {
            return Ok(Type::Dyn);
        }
        if self.mutation && object == "JSONPatch" {
            return match field {
                "op" | "path" | "from" => Ok(Type::String),
                "value" => Ok(Type::Dyn),
                _ => Err(true),
            };
        }
        let decl = self.objects.get(object).ok_or(false)?;
        let DeclKind::Object { fields, .. } = &decl.kind else { return Err(true) };
        // A word that is reserved may be written as it is where it follows a dot.
        let found = fields.get(field).or_else(|| fields.get(&format!("__{field}__")));
        if let Some(found) = found {
            return Ok(found.of.cel_type());
        }
        let variable = object.strip_prefix("kubernetes.").unwrap_or(object);
        let lazy = self.variables.get(format!("{variable}.{field}\0").as_str());
        lazy.map(|v| v.of.clone()).ok_or(true)
    }
}

/// `Object`, and `Object.spec` and the like, which mutating policies construct.
fn is_object_type(name: &str) -> bool {
    name == "Object" || name.starts_with("Object.")
}
