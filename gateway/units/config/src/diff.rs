//! What changed from one configuration to the next.

use serde_json::Value;
use sluice_vocabulary::fault::Path;

/// One place where two configurations differ.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Where.
    pub path: Path,
    /// How.
    pub kind: ChangeKind,
}

/// How a place differs.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeKind {
    /// It is there now.
    Added(Value),
    /// It is there no longer.
    Removed(Value),
    /// It has another value.
    Changed {
        /// What it was.
        from: Value,
        /// What it is.
        to: Value,
    },
}

/// The differences, smallest places first to be reached, in the order of the first. A list is compared element by element
/// where both have the same length, and as a whole otherwise: an insertion is then one change, not one per element after it.
pub fn diff(from: &Value, to: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(from, to, &Path::root(), &mut changes);
    changes
}

fn compare(from: &Value, to: &Value, at: &Path, changes: &mut Vec<Change>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                match after.get(key) {
                    Some(now) => compare(value, now, &at.key(key), changes),
                    None => changes.push(Change { path: at.key(key), kind: ChangeKind::Removed(value.clone()) }),
                }
            }
            for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                changes.push(Change { path: at.key(key), kind: ChangeKind::Added(value.clone()) });
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (value, now)) in before.iter().zip(after).enumerate() {
                compare(value, now, &at.index(index), changes);
            }
        }
        _ => {
            let kind = ChangeKind::Changed { from: from.clone(), to: to.clone() };
            changes.push(Change { path: at.clone(), kind });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_is_named_by_its_smallest_place() {
        let from = json!({ "a": 1, "b": { "c": [1, 2], "gone": true }, "d": [1] });
        let to = json!({ "a": 1, "b": { "c": [1, 3] }, "d": [1, 2], "e": null });
        let told: Vec<String> = diff(&from, &to)
            .into_iter()
            .map(|change| {
                let how = match change.kind {
                    ChangeKind::Added(_) => "added",
                    ChangeKind::Removed(_) => "removed",
                    ChangeKind::Changed { .. } => "changed",
                };
                format!("{} {how}", change.path)
            })
            .collect();
        assert_eq!(told, ["b.c[1] changed", "b.gone removed", "d changed", "e added"]);
    }

    #[test]
    fn the_order_of_keys_is_no_difference() {
        assert!(diff(&json!({ "a": 1, "b": 2 }), &json!({ "b": 2, "a": 1 })).is_empty());
    }
}
