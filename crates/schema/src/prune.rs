//! Drops fields that a kind does not have, in place: what decoding does, for trees that are not decoded again.

use kybern_apimachinery::Value;

use crate::types::{KindType, Schema, Type};

/// Removes every field that is not in the kind's shape, except below what preserves unknown fields.
pub fn prune(kind: &KindType, object: &mut Value) {
    value(&kind.schema, &Type::Struct(kind.root), object);
}

fn value(schema: &Schema, ty: &Type, tree: &mut Value) {
    match (ty, tree) {
        (Type::Struct(id), Value::Object(object)) => {
            let shape = schema.get(*id);
            let mut unknown = false;
            for (key, child) in object.iter_mut() {
                match shape.field(key) {
                    Some(field) => value(schema, &field.ty, child),
                    None => unknown = true,
                }
            }
            if unknown && !shape.preserve_unknown {
                object.retain(|key, _| shape.field(key).is_some());
            }
        }
        (Type::List(list), Value::Array(items)) => items.iter_mut().for_each(|item| value(schema, &list.item, item)),
        (Type::Map(map), Value::Object(entries)) => entries.values_mut().for_each(|v| value(schema, &map.value, v)),
        (Type::Either(either), tree @ Value::Object(_)) => value(schema, &either.object, tree),
        (Type::Either(either), tree) => value(schema, &either.other, tree),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use kybern_apimachinery::{Gvk, json};

    use super::*;
    use crate::builtin;

    #[test]
    fn only_known_fields_stay() {
        let kind = builtin().kind(&Gvk::new("", "v1", "ConfigMap")).unwrap();
        let mut object =
            json!({"data": {"any": "x"}, "spec": 1, "metadata": {"name": "a", "labels": {"k": "v"}, "extra": {}}});
        prune(&kind, &mut object);
        assert_eq!(object, json!({"data": {"any": "x"}, "metadata": {"name": "a", "labels": {"k": "v"}}}));
    }
}
