//! The JSON schema of the file, made from the types of `raw`.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::raw::RawFile;

/// The JSON Schema (2020-12) of the configuration file, for editors and for `tokenward schema`. It lists exactly the
/// keys that work.
#[must_use]
pub fn schema() -> String {
    format!("{:#}", root())
}

/// The schema as a value; files are checked against this very one.
pub(super) fn root() -> Value {
    let generator = SchemaSettings::draft2020_12().into_generator();
    let mut root = generator.into_root_schema_for::<RawFile>().to_value();
    without_null(&mut root);
    root
}

/// Takes `null` out: fields are `Option` because a refused value leaves a hole, not because `null` may be written.
fn without_null(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            object.get_mut("type").into_iter().for_each(single_type);
            if let Some(only) = only_alternative(object) {
                object.remove("anyOf");
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
        }
        _ => {}
    }
}

/// `["string", "null"]` to `"string"`.
fn single_type(types: &mut Value) {
    let Value::Array(list) = types else { return };
    list.retain(|t| t != "null");
    if let [only] = list.as_slice() {
        *types = only.clone();
    }
}

/// What stays of `anyOf: [X, null]`; the `null` is taken out on the way.
fn only_alternative(object: &mut Map<String, Value>) -> Option<Map<String, Value>> {
    let list = object.get_mut("anyOf")?.as_array_mut()?;
    list.retain(|s| s.get("type").is_none_or(|t| t != "null"));
    match list.as_slice() {
        [Value::Object(only)] => Some(only.clone()),
        _ => None,
    }
}
