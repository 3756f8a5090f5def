//! As much of JSON Schema (2020-12) as the admin API's document uses. A keyword that is not known here fails the test.

use serde_json::Value;

/// What a document does not keep of a schema; empty where it fits. `root` is where references lead.
pub(crate) fn misfits(root: &Value, schema: &Value, document: &Value, at: &str) -> Vec<String> {
    let schema = schema
        .as_object()
        .unwrap_or_else(|| panic!("{at}: no schema"));
    let mut found = Vec::new();
    for (keyword, says) in schema {
        let fits = match keyword.as_str() {
            "$ref" => {
                let pointer = says.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root.pointer(pointer).expect("a reference leads somewhere");
                found.extend(misfits(root, target, document, at));
                true
            }
            "type" => match says {
                Value::Array(many) => many.iter().any(|one| is(document, one)),
                one => is(document, one),
            },
            "enum" => says.as_array().unwrap().contains(document),
            // Of what is no object nothing is required; `type` says whether it may be none.
            "required" if !document.is_object() => true,
            "required" => says
                .as_array()
                .unwrap()
                .iter()
                .all(|name| document.get(name.as_str().unwrap()).is_some()),
            "properties" => {
                for (name, inner) in says.as_object().unwrap() {
                    if let Some(value) = document.get(name) {
                        found.extend(misfits(root, inner, value, &format!("{at}.{name}")));
                    }
                }
                true
            }
            "additionalProperties" => {
                let known = schema.get("properties");
                let more = document.as_object().into_iter().flatten();
                let more = more.filter(|(name, _)| known.is_none_or(|k| k.get(*name).is_none()));
                for (name, value) in more {
                    match says {
                        Value::Bool(false) => found.push(format!("{at}.{name} is not described")),
                        inner => {
                            found.extend(misfits(root, inner, value, &format!("{at}.{name}")));
                        }
                    }
                }
                true
            }
            "items" => {
                for (i, value) in document.as_array().into_iter().flatten().enumerate() {
                    found.extend(misfits(root, says, value, &format!("{at}[{i}]")));
                }
                true
            }
            "description" => true,
            other => panic!("{at}: the keyword {other} is not known here"),
        };
        if !fits {
            found.push(format!("{at}: {keyword} says {says}, there is {document}"));
        }
    }
    found
}

fn is(document: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "array" => document.is_array(),
        "boolean" => document.is_boolean(),
        "integer" => document.is_i64() || document.is_u64(),
        "null" => document.is_null(),
        "object" => document.is_object(),
        "string" => document.is_string(),
        other => panic!("the type {other} is not known here"),
    }
}
