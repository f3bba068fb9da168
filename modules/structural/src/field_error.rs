//! What is wrong with one field, in the form and the words of upstream's `field.Error`.

use std::fmt;

use serde_json::Value;

/// One field's failure to validate.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path of the field.
    pub path: String,
    /// What is wrong.
    pub kind: FieldErrorKind,
    /// The value that is wrong; null where the kind shows none.
    pub value: Value,
    /// What would be right, for people.
    pub detail: String,
}

/// What can be wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum FieldErrorKind {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
}

impl FieldErrorKind {
    /// metav1's word for it, as causes carry it.
    pub fn reason(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::NotFound => "FieldValueNotFound",
        }
    }

    fn words(self) -> &'static str {
        match self {
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Invalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::NotFound => "Not found",
        }
    }

    fn shows_value(self) -> bool {
        use FieldErrorKind::{Duplicate, Invalid, NotFound, NotSupported, TooMany};
        matches!(self, Invalid | NotSupported | Duplicate | NotFound | TooMany)
    }
}

impl FieldError {
    /// A failure of `kind` at `path`.
    pub fn new(path: impl fmt::Display, kind: FieldErrorKind, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError { path: path.to_string(), kind, value: value.into(), detail: detail.into() }
    }

    /// The field is missing or empty.
    pub fn required(path: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(path, FieldErrorKind::Required, Value::Null, detail)
    }

    /// The value is malformed.
    pub fn invalid(path: impl fmt::Display, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
        FieldError::new(path, FieldErrorKind::Invalid, value, detail)
    }

    /// The value is none of `supported`.
    pub fn not_supported(path: impl fmt::Display, value: impl Into<Value>, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        FieldError::new(path, FieldErrorKind::NotSupported, value, format!("supported values: {}", quoted.join(", ")))
    }

    /// The value occurs twice.
    pub fn duplicate(path: impl fmt::Display, value: impl Into<Value>) -> FieldError {
        FieldError::new(path, FieldErrorKind::Duplicate, value, "")
    }

    /// The field may not be set, or not be changed.
    pub fn forbidden(path: impl fmt::Display, detail: impl Into<String>) -> FieldError {
        FieldError::new(path, FieldErrorKind::Forbidden, Value::Null, detail)
    }

    /// The value is longer than `max` bytes.
    pub fn too_long(path: impl fmt::Display, max: usize) -> FieldError {
        FieldError::new(path, FieldErrorKind::TooLong, Value::Null, format!("may not be more than {max} bytes"))
    }

    /// The list has `actual` elements, more than `max`.
    pub fn too_many(path: impl fmt::Display, actual: usize, max: usize) -> FieldError {
        FieldError::new(path, FieldErrorKind::TooMany, actual, format!("must have at most {max} items"))
    }

    /// The failure without its path.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if self.kind.shows_value() {
            text.push_str(&format!(": {}", self.value));
        }
        if !self.detail.is_empty() {
            text.push_str(&format!(": {}", self.detail));
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}
