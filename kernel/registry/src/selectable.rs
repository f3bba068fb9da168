//! Which fields selectors may name, kind by kind: `selectable` in kernel/api/schema/resources.rows, and what definitions say.

use pintle_api::Resource;

use crate::target::SelectableField;

/// The selectable fields of a resource.
pub(crate) fn of(resource: &Resource) -> Vec<SelectableField> {
    if let Some(version) = &resource.custom {
        return version.selectable_fields().map(field).collect();
    }
    resource.facts().selectable.iter().map(|text| field(text)).collect()
}

/// `label`, `label=path` where they differ, `...|absent` where absence has a value, `...|@label` where it has that of another field. A number is the
/// place of an element of a list.
fn field(text: &str) -> SelectableField {
    let (text, absent) = text.split_once('|').unwrap_or((text, ""));
    let (label, path) = text.split_once('=').unwrap_or((text, text));
    SelectableField { label: label.to_owned(), path: path.split('.').map(str::to_owned).collect(), absent: absent.into() }
}
