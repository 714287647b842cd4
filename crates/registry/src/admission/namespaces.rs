//! The namespaces as they are stored, for those who choose by their labels or show them to expressions.

use std::collections::HashMap;
use std::sync::Arc;

use kybern_apimachinery::Value;
use kybern_apiserver::connect::Observer;
use parking_lot::RwLock;

#[derive(Default)]
pub(crate) struct NamespaceObjects(RwLock<HashMap<String, Arc<Value>>>);

impl NamespaceObjects {
    pub(super) fn get(&self, name: &str) -> Option<Arc<Value>> {
        self.0.read().get(name).cloned()
    }
}

impl Observer for NamespaceObjects {
    fn observes(&self) -> &'static [(&'static str, &'static str)] {
        &[("", "namespaces")]
    }

    fn changed(&self, _group: &str, _resource: &str, _namespace: &str, name: &str, object: Option<&Value>) {
        let mut all = self.0.write();
        match object {
            Some(namespace) => drop(all.insert(name.to_owned(), Arc::new(namespace.clone()))),
            None => drop(all.remove(name)),
        }
    }
}
